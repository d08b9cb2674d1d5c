"""Which images become pictures: the same on any number of ranks and in any order, each evaluation; never too many."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from distseg.config import EvaluateConfig, OptimConfig, RunConfig
from distseg.data.loading import EvalSample
from distseg.errors import ConfigError
from distseg.evaluation import World
from distseg.evaluation.metrics import class_counts, confusion_matrix
from distseg.evaluation.pictures import panels
from distseg.evaluation.pictures.overlays import (
    MAX_OVERLAYS,
    Overlay,
    Overlays,
    all_gather_bytes,
    overlay_pictures,
    overlays_from_tensors,
    overlays_to_tensors,
)
from distseg.training import checkpoint, train_run
from tests import ranks
from tests.conftest import free_port
from tests.unit.reviews import LABELS

SIDE = 10
LEVELS_hw = torch.full((-(-SIDE // 3), -(-SIDE // 3)), 239, dtype=torch.uint8)  # as sure as can be


def sample(condition: str, number: int, *, void: bool = False) -> EvalSample:
    label_HW = torch.full((SIDE, SIDE), 255 if void else 0, dtype=torch.uint8)
    image_3HW = torch.full((3, SIDE, SIDE), number, dtype=torch.uint8)
    return EvalSample(image_3HW, label_HW, f"val/{condition}/{number:03d}", condition, "town")


def show(overlays: Overlays, samples: Sequence[EvalSample]) -> None:
    """Image `number` has as many wrong pixels."""
    for seen in samples:
        prediction_HW = torch.zeros(SIDE, SIDE, dtype=torch.int64)
        prediction_HW.view(-1)[: int(seen.key[-3:])] = 1
        counts_3K = class_counts(confusion_matrix(prediction_HW, seen.label_HW, 3))
        overlays.update(seen, prediction_HW, counts_3K, LEVELS_hw)


def seen(samples: Sequence[EvalSample], per_condition: int = 2) -> list[Overlay]:
    overlays = Overlays([s.condition for s in samples], LABELS.palette, per_condition)
    show(overlays, samples)
    return overlays.gathered(World())


SAMPLES = [sample(condition, number) for condition in ("night", "dawn") for number in range(20)]


def test_the_worst_are_those_of_the_lowest_iou_and_the_fixed_those_of_the_lowest_hash() -> None:
    found = seen(SAMPLES)
    assert [(o.kind, o.condition) for o in found] == [
        (kind, condition) for kind in ("fixed", "worst") for condition in ("dawn", "night") for _ in range(2)
    ]
    worst = [o for o in found if (o.kind, o.condition) == ("worst", "night")]
    assert [o.key for o in worst] == ["val/night/019", "val/night/018"]
    assert [o.iou for o in worst] == [pytest.approx(0.81), pytest.approx(0.82)]
    keys = sorted((f"val/dawn/{n:03d}" for n in range(20)), key=lambda key: hashlib.sha256(key.encode()).digest())
    assert [o.key for o in found if (o.kind, o.condition) == ("fixed", "dawn")] == keys[:2]
    assert all(o.jpeg.startswith(b"\xff\xd8") and len(o.jpeg) <= panels.MAX_JPEG_BYTES for o in found)


def test_neither_the_order_nor_what_else_is_evaluated_matters() -> None:
    assert seen(SAMPLES[::-1]) == seen(SAMPLES)
    assert seen(SAMPLES[20:]) == [o for o in seen(SAMPLES) if o.condition == "dawn"]


def test_an_image_of_void_alone_is_never_among_the_worst() -> None:
    found = seen([sample("fog", 0, void=True), sample("fog", 1)])
    assert [o.key for o in found if o.kind == "worst"] == ["val/fog/001"]
    assert {o.key: o.iou for o in found if o.kind == "fixed"} == {
        "val/fog/000": None,
        "val/fog/001": pytest.approx(0.99),
    }


def _one_rank(rank: int, num_ranks: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    world = World(rank, num_ranks)
    overlays = Overlays([s.condition for s in SAMPLES], LABELS.palette, 2)
    show(overlays, SAMPLES[rank::num_ranks])
    found = overlays.gathered(world)
    parts = all_gather_bytes([b"" if rank else b"zero", b"one" if rank else b"", b""], world)
    text = json.dumps([[o.key, o.jpeg.hex()] for o in found] + [part.decode() for part in parts])
    Path(folder, str(rank)).write_text(text)
    dist.destroy_process_group()


def test_two_ranks_agree_on_the_pictures_of_one(tmp_path: Path) -> None:
    ranks.start_ranks(_one_rank, (2, free_port(), str(tmp_path)), 2)
    expected = [[o.key, o.jpeg.hex()] for o in seen(SAMPLES)] + ["zero", "one", ""]
    for rank in range(2):
        assert json.loads((tmp_path / str(rank)).read_text()) == expected


def test_of_many_conditions_fewer_pictures_are_made_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        few = Overlays([f"c{n}" for n in range(64)], LABELS.palette, 8)
        many = Overlays([f"c{n:03d}" for n in range(300)], LABELS.palette, 2)
    assert few.count == MAX_OVERLAYS // 2 // 64
    assert (many.count, len(many.conditions)) == (1, MAX_OVERLAYS // 2)
    assert len(caplog.messages) == 2 and "300 conditions would make more than 256 pictures" in caplog.messages[1]
    caplog.clear()
    assert Overlays(["dawn"], LABELS.palette, 0).count == 0
    assert not caplog.messages


def test_pictures_have_a_name_each_and_survive_a_checkpoint() -> None:
    found = seen([*SAMPLES, sample("night-2", 0)])
    assert overlays_from_tensors(overlays_to_tensors(found)) == found
    named = overlay_pictures({"overlays": overlays_to_tensors(found)})
    assert list(named) == ["overlay/dawn", "overlay/dawn 2", "overlay/night", "overlay/night 2", "overlay/night-2"]
    assert list(named.values()) == [o.jpeg for o in found if o.kind == "fixed"]
    assert overlay_pictures({}) == {}


def test_every_evaluation_shows_the_same_images_and_none_if_none_are_asked_for(
    tiny_config: RunConfig, tmp_path: Path
) -> None:
    config = replace(tiny_config, optim=OptimConfig(max_steps=2), evaluate=EvaluateConfig(every_steps=1))
    config = replace(config, precision="fp32")
    recorder = ranks.Recorder(tmp_path)
    train_run(config, World(), recorder)
    found = [checkpoint.read(f.uri) for f in checkpoint.found_in(str(tmp_path))]
    fixed = [[o.key for o in overlays_from_tensors(s.evaluation["overlays"]) if o.kind == "fixed"] for s in found]
    assert len(fixed) == 2 and fixed[0] == fixed[1] and len(fixed[0]) == 18
    assert recorder.drawn == {s.step: overlay_pictures(s.evaluation) for s in found}
    assert recorder.drawn[1].keys() == recorder.drawn[2].keys()
    assert b"JFIF" not in checkpoint.as_one_file(found[0])  # photographs are not handed on with the weights

    without = ranks.Recorder()
    once = replace(config, optim=OptimConfig(max_steps=1), evaluate=EvaluateConfig(overlays_per_condition=0))
    train_run(once, World(), without)
    assert without.drawn == {1: {}}
    with pytest.raises(ConfigError, match=r"overlays_per_condition = 9: must be in \[0, 8\]"):
        EvaluateConfig(overlays_per_condition=9)
