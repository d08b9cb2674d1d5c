"""Entropy minimisation at test time."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from distseg import evaluation
from distseg.config import model_config
from distseg.data.loading import EvalSample, spread_samples
from distseg.data.shards import Manifest, Shard, load_manifest
from distseg.errors import ConfigError
from distseg.evaluation import World
from distseg.models import build_model
from distseg.training.adaptation import evaluate_by_condition, recalibrate_on_, spread_by_size, statistics
from distseg.training.adaptation.tent import LEARNING_RATE, mean_entropy, minimise_entropy_

UNET = model_config("unet", width=1 / 16)


def images(num: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=generator) for _ in range(num)]


def test_entropy_by_hand() -> None:
    logits_BKhw = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]).T.view(1, 2, 1, 2)
    expected = (math.log(2) - (0.75 * math.log(0.75) + 0.25 * math.log(0.25))) / 2
    assert mean_entropy(logits_BKhw).item() == pytest.approx(expected)


def test_without_scales_and_shifts_nothing_can_learn() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False))
    with pytest.raises(ConfigError, match="has no scale and shift"):
        minimise_entropy_(model, iter(images(1)), "fp32", 1e-2)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_entropy_falls_and_only_scales_and_shifts_learn() -> None:
    torch.manual_seed(0)
    model = build_model(UNET, 5).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    same = images(1) * 5
    entropies = minimise_entropy_(model, iter(same), "fp64", 1e-2)
    assert entropies == sorted(entropies, reverse=True) and entropies[-1] < entropies[0] - 0.01
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    tracked = {name for name in changed if name.endswith("num_batches_tracked")}
    assert changed - tracked == {f"{name}.{part}" for name in norms for part in ("weight", "bias")}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.training and all(
        module.momentum == 0.1 for module in model.modules() if isinstance(module, nn.BatchNorm2d)
    )


def test_a_network_without_batch_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="no batch norm, so there is nothing to adapt"):
        minimise_entropy_(nn.Conv2d(3, 2, 1), iter(images(1)), "fp32", 1e-3)


def test_each_condition_begins_with_the_weights_as_they_were_trained(tiny_town: str) -> None:
    manifest = load_manifest(tiny_town)
    found = []
    for conditions in (("fog", "night"), ("night",)):
        torch.manual_seed(0)
        model = build_model(UNET, manifest.label_space.num_classes).double()
        shards = manifest.select("val", conditions)
        counted = evaluate_by_condition(model, manifest, shards, World(), 4, how="tent", precision="fp64")
        found.append(counted.by_condition()["night"].matrix_KK)
    assert torch.equal(*found) and found[0].sum() > 0


def test_what_it_learns_from_is_decoded_once_and_read_again_gives_the_same(
    tiny_town: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = load_manifest(tiny_town)
    shards = manifest.select("train", ("night",))
    num_asked: list[int] = []

    def counted(manifest: Manifest, shards: Sequence[Shard], num: int, **options: Any) -> Iterator[EvalSample]:
        num_asked.append(num)
        return spread_samples(manifest, shards, num, **options)

    monkeypatch.setattr(statistics, "spread_samples", counted)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build_model(UNET, manifest.label_space.num_classes).double())
    once, again = models
    evaluate_by_condition(once, manifest, shards, World(), 3, how="tent", precision="fp64")
    assert num_asked == [3]
    learnt = (torch.stack(same) for same in spread_by_size(manifest, shards, 3).values())
    minimise_entropy_(again, learnt, "fp64", LEARNING_RATE)
    device = torch.device("cpu")
    assert recalibrate_on_(again, spread_by_size(manifest, shards, 3), device=device, precision="fp64") == 3
    expected = again.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in once.state_dict().items())


def test_a_condition_that_needs_no_adaptation_is_evaluated_as_the_network_is(tiny_town: str) -> None:
    manifest = load_manifest(tiny_town)
    shards = manifest.select("val", ("fog", "night"))

    def counted(*, adapted: tuple[str, ...] | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = build_model(UNET, manifest.label_space.num_classes).double()
        if adapted is None:
            found = evaluation.evaluate_shards(model, manifest, shards, World(), precision="fp64")
        else:
            found = evaluate_by_condition(model, manifest, shards, World(), 4, adapted=adapted, precision="fp64")
        return {name: each.matrix_KK for name, each in found.by_condition().items()}

    plain, to_all, to_night = counted(adapted=None), counted(adapted=()), counted(adapted=("night",))
    assert torch.equal(to_night["fog"], plain["fog"]) and not torch.equal(to_all["fog"], plain["fog"])
    assert torch.equal(to_night["night"], to_all["night"])
    with pytest.raises(ConfigError, match="--adapt_conditions dusk: is not evaluated; choose from fog, night"):
        counted(adapted=("dusk",))
