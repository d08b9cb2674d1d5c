"""A network of a user's own, small enough for a step in milliseconds: `tests.small_network:Small`."""

from dataclasses import dataclass

from torch import Tensor, nn

from distseg.config import ModelConfig
from distseg.models import Blocks, Logits, SegmentationModel


@dataclass(frozen=True, kw_only=True)
class Small(ModelConfig):
    """Two convolutions, dropout after each."""

    has_norm: bool = False

    def build(self, num_classes: int, *, aux: bool) -> SegmentationModel:
        return SmallNet(self, num_classes)


class SmallNet(SegmentationModel):
    output_stride = 4

    def __init__(self, options: Small, num_classes: int) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(16) if options.has_norm else nn.Identity()
        self.backbone = Blocks(nn.Conv2d(3, 16, 7, 4, 3), norm, nn.ReLU(), nn.Dropout2d(options.dropout))
        self.head = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(16, num_classes, 1))

    def forward(self, images_B3HW: Tensor) -> Logits:
        return Logits(self.head(self.backbone(images_B3HW)), None)
