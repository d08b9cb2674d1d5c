"""A user's own network, named `module:Class` on the command line, is trained like those of distseg."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distseg import train
from distseg.config import CheckpointConfig, RunConfig, to_dict
from distseg.models import __main__ as models

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


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_nets.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    return tmp_path


def test_it_trains_and_is_listed_from_the_working_directory(
    working_directory: Path, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: `test_user_modules` names one to real ones."""
    optim, place = replace(tiny_config.optim, max_steps=2), CheckpointConfig(uri="checkpoints")
    Path("base.json").write_text(json.dumps(to_dict(replace(tiny_config, optim=optim, checkpoint=place))))
    options = ("--model.name", "my_nets:Tiny", "--model.channels", "4", "--loss.aux_weight", "0")
    monkeypatch.setenv("RANK", "0")  # without Ray
    assert train.main(["--config", "base.json", *options]) == 0
    (saved,) = working_directory.glob("checkpoints/*/config.json")
    assert json.loads(saved.read_text())["model"] == {
        "name": "my_nets:Tiny",
        "pretrained": None,
        "dropout": 0.1,
        "checkpointing": False,
        "channels": 4,
    }
    capsys.readouterr()
    assert models.main(["--only", "my_nets:Tiny"]) == 0
    assert "my_nets:Tiny" in capsys.readouterr().out
