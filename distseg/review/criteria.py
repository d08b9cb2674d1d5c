"""How well figures that need no labels would have chosen among a run's evaluations, where labels tell."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distseg import metric_names
from distseg.errors import ConfigError

Values = Mapping[int, float]  # step -> value


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What one figure makes of the evaluations that have it and the truth."""

    name: str
    num_evaluations: int
    correlation: float | None  # Spearman's, with the truth; None: of fewer than 3, or where all are equal
    step: int  # of the evaluation with the largest value, the newest among equals
    truth: float  # at that step
    regret: float  # the best truth of these evaluations minus `truth`


def judge_criteria(evaluations: Mapping[str, Values], truth: Sequence[str], source: Sequence[str] = ()) -> list[Chosen]:
    """Every figure of target images, the mean of the metrics `source`, and always taking the newest, best first.

    `evaluations`: metric -> step -> value. The truth is the mean of the metrics `truth`. Raises ConfigError for one
    that was not measured, for none, or if the run has no figures of target images.
    """
    if not truth:
        raise ConfigError("--truth: the run names no target conditions; give metrics of labelled images")
    for name in (*truth, *source):
        if name not in evaluations:
            raise ConfigError(f"--truth {name}: the run has not measured it")
    known = mean_of([evaluations[name] for name in truth])
    if not known:
        raise ConfigError(f"--truth {' '.join(truth)}: no evaluation measured all of them; give fewer")
    figures = {name: values for name, values in sorted(evaluations.items()) if name.startswith(metric_names.TARGET)}
    if not figures:
        raise ConfigError("the run has no figures of target images: train it with evaluate.targets")
    if source:
        figures["score on the source"] = mean_of([evaluations[name] for name in source])
    figures["the newest"] = {step: float(step) for step in known}
    found = (judged(name, values, known) for name, values in figures.items())
    return sorted((each for each in found if each is not None), key=lambda each: (each.regret, each.name))


def mean_of(histories: Sequence[Values]) -> dict[int, float]:
    """The mean of several metrics at the steps that all of them have."""
    steps = set.intersection(*(set(values) for values in histories)) if histories else set()
    return {step: sum(values[step] for values in histories) / len(histories) for step in sorted(steps)}


def judged(name: str, values: Values, truth: Values) -> Chosen | None:
    """None if no step has both."""
    steps = sorted(values.keys() & truth.keys())
    if not steps:
        return None
    step = max(steps, key=lambda s: (values[s], s))
    return Chosen(
        name=name,
        num_evaluations=len(steps),
        correlation=_spearman([values[s] for s in steps], [truth[s] for s in steps]),
        step=step,
        truth=truth[step],
        regret=max(truth[s] for s in steps) - truth[step],
    )


def _spearman(values: Sequence[float], truth: Sequence[float]) -> float | None:
    if len(values) < 3 or len(set(values)) == 1 or len(set(truth)) == 1:
        return None
    from scipy import stats  # here, as it takes a third of a second to import

    found = float(stats.spearmanr(values, truth).statistic)
    return None if math.isnan(found) else found
