"""Self-training and Fourier adaptation in training: target labels unused, any number of ranks, exact resume."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distseg.config import AdaptConfig, CheckpointConfig, EvaluateConfig, RunConfig
from distseg.data import IGNORE_INDEX, LabelledImage, Sample
from distseg.data.datasets import town
from distseg.data.shards import pack
from distseg.errors import ConfigError, DataError
from distseg.evaluation import World
from distseg.training import checkpoint, train_run
from distseg.training.optim import LossScale
from distseg.training.segmentation import Segmentation
from distseg.training.trainer import check_run
from tests import ranks
from tests.unit.training.test_fit import losses

TARGETS = ("night", "winter")
ADAPT = AdaptConfig(
    conditions=TARGETS, fourier=0.1, weight=1.0, threshold=0.1, jitter=0.2, masked_weight=0.5, mask_px=8, start_step=1
)


def adapting(config: RunConfig) -> RunConfig:
    return replace(
        config,
        adapt=ADAPT,
        data=replace(config.data, batch_size=4, train_conditions=("dawn",), val_conditions=("night",)),
        optim=replace(config.optim, max_steps=4, ema_decay=0.9),
    )


@pytest.fixture
def adapt_config(small_config: RunConfig) -> RunConfig:
    """With dropout, without batch norm: steps of milliseconds."""
    return adapting(small_config)


def weights_of(config: RunConfig) -> dict[str, torch.Tensor]:
    trained = train_run(config, World(), ranks.Recorder())
    assert isinstance(trained, Segmentation) and trained.averaged is not None
    return {**trained.model.state_dict(), **{f"mean {k}": v for k, v in trained.averaged.module.state_dict().items()}}


def test_two_ranks_adapt_as_one_in_fp64(light_config: RunConfig) -> None:
    config = adapting(light_config)
    one, two = ranks.train(config, 1), ranks.train(config, 2)
    assert (losses(one) - losses(two)).abs().max() < 1e-8
    for name in ("train/mixed_loss", "train/masked_loss", "train/pseudo_quality"):
        assert all(abs(one[step][name] - two[step][name]) < 1e-8 for step in range(1, 5))
        assert one[1][name] == 0 < one[2][name], "from adapt.start_step on"
    figures = {name: value for name, value in one[4].items() if name.startswith("target/")}
    assert figures.keys() == {f"target/{name}" for name in ("certainty", "information", "agreement", "class_ratios")}
    assert figures == pytest.approx({name: two[4][name] for name in figures}, abs=1e-12)
    assert all(0 < value < 1 for value in figures.values())


def test_in_fp16_it_learns_what_it_does_in_fp32(adapt_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LossScale, "FIRST", 2.0**8)  # no step overflows
    config = replace(adapt_config, adapt=replace(ADAPT, weight=4.0))
    before = Segmentation(config, World()).model.state_dict()
    exact, half = (weights_of(replace(config, precision=precision)) for precision in ("fp32", "fp16"))
    moved, apart = (
        sum(float((exact[name] - other[name]).square().sum()) for name in before) for other in (before, half)
    )
    assert 0 < apart < 0.03**2 * moved


def test_a_stopped_adaptation_goes_on_exactly(adapt_config: RunConfig, tmp_path: Path) -> None:
    config = replace(adapt_config, checkpoint=CheckpointConfig(every_steps=2))
    whole = weights_of(config)
    with pytest.raises(ranks.StoppedError):
        train_run(config, World(), ranks.Recorder(tmp_path, stop_at=2))
    halfway = checkpoint.newest(str(tmp_path))
    assert halfway is not None and halfway[1].step == 2
    resumed = train_run(config, World(), ranks.Recorder(), resume=halfway[1])
    assert isinstance(resumed, Segmentation)
    for name, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, whole[name], rtol=1e-12, atol=1e-12)


def test_the_labels_of_the_target_conditions_are_never_used(adapt_config: RunConfig, tmp_path: Path) -> None:
    labelled = packed_targets(tmp_path / "labelled", lambda sample: sample)
    stripped = packed_targets(tmp_path / "stripped", without_labels)
    first, second = (weights_of(replace(adapt_config, adapt=replace(ADAPT, uri=uri))) for uri in (labelled, stripped))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    plain = replace(adapt_config, adapt=AdaptConfig())
    assert any(not torch.equal(first[name], value) for name, value in weights_of(plain).items())


def packed_targets(folder: Path, changed: Callable[[Sample], Sample]) -> str:
    samples: Iterable[Sample] = town.samples("train", num_frames=36, size=(64, 96))
    pack({"train": (changed(s) for s in samples if s.condition in TARGETS)}, town.LABELS, str(folder), dataset="town")
    return str(folder)


def without_labels(sample: Sample) -> Sample:
    def load() -> LabelledImage:
        image = sample.load()
        return image._replace(label_HW=np.full_like(image.label_HW, IGNORE_INDEX))

    return replace(sample, load=load)


def test_a_target_that_is_not_there_is_refused_before_the_first_step(adapt_config: RunConfig) -> None:
    with pytest.raises(DataError, match="no condition 'dusk' in split 'train'"):
        check_run(replace(adapt_config, adapt=replace(ADAPT, conditions=("dusk",))))


def test_fields_that_need_each_other_say_so(light_config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"adapt.conditions = \('night',\): needs adapt.weight"):
        AdaptConfig(conditions=("night",))
    with pytest.raises(ConfigError, match=r"adapt.conditions = .*: name the conditions to adapt to"):
        AdaptConfig(weight=1.0)
    with pytest.raises(ConfigError, match=r"adapt.masked_weight = 1.0: needs adapt.weight"):
        AdaptConfig(conditions=TARGETS, fourier=0.1, masked_weight=1.0)
    with pytest.raises(ConfigError, match=r"optim.ema_decay = None: adapt.weight needs it"):
        replace(light_config, adapt=ADAPT)
    by_agreement = CheckpointConfig(best_by="target/agreement")
    with pytest.raises(ConfigError, match=r"checkpoint.best_by = 'target/agreement': needs evaluate.targets"):
        replace(light_config, checkpoint=by_agreement)
    with pytest.raises(ConfigError, match=r"checkpoint.best_by = 'target/agreement': needs optim.ema_decay"):
        replace(light_config, checkpoint=by_agreement, evaluate=EvaluateConfig(targets=("night",)))
