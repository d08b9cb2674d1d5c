"""The mean of several checkpoints' weights: what it is, what is refused, and that `export --average` writes it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distseg import export
from distseg.config import RunConfig, model_config, recipes
from distseg.data.sample import LabelSpace
from distseg.errors import CheckpointError
from distseg.models import build_model
from distseg.training import checkpoint
from tests.unit.training.test_checkpoint import example


def test_what_is_evaluated_is_averaged_and_counters_are_the_firsts() -> None:
    first = example(model={"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}, metrics={"val/mIoU": 0.5})
    other = example(model=first.model, averaged={"w": torch.tensor([3.0, 2.0]), "n": torch.tensor(5)})
    mean = checkpoint.mean_of({"a": first, "b": other, "c": first})
    assert torch.equal(mean.evaluated["w"], torch.tensor([5 / 3, 2.0])) and mean.evaluated["w"].dtype == torch.float32
    assert mean.evaluated["n"] == 3
    assert (mean.step, mean.metrics, mean.tables, mean.averaged) == (first.step, {}, {}, {})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"config": RunConfig(model=model_config("pspnet", bins=(1, 2)))},
            r"model.bins = .1, 2. is another than in a;",
        ),
        ({"label_space": LabelSpace(name="two", classes=("road", "car"), palette=((1, 2, 3), (4, 5, 6)))}, "other cl"),
        ({"model": {"weight": torch.zeros(7)}}, "its weights have other shapes than in a; average checkpoints that"),
        ({"source_style": {"mean": torch.zeros(1)}}, "style.direction = to_source cannot be averaged"),
    ],
)
def test_others_than_those_of_one_network_are_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=f"^b: .*{says}"):
        checkpoint.mean_of({"a": example(), "b": example(**changed)})


def test_the_file_of_an_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipes.RECIPES["enet_camvid"]()
    uris = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = build_model(config.model, num_classes=2).state_dict()
        uris.append(str(tmp_path / f"{seed}.pt"))
        Path(uris[-1]).write_bytes(checkpoint.as_one_file(replace(example(), config=config, model=state)))
    out = str(tmp_path / "mean.pt")
    assert export.main(["--checkpoint", uris[0], "--average", uris[1], "--format", "weights", "--out", out]) == 0
    assert " + ".join(uris) in capsys.readouterr().out
    (_, mean), (_, first), (_, other) = (checkpoint.resolve(uri) for uri in (out, *uris))
    for name, value in mean.evaluated.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (first.evaluated[name] + other.evaluated[name]) / 2)
