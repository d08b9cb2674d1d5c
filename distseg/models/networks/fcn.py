"""FCN-32s, -16s and -8s on VGG16 (Long et al. 2015), and the dilated FCN on a ResNet (Zhao et al. 2017, table 1)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.config import ModelConfig, require
from distseg.models.backbones import VGG16, VGG16_WIDTHS, load_backbone
from distseg.models.layers import Logits, SegmentationModel, crop_like
from distseg.models.networks import pspnet
from distseg.models.networks._options import BackboneOptions


@dataclass(frozen=True, kw_only=True)
class Options(BackboneOptions):
    """FCN-8s, -16s or -32s (Long et al. 2015) on VGG16; on a ResNet the dilated FCN, which is PSPNet without bins."""

    fcn_stride: Literal[8, 16, 32] = 8
    """On VGG16: FCN-8s, -16s or -32s."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unused = ("stem", "dilations") if self.is_on_vgg else ("fcn_stride",)
        remedy = f"{self.name} on {self.backbone} has no such option; leave it out"
        for spec in fields(self):
            value = getattr(self, spec.name)
            require(spec.name not in unused or value == spec.default, f"model.{spec.name}", value, remedy)

    @property
    def is_on_vgg(self) -> bool:
        return self.backbone.startswith("vgg16")

    @property
    def has_aux_head(self) -> bool:
        return not self.is_on_vgg

    @classmethod
    def variants(cls) -> dict[str, ModelConfig]:
        return {
            "fcn-32s vgg16": cls(backbone="vgg16", fcn_stride=32),
            "fcn-16s vgg16": cls(backbone="vgg16", fcn_stride=16),
            "fcn-8s vgg16": cls(backbone="vgg16"),
            "fcn resnet50": cls(backbone="resnet50"),
        }

    def build(self, num_classes: int, *, aux: bool) -> SegmentationModel:
        if self.is_on_vgg:
            return FCN(self, num_classes)
        options = pspnet.Options(
            bins=(), backbone=self.backbone, stem=self.stem, dilations=self.dilations, dropout=self.dropout
        )
        return pspnet.PSPNet(options, num_classes, aux=aux)


FC_CHANNELS = 4096
SKIPPED = {32: (), 16: (3,), 8: (3, 2)}  # output stride -> stages whose scores are added, deepest first


class FCN(SegmentationModel):
    """FCN-32s, -16s or -8s: VGG16 as convolutions, and scores of shallower stages added to upsampled deeper ones.

    Deconvolutions between the scores are learned and start as bilinear interpolation (section 4.3); the last upsampling
    is bilinear and outside, as everywhere here. fc6 keeps the size by padding 3 where the authors pad the image by 100;
    it and fc7 start random even with ImageNet's weights.
    134.4M parameters at 21 classes, most of them in fc6, as in the paper's table 1 (134M for FCN-VGG16).
    """

    exported_multiple = 32

    def __init__(self, config: Options, num_classes: int) -> None:
        super().__init__()
        self.backbone = VGG16(has_bn=config.backbone == "vgg16_bn")
        self.output_stride = config.fcn_stride
        self.skipped = SKIPPED[config.fcn_stride]
        self.fc6 = nn.Conv2d(VGG16_WIDTHS[-1], FC_CHANNELS, 7, padding=3)
        self.fc7 = nn.Conv2d(FC_CHANNELS, FC_CHANNELS, 1)
        self.dropout = nn.Dropout2d(config.dropout)
        self.score = nn.Conv2d(FC_CHANNELS, num_classes, 1)
        self.skip_scores = nn.ModuleList(nn.Conv2d(VGG16_WIDTHS[stage], num_classes, 1) for stage in self.skipped)
        self.upsamplings = nn.ModuleList(_bilinear_deconvolution(num_classes) for _ in self.skipped)

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        load_backbone(self.backbone, state)

    def forward(self, images_B3HW: Tensor) -> Logits:
        stages = self.backbone(images_B3HW)
        x = self.dropout(F.relu(self.fc6(stages[-1])))
        x = self.dropout(F.relu(self.fc7(x)))
        scores_BKhw = self.score(x)
        for stage, score, upsampling in zip(self.skipped, self.skip_scores, self.upsamplings, strict=True):
            skip_BKhw = score(stages[stage])
            scores_BKhw = crop_like(upsampling(scores_BKhw), skip_BKhw) + skip_BKhw
        return Logits(scores_BKhw, None)


def _bilinear_deconvolution(num_classes: int) -> nn.ConvTranspose2d:
    """Twice the size; starts as bilinear interpolation of each class by itself."""
    deconvolution = nn.ConvTranspose2d(num_classes, num_classes, 4, stride=2, padding=1, bias=False)
    tent_4 = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        deconvolution.weight.copy_(torch.eye(num_classes)[:, :, None, None] * torch.outer(tent_4, tent_4))
    return deconvolution
