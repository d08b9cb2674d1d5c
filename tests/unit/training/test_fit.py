"""The training loop: one answer for any number of ranks, exact resume, NaN stops, what may not change on resume."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distseg.config import CheckpointConfig, RunConfig, Sampling
from distseg.data.datasets import town
from distseg.data.shards import pack
from distseg.errors import ConfigError, DataError, TrainingError
from distseg.evaluation import World
from distseg.training import checkpoint
from distseg.training.checkpoint import check_same_run
from distseg.training.data_selection import select_data
from distseg.training.losses import class_weights
from distseg.training.segmentation import Segmentation, loss_of
from distseg.training.trainer import train_run
from tests import ranks


def losses(logged: dict[int, dict[str, float]]) -> torch.Tensor:
    return torch.tensor([logged[step]["train/loss"] for step in steps(logged)], dtype=torch.float64)


def steps(logged: dict[int, dict[str, float]]) -> list[int]:
    return [step for step in sorted(logged) if "train/loss" in logged[step]]


@pytest.fixture(scope="module")
def undisturbed(tiny_config: RunConfig) -> dict[int, dict[str, float]]:
    return ranks.train(tiny_config, 1)


def test_two_ranks_give_the_losses_of_one_over_20_steps_in_fp64(
    tiny_config: RunConfig, undisturbed: dict[int, dict[str, float]]
) -> None:
    one, two = undisturbed, ranks.train(tiny_config, 2)
    assert len(one) == len(two) == 20
    assert (losses(one) - losses(two)).abs().max() < 1e-8
    assert one[20]["val/mIoU"] == two[20]["val/mIoU"]


def test_two_ranks_give_the_losses_of_one_on_two_steps_in_fp32(tiny_config: RunConfig) -> None:
    # At the rate of a warm-up's beginning. At 0.01 a random network amplifies rounding: after one step, fp32 on one
    # rank is 3e-4 away from fp64 on one rank, and so are two ranks from one.
    config = replace(tiny_config, precision="fp32", optim=replace(tiny_config.optim, lr=1e-4, max_steps=2))
    one, two = ranks.train(config, 1), ranks.train(config, 2)
    assert (losses(one) - losses(two)).abs().max() < 1e-5


def test_stopping_at_step_7_on_two_ranks_and_resuming_on_one_changes_nothing(
    tiny_config: RunConfig, undisturbed: dict[int, dict[str, float]], run_folder: Path
) -> None:
    config = replace(tiny_config, checkpoint=CheckpointConfig(every_steps=7))
    before = ranks.train(config, 2, folder=run_folder, stop_at=7)
    after = ranks.train(config, 1, folder=run_folder)
    assert (steps(before), steps(after)) == (list(range(1, 8)), list(range(8, 21)))
    assert after[7] == {"train/resumed_at": 7}
    assert (losses({**after, **before}) - losses(undisturbed)).abs().max() < 1e-8


def test_accumulating_micro_batches_gives_the_same_on_one_and_two_ranks(light_config: RunConfig) -> None:
    config = replace(light_config, optim=replace(light_config.optim, accumulate_steps=2, max_steps=4))
    config = replace(config, data=replace(config.data, batch_size=8))
    assert (losses(ranks.train(config, 1)) - losses(ranks.train(config, 2))).abs().max() < 1e-8


def test_every_loss_is_that_of_the_global_batch(tiny_config: RunConfig) -> None:
    loss = replace(tiny_config.loss, ohem_threshold=0.7, dice_weight=0.5, lovasz_weight=0.5, class_weights="enet")
    config = replace(tiny_config, loss=loss, optim=replace(tiny_config.optim, accumulate_steps=2, max_steps=4))
    config = replace(config, data=replace(config.data, batch_size=8))
    assert (losses(ranks.train(config, 1)) - losses(ranks.train(config, 2))).abs().max() < 1e-8


def test_the_moving_average_is_what_is_evaluated_and_goes_on_where_it_was(
    light_config: RunConfig, tmp_path: Path
) -> None:
    config = replace(light_config, optim=replace(light_config.optim, ema_decay=0.5, max_steps=4))
    config = replace(config, checkpoint=CheckpointConfig(every_steps=2))
    train_run(config, World(), ranks.Recorder(tmp_path / "whole"))
    with pytest.raises(ranks.StoppedError):
        train_run(config, World(), ranks.Recorder(tmp_path / "cut", stop_at=2))
    halfway = checkpoint.newest(str(tmp_path / "cut"))
    assert halfway is not None
    train_run(config, World(), ranks.Recorder(tmp_path / "cut"), resume=halfway[1])
    ends = [checkpoint.newest(str(tmp_path / name)) for name in ("whole", "cut")]
    assert ends[0] is not None and ends[1] is not None
    whole, resumed = ends[0][1], ends[1][1]
    for name, value in whole.averaged.items():
        torch.testing.assert_close(resumed.averaged[name], value, rtol=1e-12, atol=1e-12)
    for name in ("backbone.levels.0.0.0.weight", "backbone.levels.0.0.1.running_mean"):
        assert not torch.equal(whole.averaged[name], whole.model[name])
    assert whole.evaluated is whole.averaged


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples(light_config: RunConfig) -> None:
    config = replace(light_config, optim=replace(light_config.optim, lr=1e30, warmup_steps=0))
    recorder = ranks.Recorder()
    with pytest.raises(TrainingError, match=r"the loss of step \d+ is (nan|inf) on train/.*tar/"):
        train_run(config, World(), recorder)
    assert all(math.isfinite(loss) for loss in recorder.losses())


def test_without_an_auxiliary_head_every_parameter_still_learns(tiny_config: RunConfig) -> None:
    config = replace(tiny_config, loss=replace(tiny_config.loss, aux_weight=0.0))
    config = replace(config, optim=replace(config.optim, max_steps=1))
    training = train_run(config, World(), ranks.Recorder())
    assert isinstance(training, Segmentation)
    assert isinstance(training, Segmentation)
    assert all(parameter.grad is not None for parameter in training.model.parameters())


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    light_config: RunConfig, run_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(light_config, checkpoint=CheckpointConfig(every_steps=2))
    config = replace(config, optim=replace(config.optim, max_steps=4))
    train_run(config, World(), ranks.Recorder(run_folder))
    newest = checkpoint.found_in(str(run_folder))[0]
    damage = Path(newest.uri) / checkpoint.WEIGHTS_FILE
    content = bytearray(damage.read_bytes())
    content[len(content) // 2] ^= 1
    damage.write_bytes(content)
    found = checkpoint.newest(str(run_folder))
    assert found is not None and (newest.step, found[1].step) == (4, 2)
    assert newest.uri in caplog.text


def test_a_resumed_run_may_change_how_it_runs_but_not_what_it_computes(
    light_config: RunConfig, run_folder: Path
) -> None:
    config = replace(light_config, optim=replace(light_config.optim, max_steps=1))
    train_run(config, World(), ranks.Recorder(run_folder))
    found = checkpoint.newest(str(run_folder))
    assert found is not None
    longer = replace(config, optim=replace(config.optim, max_steps=2), scaling=replace(config.scaling, num_workers=2))
    check_same_run(longer, found[1])
    with pytest.raises(ConfigError, match=r"optim.lr = 0.5: the run being resumed has 0.01"):
        check_same_run(replace(config, optim=replace(config.optim, lr=0.5)), found[1])
    further = replace(found[1], step=2)
    check_same_run(longer, further)  # its end was not written down yet
    with pytest.raises(ConfigError, match=r"optim\.max_steps = 1: the run being resumed has done 2 steps"):
        check_same_run(config, further)
    changed = replace(found[1], manifest_digest="0" * 64)
    with pytest.raises(DataError, match="the manifest changed since"):
        train_run(longer, World(), ranks.Recorder(), resume=changed)


@pytest.fixture(scope="session")
def tiny_fog(tmp_path_factory: pytest.TempPathFactory) -> str:
    """12 frames of another seed: two of each of three conditions and two sites; no dawn."""
    uri = str(tmp_path_factory.mktemp("tiny-fog"))
    frames = [s for s in town.samples("train", num_frames=36, size=(64, 96), seed=9) if s.condition in ("fog", "night")]
    pack({"train": frames}, town.LABELS, uri, dataset="fog")
    return uri


def mixing(config: RunConfig, *uris: str, **data: Any) -> RunConfig:
    return replace(config, data=replace(config.data, mix=uris, **data))


@pytest.mark.parametrize("sampling", ["condition", "class"])
def test_a_mixture_gives_one_answer_for_any_number_of_ranks_and_goes_on_after_a_stop(
    light_config: RunConfig, tiny_fog: str, run_folder: Path, sampling: Sampling
) -> None:
    config = mixing(light_config, tiny_fog, mix_weights=(1.0, 3.0), sampling=sampling)
    config = replace(config, optim=replace(config.optim, max_steps=6), checkpoint=CheckpointConfig(every_steps=3))
    undisturbed = ranks.train(config, 2)
    before = ranks.train(config, 1, folder=run_folder, stop_at=3)
    after = ranks.train(config, 2, folder=run_folder)
    assert steps(after) == [4, 5, 6]
    assert (losses({**after, **before}) - losses(undisturbed)).abs().max() < 1e-8


def test_a_resumed_mixture_must_be_the_same_data_wherever_it_lies(
    light_config: RunConfig, tiny_fog: str, run_folder: Path, tmp_path: Path
) -> None:
    config = mixing(replace(light_config, optim=replace(light_config.optim, max_steps=1)), tiny_fog)
    train_run(config, World(), ranks.Recorder(run_folder))
    found = checkpoint.newest(str(run_folder))
    assert found is not None
    longer = replace(config, optim=replace(config.optim, max_steps=2))
    moved = shutil.copytree(tiny_fog, tmp_path / "moved")
    train_run(mixing(longer, str(moved)), World(), ranks.Recorder(), resume=found[1])
    with pytest.raises(DataError, match="the manifest changed since"):
        train_run(mixing(longer), World(), ranks.Recorder(), resume=found[1])
    with pytest.raises(ConfigError, match=r"data.mix_weights = \[1.0, 2.0\]: the run being resumed has \[\]"):
        check_same_run(mixing(longer, tiny_fog, mix_weights=(1.0, 2.0)), found[1])
    with pytest.raises(ConfigError, match=r"data\.sampling = 'class': the run being resumed has 'each'"):
        check_same_run(mixing(longer, tiny_fog, sampling="class"), found[1])


def test_a_mixture_takes_the_conditions_where_they_are(tiny_config: RunConfig, tiny_fog: str) -> None:
    _, parts, _ = select_data(mixing(tiny_config, tiny_fog, train_conditions=("dawn", "fog")))
    assert [{s.condition for s in part.shards} for part in parts] == [{"dawn", "fog"}, {"fog"}]
    for condition, data in (("dusk", tiny_config.data.uri), ("dawn", tiny_fog)):
        with pytest.raises(DataError, match=f"{data}: no condition '{condition}' in split 'train'"):
            select_data(mixing(tiny_config, tiny_fog, train_conditions=(condition,)))


def test_class_weights_are_of_the_mixture(tiny_config: RunConfig, tiny_fog: str) -> None:
    """By the shares that the numbers of samples give, pixels add up; a data set of twice its share counts twice."""
    _, parts, _ = select_data(mixing(tiny_config, tiny_fog))
    first, other = (
        torch.tensor(list(part.manifest.class_pixels["train"].values()), dtype=torch.float64).sum(0) for part in parts
    )
    nums = [sum(shard.num_samples for shard in part.shards) for part in parts]
    for shares, times in (((), 1), ((nums[0] / 2, float(nums[1])), 2)):
        loss = loss_of(mixing(tiny_config, tiny_fog, mix_weights=shares), parts, torch.device("cpu"))
        expected = class_weights((first + times * other).int().tolist(), "inverse_sqrt")
        torch.testing.assert_close(loss.class_weights_K, expected)


def test_training_and_evaluation_data_must_not_overlap(tiny_config: RunConfig) -> None:
    config = replace(tiny_config, data=replace(tiny_config.data, val_conditions=("fog", "train/night")))
    with pytest.raises(ConfigError, match=r"train/night-.* would be both trained and evaluated on"):
        select_data(config)
    apart = replace(config, data=replace(config.data, train_conditions=("dawn",)))
    _, parts, val = select_data(apart)
    assert {s.condition for s in parts[0].shards} == {"dawn"}
    assert {(s.split, s.condition) for s in val} == {("val", "fog"), ("train", "night")}
