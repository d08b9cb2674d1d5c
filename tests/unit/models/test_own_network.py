"""A user's own network, named `module:Class` on the command line, is trained like those of distseg."""

import json
from dataclasses import replace
from pathlib import Path

from distseg.config import CheckpointConfig, RunConfig, to_dict
from tests import programs

NETWORK = '''
from dataclasses import dataclass

from torch import Tensor, nn

from distseg.config import ModelConfig
from distseg.models import Logits, SegmentationModel


@dataclass(frozen=True, kw_only=True)
class Tiny(ModelConfig):
    """One convolution."""

    channels: int = 8
    """Between the convolution and the classifier."""

    def build(self, num_classes: int, *, aux: bool) -> SegmentationModel:
        return TinyNet(self, num_classes)


class TinyNet(SegmentationModel):
    output_stride = 4

    def __init__(self, options: Tiny, num_classes: int) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, options.channels, 7, stride=4, padding=3)
        self.classifier = nn.Conv2d(options.channels, num_classes, 1)

    def forward(self, images_B3HW: Tensor) -> Logits:
        return Logits(self.classifier(self.backbone(images_B3HW).relu()), None)
'''


def test_it_trains_and_is_listed_from_the_working_directory(tmp_path: Path, tiny_config: RunConfig) -> None:
    (tmp_path / "my_nets.py").write_text(NETWORK)
    optim, place = replace(tiny_config.optim, max_steps=2), CheckpointConfig(uri="checkpoints")
    (tmp_path / "base.json").write_text(json.dumps(to_dict(replace(tiny_config, optim=optim, checkpoint=place))))
    options = ("--model.name", "my_nets:Tiny", "--model.channels", "4", "--loss.aux_weight", "0")
    trained = programs.run(tmp_path, programs.alone(), "distseg.train", "--config", "base.json", *options)
    assert trained.code == 0, trained.err
    (saved,) = (tmp_path / "checkpoints").glob("*/config.json")
    assert json.loads(saved.read_text())["model"] == {
        "name": "my_nets:Tiny",
        "pretrained": None,
        "dropout": 0.1,
        "checkpointing": False,
        "channels": 4,
    }
    rows = programs.run(tmp_path, programs.plain_environment(), "distseg.models", "--only", "my_nets:Tiny")
    assert rows.code == 0, rows.err
    assert "my_nets:Tiny" in rows.out
