"""Objectives: what a search maximises, a function of one evaluation's metrics. Each is one entry of OBJECTIVES.

A user's own is a function in his own module, named by `OBJECTIVE = "my_objectives:night_only"` in a space, or by
`--objective my_objectives:night_only`:

    def night_only(metrics):
        return metrics["val/mIoU/night"]

`metrics`: name as in MLflow -> fraction, all that begin with 'val/'.
"""

import math
from collections.abc import Callable, Mapping
from operator import itemgetter

from distseg import plugins
from distseg.errors import ConfigError
from distseg.metric_names import MIOU, MIOU_WORST

Objective = Callable[[Mapping[str, float]], float]


def mean_and_worst(metrics: Mapping[str, float]) -> float:
    """Half for all images together, half for the worst condition."""
    return (metrics[MIOU] + metrics[MIOU_WORST]) / 2


OBJECTIVES: Mapping[str, Objective] = {
    MIOU: itemgetter(MIOU),
    MIOU_WORST: itemgetter(MIOU_WORST),
    "mean_and_worst": mean_and_worst,
}


def find(name: str, what: str = "objective") -> Objective:
    """The objective of a name, or a user's `module:name`. Raises ConfigError, which begins with `what`."""
    if ":" in name:
        found: Objective = plugins.from_user(what, name)
        if not callable(found):
            raise ConfigError(f"{what} {name!r}: not a function of an evaluation's metrics")
        return found
    if name not in OBJECTIVES:
        raise ConfigError(f"{what} {name!r}: {plugins.suggestion(name, OBJECTIVES)}; your own is given as module:name")
    return OBJECTIVES[name]


def score(metrics: Mapping[str, float], objective: str) -> float:
    """The objective of one evaluation, to be maximised. Raises ConfigError if the evaluation does not have it."""
    try:
        value = float(find(objective)(metrics))
    except KeyError as error:
        hint = plugins.suggestion(str(error.args[0]), metrics)
        raise ConfigError(f"objective {objective}: the evaluation has no {error}; {hint}") from None
    if not math.isfinite(value):
        raise ConfigError(f"objective {objective}: {value}; it must be a finite number")
    return value
