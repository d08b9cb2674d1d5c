"""Extra terms of the loss by name: one of distseg's own, a user's, what is logged, one answer for any number of ranks.

`focal` and `tversky` below are what a user writes, in the two ways that LossBatch allows.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distseg import plugins
from distseg.config import LossConfig, RunConfig
from distseg.errors import ConfigError
from distseg.models import Logits
from distseg.training import check_run
from distseg.training.losses import (
    CrossEntropy,
    LossBatch,
    SegmentationLoss,
    log_probabilities,
    one_hot,
    valid_weight,
)
from tests import ranks
from tests.unit.training.test_fit import losses
from tests.unit.training.test_losses import random_case

FOCAL, TVERSKY = (f"{__name__}:{name}" for name in ("focal", "tversky"))


def focal(batch: LossBatch) -> Tensor:
    """A mean over pixels: -(1 - p)² · log p of the true class."""
    log_p_BHW = (batch.log_p_BKHW * one_hot(batch.labels_BHW, batch.log_p_BKHW)).sum(1)
    return batch.mean_over_pixels(-((1 - log_p_BHW.exp()) ** 2) * log_p_BHW)


def tversky(batch: LossBatch) -> Tensor:
    """No sum over pixels: the mean of this rank's images, over the images of all ranks."""
    truth_BKHW = one_hot(batch.labels_BHW, batch.log_p_BKHW)
    hit_B = (batch.log_p_BKHW.exp() * truth_BKHW).sum((1, 2, 3)) / truth_BKHW.sum((1, 2, 3)).clamp(min=1)
    num_images = batch.over_ranks(torch.tensor(float(len(hit_B))))
    return (1 - hit_B).sum() / num_images / batch.num_micro_batches


def test_a_term_by_name_is_the_flag_of_the_same_name() -> None:
    logits, labels = random_case(0)
    by_flag, by_name = (
        SegmentationLoss(config)(Logits(logits, None), labels, normaliser=valid_weight(labels))
        for config in (LossConfig(dice_weight=0.5), LossConfig(terms=("dice=0.5",)))
    )
    assert by_name.total.item() == by_flag.total.item()
    plain = SegmentationLoss(LossConfig())(Logits(logits, None), labels, normaliser=valid_weight(labels)).main
    assert by_name.terms["dice"].item() == pytest.approx(2 * (by_name.main - plain).item())
    assert by_flag.terms == {}


def test_every_term_can_be_named_and_has_a_gradient() -> None:
    names = plugins.names("distseg.training.losses.terms")
    assert {"dice", "lovasz"} <= set(names)
    for name in (*names, FOCAL, TVERSKY):
        logits, labels = random_case(1)
        logits.requires_grad_()
        loss = SegmentationLoss(LossConfig(aux_weight=0.0, terms=(name,)))
        parts = loss(Logits(logits, None), labels, normaliser=valid_weight(labels))
        (shown,) = parts.terms
        assert shown == name.rpartition(":")[2] and parts.terms[shown].item() > 0
        parts.total.backward()
        assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("terms", "what"),
    [
        (("dice=much",), r"loss\.terms = 'dice=much': give NAME=WEIGHT"),
        (("dice=-1",), r"loss\.terms = 'dice=-1': give NAME=WEIGHT"),
        (("dice", "mine:dice"), "the names must differ from each other"),
        (("mine:aux",), "the names must differ from each other and from aux and kl"),
    ],
)
def test_terms_that_make_no_sense_are_refused(terms: tuple[str, ...], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        LossConfig(terms=terms)


def test_a_term_that_is_not_there_is_refused_before_training(light_config: RunConfig) -> None:
    for term, what in (("dise", "did you mean 'dice'"), ("no_such_module:loss", "cannot import no_such_module")):
        config = replace(light_config, loss=replace(light_config.loss, terms=(term,)))
        with pytest.raises(ConfigError, match=what):
            check_run(config)


def test_a_users_terms_are_those_of_the_global_batch_and_are_logged(light_config: RunConfig) -> None:
    config = replace(light_config, loss=replace(light_config.loss, terms=(f"{FOCAL}=0.5", f"{TVERSKY}=2", "dice=0")))
    config = replace(config, optim=replace(config.optim, accumulate_steps=2, max_steps=3))
    config = replace(config, data=replace(config.data, batch_size=8))
    one, two = ranks.train(config, 1), ranks.train(config, 2)
    assert (losses(one) - losses(two)).abs().max() < 1e-8
    for name in ("focal", "tversky", "dice"):
        values = [logged[1][f"train/{name}_loss"] for logged in (one, two)]
        assert values[0] > 0 and abs(values[0] - values[1]) < 1e-8
    plain = ranks.train(replace(config, loss=light_config.loss), 1)
    added = 0.5 * one[1]["train/focal_loss"] + 2 * one[1]["train/tversky_loss"]
    assert one[1]["train/loss"] == pytest.approx(plain[1]["train/loss"] + added)


def broken(batch: LossBatch) -> Tensor:
    classes: dict[str, int] = {}
    return batch.log_p_BKHW[:, classes["no such class"]]


def of_each_image(batch: LossBatch) -> Tensor:
    return batch.log_p_BKHW.mean((1, 2, 3))


def no_tensor(batch: LossBatch) -> float:
    return float(batch.log_p_BKHW.mean())


def one_number_in_a_row(batch: LossBatch) -> Tensor:
    return batch.log_p_BKHW.mean().reshape(1)


def of_term(name: str) -> Tensor:
    logits, labels_BHW = random_case(seed=0)
    loss = SegmentationLoss(LossConfig(terms=(f"{__name__}:{name}=2",)))
    return loss(Logits(logits, None), labels_BHW, normaliser=100.0).total


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("broken", r"broken: raises KeyError: .*no such class.* at .*test_loss_terms\.py, line \d+$"),
        ("of_each_image", r"of_each_image: gave a tensor of shape \(\d+,\); it must give a tensor with one number"),
        ("no_tensor", r"no_tensor: gave -\d.*; it must give a tensor with one number"),
    ],
)
def test_a_users_term_that_fails_is_named_with_its_line(name: str, what: str) -> None:
    with pytest.raises(ConfigError, match=f"^loss.terms {__name__}:{what}"):
        of_term(name)


def test_a_users_term_may_give_its_number_with_dimensions() -> None:
    assert of_term("one_number_in_a_row").shape == ()


def test_a_mean_over_pixels_by_hand() -> None:
    labels_BHW = torch.tensor([[[0, 1, 255]]])
    values_BHW = torch.tensor([[[2.0, 4.0, float("nan")]]])  # what a void pixel has does not matter
    weights_K = torch.tensor([1.0, 3.0])
    for weights, normaliser, mean in ((None, 2.0, 3.0), (weights_K, 4.0, 3.5), (weights_K * 0.1, 0.4, 3.5)):
        batch = LossBatch(
            log_p_BKHW=torch.zeros(1, 2, 1, 3), labels_BHW=labels_BHW, normaliser=normaliser, class_weights_K=weights
        )
        assert batch.mean_over_pixels(values_BHW).item() == pytest.approx(mean)
    void = LossBatch(log_p_BKHW=torch.zeros(1, 2, 1, 3), labels_BHW=torch.full((1, 1, 3), 255), normaliser=0.0)
    assert void.mean_over_pixels(values_BHW).item() == 0.0


def test_the_cross_entropy_is_such_a_mean() -> None:
    logits, labels = random_case(2)
    weights_K = torch.linspace(0.5, 2.0, logits.shape[1])

    def cross_entropy(batch: LossBatch) -> Tensor:
        truth_BKHW = one_hot(batch.labels_BHW, batch.log_p_BKHW)
        return batch.mean_over_pixels(-(batch.log_p_BKHW * truth_BKHW).sum(1))

    batch = LossBatch(
        log_p_BKHW=log_probabilities(logits, labels),
        labels_BHW=labels,
        normaliser=valid_weight(labels, weights_K),
        class_weights_K=weights_K,
    )
    assert cross_entropy(batch).item() == pytest.approx(CrossEntropy(class_weights_K=weights_K)(batch).item())
