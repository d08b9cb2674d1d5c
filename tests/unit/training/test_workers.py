"""One answer for any number of workers: with dropout, accumulated gradients and torch.compile, in every combination."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from distseg.config import ModelConfig, RunConfig, model_config
from distseg.data.loading import Batch
from distseg.evaluation import World
from distseg.training.process import gradients_exchanged_if, over_ranks
from distseg.training.segmentation import Segmentation
from tests import ranks
from tests.small_network import Small, SmallNet
from tests.unit.training.test_fit import losses


def test_the_recipes_dropout_gives_the_same_on_one_two_and_four_ranks(light_config: RunConfig) -> None:
    config = replace(light_config, optim=replace(light_config.optim, max_steps=4))
    assert config.model.dropout == ModelConfig.dropout > 0
    one, two, four = (losses(ranks.train(config, num_ranks)) for num_ranks in (1, 2, 4))
    assert (one - two).abs().max() < 1e-8 and (one - four).abs().max() < 1e-8
    without = replace(config, model=replace(config.model, dropout=0.0))
    assert (losses(ranks.train(without, 1)) - one).abs().max() > 1e-4, "something is dropped"


def test_stochastic_depth_and_layer_norms_give_the_same_on_one_and_two_ranks(light_config: RunConfig) -> None:
    config = replace(light_config, model=model_config("segformer", drop_path=0.5))
    config = replace(config, optim=replace(config.optim, max_steps=3))
    one, two = (losses(ranks.train(config, num_ranks)) for num_ranks in (1, 2))
    assert (one - two).abs().max() < 1e-8
    whole = replace(config, model=model_config("segformer", drop_path=0.0))
    assert (losses(ranks.train(whole, 1)) - one).abs().max() > 1e-4, "branches are left out"


def test_checkpointed_blocks_give_the_same_on_one_and_two_ranks(small_config: RunConfig) -> None:
    """Synchronised batch norm asks the other rank again in the backward pass; dropout has the same masks again."""
    kept = replace(small_config, model=Small(has_norm=True, dropout=0.5), precision="fp64")
    kept = replace(kept, optim=replace(kept.optim, max_steps=4, accumulate_steps=2))
    checkpointed = replace(kept, model=replace(kept.model, checkpointing=True))
    one, again, two = (
        losses(ranks.train(kept, 1)),
        losses(ranks.train(checkpointed, 1)),
        losses(ranks.train(checkpointed, 2)),
    )
    assert torch.equal(one, again)
    assert (one - two).abs().max() < 1e-8


def test_both_layouts_give_the_same_on_one_and_two_ranks(small_config: RunConfig) -> None:
    config = replace(small_config, model=Small(has_norm=True), precision="fp64")
    config = replace(config, optim=replace(config.optim, max_steps=4))
    contiguous, channels_last = replace(config, layout="contiguous"), replace(config, layout="channels_last")
    runs = [losses(ranks.train(*run)) for run in ((contiguous, 1), (contiguous, 2), (channels_last, 2))]
    assert (runs[0] - runs[1]).abs().max() < 1e-8 and (runs[0] - runs[2]).abs().max() < 1e-8


@pytest.fixture
def batch(small_config: RunConfig) -> Iterator[Batch]:
    with Segmentation(small_config, World()).open_readers(5) as reader:
        yield next(reader)


def test_a_step_of_accumulated_micro_batches_is_the_step_of_all_at_once(small_config: RunConfig, batch: Batch) -> None:
    """Without batch norm, whose statistics are those of a micro-batch."""

    def step(num_micro_batches: int) -> tuple[dict[str, Tensor], Segmentation]:
        training = Segmentation(small_config, World())
        num = len(batch.keys) // num_micro_batches
        parts = [
            Batch(
                batch.images_B3HW[i:][:num],
                batch.labels_BHW[i:][:num],
                batch.keys[i:][:num],
                batch.positions[i:][:num],
                0,
            )
            for i in range(0, len(batch.keys), num)
        ]
        return training.train_step(parts, step=5), training

    (whole, one), (accumulated, four) = step(1), step(4)
    for name, loss in whole.items():
        torch.testing.assert_close(accumulated[name], loss, rtol=1e-12, atol=1e-12)
    for parameter, expected in zip(four.model.parameters(), one.model.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.long
def test_compiled_networks_learn_on_two_ranks_what_a_plain_one_learns_alone(small_config: RunConfig) -> None:
    """With batch norm, dropout and accumulated micro-batches, of which only the last exchanges gradients."""
    config = replace(small_config, model=Small(dropout=0.3, has_norm=True))
    config = replace(config, optim=replace(config.optim, accumulate_steps=2))
    plain = losses(ranks.train(config, 1))
    compiled = losses(ranks.train(replace(config, compile=True), 2))
    assert (compiled - plain).abs().max() < 1e-8


def _exchanges(rank: int, folder: str, port: int) -> None:
    """How often the ranks exchange gradients in two micro-batches, plain and compiled."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    counts = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        distributed = over_ranks(SmallNet(Small(dropout=0.0), 3), World(rank, 2))
        assert isinstance(distributed, DistributedDataParallel)
        made: list[int] = []

        def exchange(
            _: object,
            bucket: dist.GradBucket,  # type: ignore[name-defined]  # mypy does not see it
            made: list[int] = made,
        ) -> torch.futures.Future[Tensor]:
            made.append(bucket.index())
            future: torch.futures.Future[Tensor] = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        distributed.register_comm_hook(None, exchange)
        trained = torch.compile(distributed, backend="aot_eager") if is_compiled else distributed
        for is_last in (False, True):
            with gradients_exchanged_if(is_last, distributed):
                trained(torch.ones(2, 3, 32, 32)).main_BKhw.sum().backward()
            counts.append(len(made))
    if rank == 0:
        Path(folder, "counts").write_text(repr(counts))
    dist.destroy_process_group()


@pytest.mark.long
def test_accumulated_gradients_are_exchanged_once(tmp_path: Path) -> None:
    ranks.start_ranks(_exchanges, (str(tmp_path), ranks.free_port()), 2)
    assert (tmp_path / "counts").read_text() == "[0, 1, 0, 1]"
