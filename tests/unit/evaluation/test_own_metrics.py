"""A metric that is added, by us or by a user: it is shown wherever metrics are."""

import json
import re
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from distseg.cli import print_conditions
from distseg.errors import ConfigError
from distseg.evaluation import (
    Metric,
    PixelCounts,
    as_metrics,
    metrics,
    own_metrics,
)
from distseg.review import RunReview, run_markdown
from tests.unit.evaluation.test_metrics import HAND, table_of
from tests.unit.reviews import example

KAPPA = pytest.approx((14 - 8.5) / (20 - 8.5))  # of HAND; by chance (10 · 11 + 10 · 6) / 20


def kappa(counts: PixelCounts) -> float | None:
    num, agree = sum(counts.truth_K), sum(counts.hit_K)
    by_chance = sum(t * p for t, p in zip(counts.truth_K, counts.predicted_K, strict=True)) / num
    return (agree - by_chance) / (num - by_chance)


def assert_kappa_is_shown(table: dict[str, Any]) -> None:
    assert [table["kappa"], table["conditions"]["fog"]["kappa"], table["sites"]["town"]["kappa"]] == [KAPPA] * 3
    logged = as_metrics(table)
    assert [logged["val/kappa"], logged["val/kappa/fog"]] == [KAPPA] * 2
    assert "kappa" in metrics.metrics_in("terminal", table)
    described = run_markdown(RunReview(name="new", table=table))
    assert " | kappa | " in described and " | 0.478 | " in described


def test_a_metric_is_added_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in the table, in MLflow and where tables are shown to people, also beside tables that lack it."""
    before = example()
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, Metric(name="kappa", compute=kappa)))
    assert_kappa_is_shown(table_of({"fog": HAND}))
    assert " | kappa | " in run_markdown(RunReview(name="old", table=before.table))


def test_a_users_own_metric_is_shown_in_the_same_places(capsys: pytest.CaptureFixture[str]) -> None:
    own = own_metrics([f"{__name__}:kappa"], "evaluate.metrics")
    table = table_of({"fog": HAND}, own)
    assert_kappa_is_shown(table)
    print_conditions(table, "a run")
    assert "kappa" in capsys.readouterr().out
    assert "kappa" not in run_markdown(RunReview(name="without", table=table_of({"fog": HAND})))


def as_tensor(counts: PixelCounts) -> Tensor:
    return counts.matrix_KK.diag().sum() / counts.matrix_KK.sum()


def as_numpy(counts: PixelCounts) -> np.float32:
    return np.float32(0.25)


def of_nothing(counts: PixelCounts) -> float:
    return counts.hit_K[0] / (counts.truth_K[0] - counts.truth_K[0])


def of_each_class(counts: PixelCounts) -> Tensor:
    return counts.matrix_KK.sum(0)


def conditions(counts: PixelCounts) -> float:
    return 0.5


IoU = conditions


def test_what_a_users_metric_gives_is_a_number_of_json() -> None:
    own = own_metrics([f"{__name__}:{name}" for name in ("as_tensor", "as_numpy", "of_nothing")], "--metrics")
    table = json.loads(json.dumps(table_of({"fog": HAND}, own)))
    assert [table[metric.name] for metric in own] == [pytest.approx(table["PA"]), 0.25, None]
    with pytest.raises(ConfigError, match=r"metric of_each_class: gave tensor.*must give a number, or None"):
        table_of({"fog": HAND}, own_metrics([f"{__name__}:of_each_class"], "--metrics"))


def broken(counts: PixelCounts) -> float:
    return {"PA": 0.5}["mIoU"]


def test_a_users_metric_that_fails_is_named_with_its_line() -> None:
    with pytest.raises(
        ConfigError, match=r"metric broken: raises KeyError: .*mIoU.* at .*test_own_metrics\.py, line \d+$"
    ):
        table_of({"fog": HAND}, own_metrics([f"{__name__}:broken"], "--metrics"))


PA = 0.5  # no function


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("kappa", "evaluate.metrics 'kappa': give it as module:name"),
        ("no_such_module:kappa", "cannot import no_such_module"),
        (f"{__name__}:KAPPA2", "has no name KAPPA2"),
        (f"{__name__}:PA", "not a function of PixelCounts"),
        (f"{__name__}:conditions", "there is a metric 'conditions' already; give yours another name"),
        (f"{__name__}:IoU", "there is a metric 'IoU' already; give yours another name"),
    ],
)
def test_what_is_no_metric_is_refused_before_training(target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        own_metrics([target], "evaluate.metrics")


def test_two_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="there is a metric 'kappa' already; give yours another name"):
        own_metrics([f"{__name__}:kappa"] * 2, "evaluate.metrics")
