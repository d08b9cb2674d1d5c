"""A search's records and what is concluded from them, without Ray."""

import json
from pathlib import Path
from typing import Any

import pytest

from distseg.errors import ConfigError, DataError
from distseg.runs import find_run_in
from distseg.search import objectives, records, results
from distseg.search.records import Evaluation, TrialRecord
from distseg.search.search_config import Budget


def trial(number: int, scores: dict[int, float], at: float = 0.0, **fields: Any) -> TrialRecord:
    """`scores`: val/mIoU by step; the worst condition has half of it. Evaluated a second apart, from `at` on."""
    evaluations = tuple(
        Evaluation(step=step, time_s=at + turn, metrics={"val/mIoU": value, "val/mIoU_worst": value / 2})
        for turn, (step, value) in enumerate(scores.items())
    )
    defaults: dict[str, Any] = {"params": {"loss.aux_weight": number / 10}, "config": {}, "status": "finished"}
    return TrialRecord(trial_id=f"id{number}", number=number, evaluations=evaluations, **(defaults | fields))


def test_the_objectives() -> None:
    metrics = {"val/mIoU": 0.6, "val/mIoU_worst": 0.2}
    assert [objectives.score(metrics, name) for name in objectives.OBJECTIVES] == pytest.approx([0.6, 0.2, 0.4])


def test_a_trial_is_judged_by_its_last_evaluation() -> None:
    assert trial(1, {4: 0.9, 8: 0.5}).score("val/mIoU") == 0.5
    assert trial(1, {}).score("val/mIoU") is None


def test_ranking_puts_whole_trials_before_stopped_ones_and_leaves_out_failures() -> None:
    trials = [
        trial(1, {4: 0.3, 8: 0.4}),
        trial(2, {4: 0.8}, status="stopped"),
        trial(3, {4: 0.3, 8: 0.5}),
        trial(4, {4: 0.9, 8: 0.9}, status="failed"),
        trial(5, {}, status="running"),
    ]
    assert [t.number for t in results.ranked(trials, "val/mIoU")] == [3, 1, 2]


def test_of_equal_trials_the_earlier_is_better() -> None:
    assert [t.number for t in results.ranked([trial(2, {8: 0.4}), trial(1, {8: 0.4})], "val/mIoU")] == [1, 2]


def test_the_pareto_front_has_what_nobody_beats_in_both() -> None:
    trials = [
        trial(number, {8: value}, costs={"parameters": cost})
        for number, value, cost in ((1, 0.5, 10.0), (2, 0.6, 20.0), (3, 0.55, 30.0), (4, 0.4, 10.0), (5, 0.7, 40.0))
    ]
    assert [t.number for t in results.pareto_front(trials, "val/mIoU", "parameters")] == [1, 2, 5]


def test_best_so_far_counts_the_steps_of_all_trials() -> None:
    trials = [trial(1, {4: 0.3, 8: 0.5}, at=0.0), trial(2, {4: 0.4, 8: 0.45}, at=0.5)]
    assert results.best_so_far(trials, "val/mIoU") == [(4, 0.3), (8, 0.4), (12, 0.5), (16, 0.5)]


def test_records_come_back(tmp_path: Path) -> None:
    uri = str(tmp_path / "s")
    first, second = (
        trial(1, {}, status="running"),
        trial(2, {}, params={"model.bins": (1, 2)}, costs={"parameters": 5.0}),
    )
    for begun in (second, first):
        records.write_trial(uri, begun)
    folder = records.trial_folder(uri, "id2")
    records.write_evaluation(folder, 8, {"val/mIoU": 0.25})
    records.write_evaluation(folder, 4, {"val/mIoU": 0.125})
    records.write_evaluation(folder, 8, {"val/mIoU": 0.5})  # done again after a crash
    records.write_end(folder, "failed", "the reason")
    (tmp_path / "s/trials/id2/t02/deep").mkdir(parents=True)
    (tmp_path / "s/trials/id2/t02/run.json").write_text("{}")
    read = records.read_trials(uri)
    assert [t.number for t in read] == [1, 2]
    assert read[0].status == "running" and read[0].steps == 0
    assert [(e.step, e.metrics["val/mIoU"]) for e in read[1].evaluations] == [(4, 0.125), (8, 0.5)]
    assert (read[1].status, read[1].error, read[1].costs) == ("failed", "the reason", {"parameters": 5.0})
    assert read[1].params == {"model.bins": [1, 2]}
    assert find_run_in(folder) == f"{folder}/t02"


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    records.write_trial(str(tmp_path), trial(1, {}))
    (tmp_path / "trials/id1/trial.json").write_text('{"number": ')
    with pytest.raises(DataError, match=r"trial\.json is damaged .*search anew"):
        records.read_trials(str(tmp_path))
    (tmp_path / "trials/id1/trial.json").write_text(json.dumps({"number": 1}))
    with pytest.raises(DataError, match=r"id1/trial\.json is damaged \(config: missing\)"):
        records.read_trials(str(tmp_path))


def test_the_table_has_every_trial_best_first_and_says_why_some_failed() -> None:
    trials = [trial(1, {8: 0.25}), trial(2, {8: 0.5}), trial(3, {}, status="failed", error="no such thing")]
    lines = results.markdown(trials, "val/mIoU_worst", importances={"loss.aux_weight": 1.0}).splitlines()
    best, _, whole = lines[0].partition(" Trial 1, the first point to try, has 0.1250. ")
    assert best == "Trial 2 is the best of 3 by val/mIoU_worst: 0.2500, loss.aux_weight 0.2."
    assert whole.startswith("2 trials were trained to step 8. ")
    assert lines[4].startswith("| 2 | 0.2 | 0.2500 | 0.5000 | 8 | finished |")
    assert lines[5].startswith("| 1 | 0.1 | 0.1250")
    assert lines[6].startswith("| 3 | 0.3 | - | - | 0 | failed |")
    assert "- trial 3: no such thing" in lines and "- loss.aux_weight: 1.00" in lines


def test_trials_are_comparable_where_all_of_them_came() -> None:
    trials = [trial(1, {4: 0.2, 8: 0.6}), trial(2, {4: 0.3}, status="stopped"), trial(3, {}, status="failed")]
    assert results.comparable_step(trials) == 4
    assert [t.score("val/mIoU", 4) for t in trials] == [0.2, 0.3, None]


def test_random_search_is_the_expected_best_of_a_draw() -> None:
    trials = [
        trial(1, {8: 0.2}),
        trial(2, {8: 0.6}),
        trial(3, {4: 0.4}, status="stopped"),
        trial(4, {}, status="failed"),
    ]
    # Of two of three: (0.4 + 0.6 + 0.6) / 3.
    steps, expected = zip(*results.random_search(trials, "val/mIoU", 8), strict=True)
    assert steps == (8, 16, 24) and expected == pytest.approx((0.4, 1.6 / 3, 0.6))
    lines = results.markdown(trials, "val/mIoU", max_steps=8).splitlines()
    assert lines[-3:] == ["| 8 | 0.2000 | 0.4000 |", "| 16 | 0.6000 | 0.5333 |", "| 24 | 0.6000 | 0.6000 |"]


def test_who_took_over_whom_is_recorded_and_told(tmp_path: Path) -> None:
    uri = str(tmp_path)
    for number in (1, 2):
        records.write_trial(uri, trial(number, {}))
    taker = records.trial_folder(uri, trial(2, {}).trial_id)
    assert not records.has_taken_over(taker, trial(1, {}).trial_id, 8)
    records.write_take_over(taker, trial(1, {}).trial_id, 8)
    assert records.has_taken_over(taker, trial(1, {}).trial_id, 8)
    assert not records.has_taken_over(taker, trial(1, {}).trial_id, 16)
    assert "- step 8: trial 2 went on as trial 1" in results.markdown(records.read_trials(uri), "val/mIoU").splitlines()


@pytest.mark.parametrize("num_trials", [0, 1.5, "8", True])
def test_a_budget_of_no_whole_number_is_refused(num_trials: Any) -> None:
    with pytest.raises(ConfigError, match=f"num_trials = {num_trials!r}: must be a whole number of at least 1"):
        Budget(num_trials=num_trials, max_steps=1, evaluate_every=1)


def test_the_best_of_many_is_called_better_only_by_several_seeds() -> None:
    assert results.seeds_verdict([0.5], [0.4], "val/mIoU") == (
        "Whether the best point is better than the first is unknown: 1 seed, 2 needed."
    )
    steady = results.seeds_verdict([0.51, 0.52, 0.53], [0.41, 0.42, 0.43], "val/mIoU")
    assert steady.startswith("val/mIoU of the best point against the first: +0.1000 (95 % interval over seeds")
    assert "a real gain, on these test images." in steady
    assert "a real loss" in results.seeds_verdict([0.41, 0.42, 0.43], [0.51, 0.52, 0.53], "val/mIoU")
    assert "may be chance" in results.seeds_verdict([0.51, 0.40], [0.41, 0.45], "val/mIoU")
    assert "is unknown: 0 seeds, 2 needed." in results.seeds_verdict([], [], "val/mIoU")


def test_the_seeds_that_chose_the_best_point_do_not_judge_it() -> None:
    assert results.seeds_to_compare((0, 1, 2, 1), range(1)) == (1, 2)
    assert results.seeds_to_compare((), range(1)) == ()
    with pytest.raises(ConfigError, match=r"--retrain 4 5: by these seeds .* give two or more others, such as 6 7"):
        results.seeds_to_compare((4, 5), range(4, 6))
