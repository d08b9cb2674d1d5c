"""A machine is about to be taken away: all ranks save the newest step, once, and train on."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from distseg import stopping
from distseg.config import RunConfig
from distseg.models import Logits, SegmentationModel
from distseg.training import checkpoint
from tests import ranks
from tests.small_network import Small, SmallNet

ANNOUNCED_AT, NUM_STEPS = 3, 6


@dataclass(frozen=True, kw_only=True)
class Announcing(Small):
    def build(self, num_classes: int, *, aux: bool) -> SegmentationModel:
        return AnnouncingNet(self, num_classes)


class AnnouncingNet(SmallNet):
    """Rank 1 hears the notice while it works on a step."""

    num_steps = 0

    def forward(self, images_B3HW: Tensor) -> Logits:
        self.num_steps += self.training
        if self.training and self.num_steps == ANNOUNCED_AT and dist.get_rank() == 1:
            stopping.announce()
        return super().forward(images_B3HW)


def test_a_notice_that_one_rank_hears_makes_all_save_and_go_on(small_config: RunConfig, tmp_path: Path) -> None:
    config = replace(
        small_config,
        model=Announcing(name="tests.unit.training.test_announced:Announcing"),
        optim=replace(small_config.optim, max_steps=NUM_STEPS),
        checkpoint=replace(small_config.checkpoint, every_steps=0),
        evaluate=replace(small_config.evaluate, every_steps=0),
    )
    ranks.train(config, 2, folder=tmp_path)
    saved = [checkpoint.read(found.uri).step for found in checkpoint.found_in(str(tmp_path))]
    assert sorted(saved) in ([ANNOUNCED_AT, NUM_STEPS], [ANNOUNCED_AT + 1, NUM_STEPS])


def test_a_notice_is_heard_once() -> None:
    stopping.announce()
    assert [stopping.take_announcement() for _ in range(2)] == [True, False]
