"""A search's records: plain files that outlive the processes of the search. Conclusions are drawn in results.py.

<uri>/search.json                          what was asked
<uri>/trials/<id>/trial.json               number, parameters, configuration, costs
<uri>/trials/<id>/evaluations/<step>.json  step, time and metrics of each evaluation
<uri>/trials/<id>/took_over/<step>.json    in a population: the trial whose training it goes on with from there
<uri>/trials/<id>/ended.json               finished, stopped (by the scheduler) or failed, and why
<uri>/trials/<id>/<run>/                   the training, as `distseg.train` makes it
<uri>/best.json                            the best trial's configuration: `distseg.train --config` takes it
<uri>/search.md                            all trials, best first
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

from distseg import storage
from distseg.errors import DataError
from distseg.search import objectives
from distseg.strict_json import Count, Line, Name

T = TypeVar("T")

Status = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    step: Count
    time_s: float  # since the epoch
    metrics: dict[Line, float]


@dataclass(frozen=True, kw_only=True)
class TakeOver:
    """In a population: a trial goes on with the training of another, from about this step."""

    trial_id: Name
    step: Count


@dataclass(frozen=True, kw_only=True)
class _End:
    """ended.json"""

    status: Status
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial, as its files say."""

    trial_id: Name
    number: Count
    params: dict[Line, Any]  # dotted field -> value
    config: dict[str, Any]  # the whole configuration, as config.to_dict
    evaluations: tuple[Evaluation, ...] = ()  # by step
    status: Status = "running"
    error: str = ""
    costs: dict[Line, float] = field(default_factory=dict)  # the second objective, to be minimised
    took_over: tuple[TakeOver, ...] = ()  # by step

    @property
    def steps(self) -> int:
        """The step of the last evaluation."""
        return self.evaluations[-1].step if self.evaluations else 0

    def score(self, objective: str, by_step: int | None = None) -> float | None:
        """The objective of the last evaluation, or of the last one up to a step; None if there is none."""
        done = [e for e in self.evaluations if by_step is None or e.step <= by_step]
        return objectives.score(done[-1].metrics, objective) if done else None


def trial_folder(search_uri: str, trial_id: str) -> str:
    return storage.join(search_uri, "trials", trial_id)


def write_trial(search_uri: str, trial: TrialRecord) -> None:
    """Writes what a trial is. A population writes it again when the trial's parameters change."""
    names = ("trial_id", "number", "params", "config", "costs")
    body = {name: value for name, value in asdict(trial).items() if name in names}
    _write(storage.join(trial_folder(search_uri, trial.trial_id), "trial.json"), body)


def write_evaluation(folder: str, step: int, metrics: Mapping[str, float]) -> None:
    """Writes an evaluation. One that is repeated after a crash replaces the one before."""
    evaluation = Evaluation(step=step, time_s=time.time(), metrics=dict(metrics))
    _write(storage.join(folder, "evaluations", f"{step:08d}.json"), asdict(evaluation))


def write_take_over(folder: str, trial_id: str, step: int) -> None:
    """Writes that this trial goes on with the training of another, from about this step."""
    _write(_took_over_uri(folder, step), {"trial_id": trial_id, "step": step})


def has_taken_over(folder: str, trial_id: str, step: int) -> bool:
    uri = _took_over_uri(folder, step)
    return storage.exists(uri) and _read(TakeOver, uri).trial_id == trial_id


def _read_take_overs(folder: str) -> list[TakeOver]:
    entries = storage.list_files(storage.join(folder, "took_over"))
    return sorted((_read(TakeOver, entry.uri) for entry in entries), key=lambda taken: taken.step)


def _took_over_uri(folder: str, step: int) -> str:
    return storage.join(folder, "took_over", f"{step:08d}.json")


def write_end(folder: str, status: Status, error: str = "") -> None:
    """Writes how a trial ended."""
    _write(storage.join(folder, "ended.json"), {"status": status, "error": error})


def has_ended(folder: str) -> bool:
    return storage.exists(storage.join(folder, "ended.json"))


def forget_end(folder: str) -> None:
    """Of a trial that begins again: Ray Tune's state was older than the record."""
    if has_ended(folder):
        storage.delete(storage.join(folder, "ended.json"))


def read_error(folder: str) -> str:
    """Why a trial that has ended failed; empty if it did not fail."""
    return _read(_End, storage.join(folder, "ended.json")).error


def read_evaluations(folder: str) -> list[Evaluation]:
    """By step. Raises DataError naming a record that is damaged."""
    entries = storage.list_files(storage.join(folder, "evaluations"))
    return sorted((_read(Evaluation, entry.uri) for entry in entries), key=lambda e: e.step)


def read_trials(search_uri: str) -> list[TrialRecord]:
    """All trials by number. Raises DataError naming a record that is damaged."""
    root = storage.join(search_uri, "trials")
    names = (entry.uri.removeprefix(root).strip("/") for entry in storage.list_files(root))
    ids = [name.removesuffix("/trial.json") for name in names if name.count("/") == 1 and name.endswith("/trial.json")]
    return sorted((_read_trial(trial_folder(search_uri, trial_id)) for trial_id in ids), key=lambda t: t.number)


def _read_trial(folder: str) -> TrialRecord:
    trial = _read(TrialRecord, storage.join(folder, "trial.json"))
    if trial.trial_id != folder.rpartition("/")[2]:
        raise DataError(f"{folder}: trial.json is of trial {trial.trial_id!r}; remove it, or search anew")
    end = _read(_End, storage.join(folder, "ended.json")) if has_ended(folder) else _End(status="running")
    evaluations, took_over = tuple(read_evaluations(folder)), tuple(_read_take_overs(folder))
    return replace(trial, status=end.status, error=end.error, evaluations=evaluations, took_over=took_over)


def _read(kind: type[T], uri: str) -> T:
    """Raises DataError naming a record that is damaged."""
    found: T = storage.read_json(kind, uri, DataError, "remove it, or search anew")
    return found


def _write(uri: str, body: Mapping[str, Any]) -> None:
    storage.write_bytes(uri, json.dumps(body, indent=1).encode())
