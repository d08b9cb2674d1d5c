"""Spaces and what is asked of a search, before anything runs."""

import itertools
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Experiment

from distseg.config import RunConfig, StyleConfig, dotted_fields, recipes, with_overrides
from distseg.errors import ConfigError
from distseg.search import SearchConfig, Space, list_spaces, load_space, params, records, schedulers, tuner
from distseg.search import trial as trial_module
from distseg.search.algorithms import grid
from distseg.search.algorithms import random as random_search
from distseg.search.progress import trial_number
from distseg.search.records import Evaluation, TrialRecord
from distseg.search.search_config import Budget
from tests.conftest import REPOSITORY

SPACES = ("adapt", "aux_loss", "depth", "improved_pspnet", "optim", "pyramid_bins", "se_ratio")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.syspath_prepend(str(REPOSITORY))


def base_of(space: Space) -> RunConfig:
    config = recipes.find(space.recipe)
    if any(name.startswith("style.") for name in space.space):
        config = replace(config, style=StyleConfig(network="a style network", conditions=("night",)))
    return config


def wanted(**fields: object) -> SearchConfig:
    budget = Budget(num_trials=4, max_steps=8, evaluate_every=2)
    defaults = {"uri": "somewhere", "space": {}, "first": (), "objective": "val/mIoU", "budget": budget}
    return SearchConfig(**(defaults | fields))  # type: ignore[arg-type]


def test_all_spaces_are_listed() -> None:
    lines = list_spaces().splitlines()
    assert tuple(line.split()[0] for line in lines) == SPACES
    assert all(len(line.split()) > 4 for line in lines)


@pytest.mark.parametrize("name", SPACES)
def test_every_point_of_a_space_is_a_configuration(name: str) -> None:
    space = load_space(name)
    base = base_of(space)
    random.seed(0)
    points: list[Mapping[str, Any]] = [
        {field: domain.sample() for field, domain in space.space.items()} for _ in range(200)
    ]
    points += [dict(point) for point in space.first]
    if name in ("aux_loss", "depth", "pyramid_bins"):
        points += grid.points_of(space.grid)
    for point in points:
        assert set(point) == set(space.space)
        with_overrides(base, point)


def test_the_grids_are_the_papers_tables() -> None:
    assert [point["loss.aux_weight"] for point in grid.points_of(load_space("aux_loss").grid)] == [
        0.0,
        0.3,
        0.4,
        0.6,
        0.9,
    ]
    assert len(grid.points_of(load_space("pyramid_bins").grid)) == 7


def test_a_grid_of_points_is_those_points() -> None:
    points: list[dict[str, Any]] = [
        {"model.bins": (), "model.pool": "avg"},
        {"model.bins": (1, 2), "model.pool": "avg"},
    ]
    assert grid.points_of(points) == points
    space = grid.smallest_space(points)
    assert grid.points_of(space) == points
    with pytest.raises(ConfigError, match="GRID must be a space of choices, or points that have the same fields"):
        grid.points_of([{"seed": 0}, {"optim.lr": 0.1}])


@pytest.mark.parametrize("name", ["pyramid_bins", "aux_loss"])
def test_a_grid_is_tried_point_by_point_no_more_at_once_than_there_is_room(name: str) -> None:
    """Ray Tune's own search takes a tuple for a part of the space, and heeds no limit but its own."""
    points = grid.points_of(load_space(name).grid)
    variants = random_search.Random().build({}, points, second=None, at_once=2, seed=0)
    space = params.encoded_space(grid.smallest_space(points))
    variants.add_configurations(Experiment("x", lambda config: None, config=space, num_samples=len(points)))
    trials = []
    while (first := variants.next_trial()) is not None:
        pair = [first, variants.next_trial()]
        assert variants.next_trial() is None, "two at once"
        for trial in filter(None, pair):
            trials.append(trial)
            variants.on_trial_complete(trial.trial_id)
    assert [params.parameters(trial.config) for trial in trials] == points
    assert [trial_number(trial) for trial in trials] == list(range(1, len(points) + 1))


def test_a_range_has_no_grid() -> None:
    with pytest.raises(ConfigError, match=r"--algorithm grid: optim\.lr is a range"):
        grid.points_of(load_space("optim").space)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("SPACE = {}", "a space needs SPACE, OBJECTIVE and BUDGET"),
        ("SPACE, OBJECTIVE, BUDGET = {}, 'speed', 1", "OBJECTIVE = 'speed': choose from val/mIoU"),
        ("SPACE, OBJECTIVE, BUDGET = {}, 'val/mIoU', 7", r"BUDGET = '7': write Budget\(num_trials=8"),
    ],
)
def test_a_space_that_is_wrong_is_refused(
    content: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"space_of_mine_{abs(hash(problem))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=problem):
        load_space(name)


def test_a_space_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'pyramids': no such space .*known here are adapt, aux_loss, "):
        load_space("pyramids")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"second": "parameters"}, "--scheduler asha: cannot rank half-done trials of a second objective"),
        ({"seeds_per_trial": 2}, "--scheduler asha: cannot rank half-done trials of seeds_per_trial = 2"),
        ({"second": "parameters", "scheduler": "none", "algorithm": "random"}, "a second objective needs optuna"),
        ({"scheduler": "pbt"}, "--algorithm optuna: --scheduler pbt begins all trials before it could learn"),
        ({"scheduler": "hyperband"}, "--algorithm optuna: --scheduler hyperband begins all trials"),
        ({"seeds_per_trial": 0}, "--seeds_per_trial 0: must be at least 1"),
        ({"hours": 0.0}, "--hours 0.0: must be positive"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        wanted(**fields)


def built(search: SearchConfig) -> Any:
    return schedulers.find(search.scheduler).build(search.budget, search.space, num_trials=4, seed=0)


def test_asha_stops_bad_trials_but_none_at_its_end() -> None:
    scheduler: Any = built(wanted())  # evaluated at steps 2, 4, 6, 8
    assert scheduler.set_search_properties("objective", "max")
    said = {}
    for name, objective in (("good", 0.9), ("bad", 0.1)):
        trial = SimpleNamespace(trial_id=name)
        scheduler.on_trial_add(None, trial)
        for step in (2, 4, 6, 8):
            said[name, step] = scheduler.on_trial_result(None, trial, {"step": step, "objective": objective})
    assert [said["bad", step] for step in (2, 4, 8)] == ["STOP", "STOP", "CONTINUE"]
    assert {said["good", step] for step in (2, 4, 6, 8)} == {"CONTINUE"}
    whole = Budget(num_trials=4, max_steps=8, evaluate_every=8)
    assert built(wanted(budget=whole)) is None


@pytest.mark.parametrize("name", schedulers.names())
def test_a_driver_is_used_again_only_where_no_trial_is_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Tune would keep that of a stopped trial, whose training would go on in the next one's place."""
    monkeypatch.setattr("distseg.orchestration.capacity", lambda _: 1)
    algorithm = "random" if schedulers.find(name).pauses_trials else "optuna"
    search = wanted(scheduler=name, algorithm=algorithm, space=dict(load_space("optim").space))
    assert tuner._tune_config(search, RunConfig()).reuse_actors == (name == "none")
    assert not tuner._tune_config(replace(search, hours=1.0), RunConfig()).reuse_actors


def test_a_parameter_is_not_important_because_trials_with_it_were_trained_longer() -> None:
    space = {name: grid.smallest_space([{name: 0.0}, {name: 1.0}])[name] for name in ("helps", "goes_on")}
    trials = []
    for number, (helps, goes_on) in enumerate(5 * list(itertools.product((0.0, 1.0), repeat=2))):
        early = Evaluation(step=2, time_s=0.0, metrics={"val/mIoU": 0.1 + helps / 10 + number / 1000})
        late = Evaluation(step=8, time_s=1.0, metrics={"val/mIoU": 0.9})
        evaluations = (early, late) if goes_on else (early,)
        point = {"helps": helps, "goes_on": goes_on}
        trials.append(
            TrialRecord(
                trial_id=str(number), number=number, params=point, config={}, evaluations=evaluations, status="stopped"
            )
        )
    found = tuner.importances(wanted(space=space), trials)
    assert found["helps"] > 0.9 > found["goes_on"]


def test_a_trial_is_named_by_what_distinguishes_it() -> None:
    point = {"model.bins": (1, 2, 3, 6), "model.se_ratio": None, "optim.lr": 0.00123}
    config = trial_module.config_of(recipes.find("town"), point, 3, "folder", point)
    assert (config.name, config.checkpoint.uri) == ("t03-1236-None-0_00123", "folder")
    assert (dotted_fields(config)["model.bins"], config.optim.lr) == ([1, 2, 3, 6], 0.00123)


def test_trials_that_the_time_did_not_suffice_for_are_closed_as_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = wanted(uri=str(tmp_path / "search"), hours=0.1)
    closed: list[tuple[str, str]] = []

    class Tuner:
        def fit(self) -> None:  # Ray Tune tells no callback of the trials that it ends when the time is over
            for number, ended in ((1, "finished"), (2, None)):
                records.write_trial(search.uri, TrialRecord(trial_id=f"t{number}", number=number, params={}, config={}))
                if ended:
                    records.write_end(records.trial_folder(search.uri, f"t{number}"), "finished")

    monkeypatch.setattr(tuner, "_new_tuner", lambda *_: Tuner())

    def close_runs(folder: str, status: str) -> bool:
        closed.append((folder, status))
        return True

    monkeypatch.setattr("distseg.search.progress.close_runs", close_runs)
    tuner.run(search, base_of(load_space("optim")), resume=False, on_progress=lambda _: None)
    assert [trial.status for trial in records.read_trials(search.uri)] == ["finished", "stopped"]
    assert closed == [(records.trial_folder(search.uri, "t2"), "FINISHED")]
