import pytest

from distseg.errors import ConfigError
from distseg.review import judge_criteria

EVALUATIONS = {
    "val/mIoU/night": {10: 0.2, 20: 0.4, 30: 0.3},
    "val/mIoU/fog": {10: 0.2, 20: 0.4, 30: 0.5},
    "val/mIoU/dawn": {10: 0.9, 20: 0.7, 30: 0.8},
    "target/certainty": {10: 0.1, 20: 0.2, 30: 0.3},
    "target/agreement": {10: 0.9, 20: 0.5, 40: 0.1},
}


def test_what_each_figure_would_have_chosen_and_what_that_costs() -> None:
    found = {c.name: c for c in judge_criteria(EVALUATIONS, ["val/mIoU/night"], ["val/mIoU/dawn"])}
    certain = found["target/certainty"]
    assert (certain.num_evaluations, certain.step, certain.truth) == (3, 30, 0.3)
    assert certain.regret == pytest.approx(0.1)
    assert certain.correlation == pytest.approx(0.5)  # ranks 1 2 3 and 1 3 2: 1 - 6 · 2 / (3 · 8)
    agreed = found["target/agreement"]
    assert (agreed.num_evaluations, agreed.step, agreed.correlation) == (2, 10, None)
    assert agreed.regret == pytest.approx(0.2)
    source = found["score on the source"]
    assert source.step == 10 and source.correlation == pytest.approx(-1.0)
    assert found["the newest"].step == 30


def test_the_truth_may_be_a_mean_and_the_least_regret_comes_first() -> None:
    found = judge_criteria(EVALUATIONS, ["val/mIoU/night", "val/mIoU/fog"])
    assert found[0].truth == pytest.approx(0.4) and found[0].regret == pytest.approx(0.0)
    assert [c.regret for c in found] == sorted(c.regret for c in found)


def test_what_was_not_measured_is_named() -> None:
    with pytest.raises(ConfigError, match="--truth val/mIoU/snow: the run has not measured it"):
        judge_criteria(EVALUATIONS, ["val/mIoU/snow"])
    with pytest.raises(ConfigError, match="no figures of target images"):
        judge_criteria({"val/mIoU": {1: 0.5}}, ["val/mIoU"])
    with pytest.raises(ConfigError, match="--truth val/mIoU/a val/mIoU/b: no evaluation measured all of them"):
        judge_criteria({"val/mIoU/a": {1: 0.5}, "val/mIoU/b": {2: 0.5}}, ["val/mIoU/a", "val/mIoU/b"])
    with pytest.raises(ConfigError, match="names no target conditions"):
        judge_criteria(EVALUATIONS, [])
