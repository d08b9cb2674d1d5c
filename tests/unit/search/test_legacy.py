"""Ray Tune's state of a search made before modules were moved (tests/data/before) is read under the new names.

The files are what Ray pickled then: search-classes.pkl the callback, the scheduler and the budget,
search-functions-py311.pkl the functions that name trials, whose bytecode only Python 3.11 reads.
"""

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distseg import search
from distseg.search import legacy, records
from distseg.search.progress import SearchCallback, TrialProgress, trial_number
from distseg.search.schedulers.pbt import Population
from tests.conftest import REPOSITORY

BEFORE = REPOSITORY / "tests" / "data" / "before"


def unpickled(name: str) -> Any:
    with legacy.old_names():
        return pickle.loads((BEFORE / name).read_bytes())


def test_the_scheduler_and_the_budget_are_what_they_were() -> None:
    state = unpickled("search-classes.pkl")
    assert state["budget"] == search.Budget(num_trials=3, max_steps=40, evaluate_every=10)
    scheduler: Any = state["scheduler"]
    assert type(state["scheduler"]) is Population
    about = (scheduler._num_trials, scheduler._max_steps, scheduler._perturbed_at)
    assert about == (3, 40, 10)
    assert {name: type(domain).__name__ for name, domain in scheduler._space.items()} == {
        "optim.lr": "Float",
        "optim.head_lr_scale": "Categorical",
    }
    assert scheduler.on_trial_result(None, None, {"step": 40, "objective": 0.5}) == "CONTINUE"
    assert scheduler.on_trial_result(None, None, {"step": 30, "objective": 0.5}) == "PAUSE"


def test_the_callback_works_in_the_place_where_the_search_is_now(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (callback,) = unpickled("search-classes.pkl")["callbacks"]
    assert type(callback) is SearchCallback
    uri, told, closed = str(tmp_path / "moved"), list[TrialProgress](), list[tuple[str, str]]()
    monkeypatch.setattr(SearchCallback, "search_uri", uri, raising=False)
    monkeypatch.setattr(SearchCallback, "on_progress", told.append, raising=False)
    monkeypatch.setattr(SearchCallback, "close", lambda *of: closed.append(of), raising=False)
    monkeypatch.chdir(tmp_path)
    records.write_trial(uri, records.TrialRecord(trial_id="x_00000", number=1, params={}, config={}))
    trial = SimpleNamespace(trial_id="x_00000", config={"optim.lr": 0.1}, last_result={"step": 10, "objective": 0.5})
    callback.on_trial_complete(0, [trial], trial)
    assert told == [TrialProgress(number=1, params={"optim.lr": 0.1}, status="stopped", step=10, score=0.5)]
    assert records.has_ended(folder := records.trial_folder(uri, "x_00000")) and closed == [(folder, "FINISHED")]
    assert [path.name for path in tmp_path.iterdir()] == ["moved"], "not where the search was when it was pickled"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="bytecode of Python 3.11")
def test_trials_keep_their_names_and_folders() -> None:
    state, trial = unpickled("search-functions-py311.pkl"), SimpleNamespace(trial_id="d1674_00002")
    assert state["trial_name_creator"](trial) == "3" == str(trial_number(trial))
    assert state["trial_dirname_creator"](trial) == "d1674_00002"


def test_old_modules_are_there_only_while_a_state_is_read() -> None:
    with legacy.old_names():
        from distseg.ray_trial import drive  # type: ignore[import-not-found]

        assert drive is legacy.OLD_NAMES["distseg.ray_trial"]["drive"]
    assert not legacy.OLD_NAMES.keys() & sys.modules.keys()
    with pytest.raises(ModuleNotFoundError, match=r"distseg\.ray_"):
        pickle.loads((BEFORE / "search-classes.pkl").read_bytes())


def test_what_a_search_pickles_now_is_found_by_name(tmp_path: Path) -> None:
    """Functions by name, not by bytecode: a search made now resumes under another Python, and its names are few."""
    from distseg.search import tuner

    for function in (tuner._trial_name, tuner._trial_folder):
        assert pickle.loads(pickle.dumps(function)) is function
