"""Spaces, schedulers, algorithms, objectives and costs by name, and a user's own from his working directory."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from distseg import search
from distseg.config import RunConfig
from distseg.errors import ConfigError
from distseg.search import algorithms, costs, objectives, schedulers

METRICS = {"val/mIoU": 0.6, "val/mIoU_worst": 0.2, "val/mIoU/night": 0.3}
MINE = """
from distseg.search import Algorithm, Scheduler

def night(metrics):
    return metrics["val/mIoU/night"]

def nights(metrics):
    return metrics["val/mIoU/nights"]

def unknown(metrics):
    return float("nan")

def steps(config):
    return config.optim.max_steps

class Mine(Scheduler):
    def build(self, budget, space, *, num_trials, seed):
        return None

class Learned(Algorithm):
    def build(self, space, first, *, second, at_once, seed):
        return None

NUMBER = 7
"""


@pytest.fixture
def my_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a user's module in the working directory, which is not on sys.path."""
    (tmp_path / "my_search.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "my_search"
    sys.modules.pop("my_search", None)


def test_what_comes_with_distseg() -> None:
    assert search.scheduler_names() == ("asha", "hyperband", "none", "pbt")
    assert search.algorithm_names() == ("grid", "optuna", "random")
    assert search.cost_names() == ("latency_ms", "parameters")
    for name in search.scheduler_names():
        assert isinstance(schedulers.find(name), search.Scheduler)
    for name in search.algorithm_names():
        assert isinstance(algorithms.find(name), search.Algorithm)


def test_a_users_own(my_search: str) -> None:
    assert objectives.score(METRICS, f"{my_search}:night") == 0.3
    assert costs.find(f"{my_search}:steps")(RunConfig()) == RunConfig().optim.max_steps
    assert type(schedulers.find(f"{my_search}:Mine")).__name__ == "Mine"
    assert type(algorithms.find(f"{my_search}:Learned")).__name__ == "Learned"
    assert search.default_algorithm(f"{my_search}:Mine") == "optuna"
    assert search.default_scheduler(f"{my_search}:Learned", None, 1) == "asha"


@pytest.mark.parametrize(
    ("objective", "problem"),
    [
        (
            "nights",
            "objective my_search:nights: the evaluation has no 'val/mIoU/nights'; did you mean 'val/mIoU/night'",
        ),
        ("unknown", "objective my_search:unknown: nan; it must be a finite number"),
        ("NUMBER", "objective 'my_search:NUMBER': not a function of an evaluation's metrics"),
    ],
)
def test_an_objective_that_gives_no_score_is_named(my_search: str, objective: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        objectives.score(METRICS, f"{my_search}:{objective}")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"objective": "val/mIou"}, "--objective 'val/mIou': did you mean 'val/mIoU'"),
        ({"scheduler": "ashaa"}, "--scheduler = 'ashaa': did you mean 'asha'"),
        ({"algorithm": "optun"}, "--algorithm = 'optun': did you mean 'optuna'"),
        ({"second": "latency"}, "--second = 'latency': did you mean 'latency_ms'"),
        ({"scheduler": "my_search:NUMBER"}, r"--scheduler my_search:NUMBER: not a subclass of distseg\.search\.Sched"),
        ({"algorithm": "my_search:Mine"}, r"--algorithm my_search:Mine: not a subclass of distseg\.search\.Algorithm"),
        ({"second": "my_search:NUMBER", "scheduler": "none"}, "--second my_search:NUMBER: not a function"),
    ],
)
def test_an_unknown_name_is_refused_with_what_is_known(my_search: str, fields: Mapping[str, str], problem: str) -> None:
    defaults: dict[str, object] = {
        "objective": "val/mIoU",
        "budget": search.Budget(num_trials=1, max_steps=1, evaluate_every=1),
    }
    with pytest.raises(ConfigError, match=problem):
        search.SearchConfig(uri="somewhere", space={}, first=(), **{**defaults, **fields})  # type: ignore[arg-type]


SPACE = '''"""{doc}"""
from distseg.search import Budget

SPACE, OBJECTIVE = {{}}, "mean_and_worst"
BUDGET = Budget(num_trials=1, max_steps=1, evaluate_every=1)
'''


@pytest.mark.parametrize("is_package", [True, False])
def test_spaces_of_the_working_directory_come_before_those_installed(
    is_package: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tune_spaces"
    folder.mkdir()
    (folder / "mine.py").write_text(SPACE.format(doc="A space of mine."))
    (folder / "depth.py").write_text(SPACE.format(doc="Another depth."))
    if is_package:
        (folder / "__init__.py").touch()
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "tune_spaces"}
    for name in before:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as the program does
    listed = search.list_spaces().splitlines()
    assert [line.split()[0] for line in listed if "mine" in line or "epth" in line] == ["depth", "mine"]
    assert search.load_space("mine").objective == search.load_space("depth").objective == "mean_and_worst"
    assert search.load_space("se_ratio").space.keys() == {"model.se_ratio"}, "one that is only installed"
    for name in [name for name in sys.modules if name.partition(".")[0] == "tune_spaces"]:
        del sys.modules[name]  # for good: monkeypatch would bring these back
