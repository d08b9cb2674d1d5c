"""Optuna: tree-structured Parzen estimators for one objective, NSGA-II for two. Also its measure of importance."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Domain

from distseg.search.algorithms import SCORE, Algorithm, Point


class Optuna(Algorithm):
    learns = True
    takes_two_objectives = True

    def build(
        self, space: Mapping[str, Domain], first: Sequence[Point], *, second: str | None, at_once: int, seed: int
    ) -> OptunaSearch:
        metric, mode = ([SCORE, second], ["max", "min"]) if second else (SCORE, "max")
        points = [dict(point) for point in first]
        return OptunaSearch(distributions_of(space), metric=metric, mode=mode, points_to_evaluate=points, seed=seed)


def distributions_of(space: Mapping[str, Domain]) -> dict[str, optuna.distributions.BaseDistribution]:
    """The space in Optuna's terms."""
    with tuples_as_choices():
        converted: dict[str, optuna.distributions.BaseDistribution] = OptunaSearch.convert_search_space(dict(space))
        return converted


@contextlib.contextmanager
def tuples_as_choices() -> Iterator[None]:
    """Optuna warns of each choice that is a tuple, since its databases could not hold it. There is no database here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def importances_of(space: Mapping[str, Domain], scored: Sequence[tuple[Point, float]]) -> dict[str, float]:
    """How much of the scores' variation each parameter explains (PED-ANOVA), largest first.

    `scored`: the points and their scores. {} for fewer than four points, or if no parameter varies.
    """
    varied = {name for name in space if len({str(point.get(name)) for point, _ in scored}) > 1}
    if len(scored) < 4 or not varied:
        return {}
    distributions = distributions_of(space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(direction="maximize")
        for point, value in scored:
            params = {name: _hashable(point[name]) for name in distributions}
            study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=value))
        found = optuna.importance.get_param_importances(study, params=sorted(varied))
    return dict(found)


def _hashable(value: Any) -> Any:
    """A record's JSON has lists for tuples."""
    return tuple(value) if isinstance(value, list) else value


ALGORITHM = Optuna
