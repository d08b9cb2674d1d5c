"""The loss of a segmentation: a weighted sum of terms, all computed from one log-softmax."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from distseg import plugins
from distseg.config import LossConfig
from distseg.errors import ConfigError
from distseg.models import Logits
from distseg.training.losses.batch import LossBatch, SumOverRanks, alone, log_probabilities
from distseg.training.losses.cross_entropy import CrossEntropy

Term = Callable[[LossBatch], Tensor]


class LossParts(NamedTuple):
    """Scalars. `total` is what is differentiated, the others have no gradient."""

    total: Tensor  # main + aux_weight · aux
    main: Tensor  # cross entropy and the extra terms, weighted
    aux: Tensor  # 0 without an auxiliary head
    terms: dict[str, Tensor]  # of LossConfig.terms, by name, not weighted


class SegmentationLoss:
    """This rank's part of the global loss: α·aux beside the main loss (Zhao et al. 2017, section 3.2)."""

    def __init__(self, config: LossConfig, class_weights_K: Tensor | None = None) -> None:
        """Raises ConfigError for a term that cannot be found."""
        self.class_weights_K, self.aux_weight = class_weights_K, config.aux_weight
        self.cross_entropy = CrossEntropy(
            class_weights_K=class_weights_K,
            ohem_threshold=config.ohem_threshold,
            ohem_min_kept=config.ohem_min_kept,
        )
        shorthands = {"dice": config.dice_weight, "lovasz": config.lovasz_weight}
        self._unnamed = [(weight, find_term(name)) for name, weight in shorthands.items() if weight]
        self._named = {_name_of(term): (weight, _checked(term)) for term, weight in config.term_weights.items()}
        self.term_names = tuple(self._named)

    def __call__(
        self,
        logits: Logits,
        labels_BHW: Tensor,
        *,
        normaliser: Tensor | float,
        over_ranks: SumOverRanks = alone,
        num_micro_batches: int = 1,
    ) -> LossParts:
        """`normaliser`: the `valid_weight` of the global batch, of all its micro-batches.

        0 (no valid pixel) gives losses and gradients of 0. The parts of all ranks and micro-batches add up to the
        global loss, and their gradients to its gradient. Raises ConfigError for a user's term that raises an error, or
        gives anything but a tensor of one number.
        """
        batch = LossBatch(
            log_p_BKHW=log_probabilities(logits.main_BKhw, labels_BHW),
            labels_BHW=labels_BHW,
            normaliser=normaliser,
            class_weights_K=self.class_weights_K,
            over_ranks=over_ranks,
            num_micro_batches=num_micro_batches,
        )
        main = self.cross_entropy(batch)
        for weight, term in self._unnamed:
            main = main + weight * term(batch)
        terms: dict[str, Tensor] = {}
        for name, (weight, term) in self._named.items():
            value = term(batch)
            main, terms[name] = main + weight * value, value.detach()
        if logits.aux_BKhw is None:
            return LossParts(main, main.detach(), torch.zeros_like(main), terms)
        aux = self.cross_entropy(replace(batch, log_p_BKHW=log_probabilities(logits.aux_BKhw, labels_BHW)))
        return LossParts(main + self.aux_weight * aux, main.detach(), aux.detach(), terms)


def find_term(name: str) -> Term:
    """A file of `terms/`, or a user's `module:name`. Raises ConfigError."""
    term: Term = plugins.find("loss.terms", "distseg.training.losses.terms", "loss", name)
    return term


def _checked(target: str) -> Term:
    """The term; a user's `module:name` raises ConfigError with the name and the line for whatever goes wrong in it."""
    term = find_term(target)
    if ":" not in target:
        return term

    def value_of(batch: LossBatch) -> Tensor:
        try:
            value = term(batch)
        except Exception as error:  # a user's code raises what it likes
            raise ConfigError(f"loss.terms {target}: {plugins.raised(error)}") from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.80}"
            raise ConfigError(f"loss.terms {target}: gave {shown}; it must give a tensor with one number")
        return value.reshape(())

    return value_of


def _name_of(term: str) -> str:
    """'my_losses:boundary' -> 'boundary'."""
    return term.rpartition(":")[2]
