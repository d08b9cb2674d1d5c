"""A search's records: plain files that outlive whatever runs it, and what is concluded from them.

    <uri>/search.json                          what was asked
    <uri>/trials/<id>/trial.json               number, parameters, seed
    <uri>/trials/<id>/evaluations/<step>.json  step, time and metrics of each evaluation
    <uri>/trials/<id>/took_over/<step>.json    of a population: the trial whose training it goes on with from there
    <uri>/trials/<id>/ended.json               finished, stopped (by the scheduler) or failed, and why
    <uri>/trials/<id>/<run>/                   the training, as `distseg.train` makes it
    <uri>/best.json                            the best trial's configuration: `distseg.train --config` takes it
    <uri>/search.md                            all trials, best first

A trial is judged by its last evaluation, not by its luckiest.
"""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from distseg import storage
from distseg.errors import ConfigError, DataError
from distseg.metric_names import MIOU, MIOU_WORST
from distseg.review import markdown_table

ObjectiveName = Literal["val/mIoU", "val/mIoU_worst", "mean_and_worst"]
SecondName = Literal["parameters", "latency_ms"]
Algorithm = Literal["optuna", "random", "grid"]
Scheduler = Literal["asha", "hyperband", "pbt", "none"]
Status = Literal["running", "finished", "stopped", "failed"]
OBJECTIVES: tuple[ObjectiveName, ...] = (MIOU, MIOU_WORST, "mean_and_worst")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a search may spend. `max_steps` and `evaluate_every` replace the recipe's."""

    num_trials: int
    max_steps: int  # optimiser steps of a trial that is not stopped
    evaluate_every: int  # steps; also when a trial can first be stopped
    reduction: int = 2  # of the trials that reach a rung, one in so many goes on (ASHA, HyperBand)

    def __post_init__(self) -> None:
        for name, least in (("num_trials", 1), ("max_steps", 1), ("evaluate_every", 1), ("reduction", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"budget {name} = {getattr(self, name)}: must be at least {least}")


def score(metrics: Mapping[str, float], objective: ObjectiveName) -> float:
    """The objective, to be maximised, of one evaluation."""
    if objective == "mean_and_worst":
        return (metrics[MIOU] + metrics[MIOU_WORST]) / 2
    return metrics[objective]


# ---- one trial


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    step: int
    time_s: float  # since the epoch
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Trial:
    trial_id: str
    number: int
    params: dict[str, Any]  # dotted field -> value
    config: dict[str, Any]  # the whole configuration, as config.to_dict
    evaluations: tuple[Evaluation, ...] = ()  # by step
    status: Status = "running"
    error: str = ""
    costs: dict[str, float] = field(default_factory=dict)  # second objectives, to be minimised
    took_over: tuple[dict[str, Any], ...] = ()  # of a population, by step: {"step", "trial_id"} of whom

    @property
    def steps(self) -> int:
        return self.evaluations[-1].step if self.evaluations else 0

    def score(self, objective: ObjectiveName, by_step: int | None = None) -> float | None:
        """Of the last evaluation, or the last that was not after a step; None if there is none."""
        done = [e for e in self.evaluations if by_step is None or e.step <= by_step]
        return score(done[-1].metrics, objective) if done else None


def trial_folder(search_uri: str, trial_id: str) -> str:
    return storage.join(search_uri, "trials", trial_id)


def begin(search_uri: str, trial: Trial) -> None:
    """Records a trial's parameters, of a population as they are now."""
    names = ("trial_id", "number", "params", "config", "costs")
    body = {name: value for name, value in asdict(trial).items() if name in names}
    _write(storage.join(trial_folder(search_uri, trial.trial_id), "trial.json"), body)


def record(folder: str, step: int, metrics: Mapping[str, float]) -> None:
    """Records an evaluation; one done again after a crash replaces the one before."""
    evaluation = Evaluation(step=step, time_s=time.time(), metrics=dict(metrics))
    _write(storage.join(folder, "evaluations", f"{step:08d}.json"), asdict(evaluation))


def record_take_over(folder: str, trial_id: str, step: int) -> None:
    """Of a trial that goes on with another's training from about this step."""
    _write(_took_over_uri(folder, step), {"trial_id": trial_id, "step": step})


def has_taken_over(folder: str, trial_id: str, step: int) -> bool:
    uri = _took_over_uri(folder, step)
    return storage.exists(uri) and read_json(uri)["trial_id"] == trial_id


def _read_take_overs(folder: str) -> list[dict[str, Any]]:
    entries = storage.list_files(storage.join(folder, "took_over"))
    return sorted((read_json(entry.uri) for entry in entries), key=lambda taken: taken["step"])


def _took_over_uri(folder: str, step: int) -> str:
    return storage.join(folder, "took_over", f"{step:08d}.json")


def end(folder: str, status: Status, error: str = "") -> None:
    _write(storage.join(folder, "ended.json"), {"status": status, "error": error})


def has_ended(folder: str) -> bool:
    return storage.exists(storage.join(folder, "ended.json"))


def why_ended(folder: str) -> str:
    return str(read_json(storage.join(folder, "ended.json"))["error"])


def read_evaluations(folder: str) -> list[Evaluation]:
    """By step. Raises DataError naming a record that is damaged."""
    entries = storage.list_files(storage.join(folder, "evaluations"))
    return sorted((Evaluation(**read_json(entry.uri)) for entry in entries), key=lambda e: e.step)


def read_trials(search_uri: str) -> list[Trial]:
    """All trials by number. Raises DataError naming a record that is damaged."""
    root = storage.join(search_uri, "trials")
    names = (entry.uri.removeprefix(root).strip("/") for entry in storage.list_files(root))
    ids = [name.removesuffix("/trial.json") for name in names if name.count("/") == 1 and name.endswith("/trial.json")]
    return sorted((_read_trial(trial_folder(search_uri, trial_id)) for trial_id in ids), key=lambda t: t.number)


def _read_trial(folder: str) -> Trial:
    fields = read_json(storage.join(folder, "trial.json"))
    if has_ended(folder):
        fields |= read_json(storage.join(folder, "ended.json"))
    try:
        evaluations, took_over = tuple(read_evaluations(folder)), tuple(_read_take_overs(folder))
        return Trial(**fields, evaluations=evaluations, took_over=took_over)
    except TypeError as error:
        raise DataError(f"{folder}: damaged ({error}); remove it, or search anew") from None


# ---- all of them


def ranked(trials: Iterable[Trial], objective: ObjectiveName) -> list[Trial]:
    """Those with an evaluation, best first: a trial that got further before one that was stopped with more."""
    judged = [trial for trial in trials if trial.evaluations and trial.status != "failed"]
    finished = max((trial.steps for trial in judged), default=0)
    return sorted(judged, key=lambda t: (t.steps == finished, t.score(objective) or 0.0, -t.number), reverse=True)


def pareto_front(trials: Iterable[Trial], objective: ObjectiveName, second: SecondName) -> list[Trial]:
    """The trials that no other beats in both the objective and the cost, cheapest first."""
    front: list[Trial] = []
    judged = [trial for trial in trials if trial.evaluations and trial.status != "failed"]
    for trial in sorted(judged, key=lambda t: (t.costs[second], -(t.score(objective) or 0.0))):
        if not front or (trial.score(objective) or 0.0) > (front[-1].score(objective) or 0.0):
            front.append(trial)
    return front


def best_so_far(trials: Iterable[Trial], objective: ObjectiveName) -> list[tuple[int, float]]:
    """(optimiser steps spent by all trials, best objective until then) after each evaluation, in the order of time."""
    events = sorted((e.time_s, t.trial_id, e.step, score(e.metrics, objective)) for t in trials for e in t.evaluations)
    steps_of: dict[str, int] = {}
    curve: list[tuple[int, float]] = []
    for _, trial_id, step, value in events:
        steps_of[trial_id] = max(steps_of.get(trial_id, 0), step)
        curve.append((sum(steps_of.values()), max(value, curve[-1][1] if curve else value)))
    return curve


def comparable_step(trials: Iterable[Trial]) -> int:
    """The last step to which all that were evaluated came: beyond it those that were stopped would seem worse."""
    return min((t.steps for t in trials if t.evaluations and t.status != "failed"), default=0)


def random_search(trials: Iterable[Trial], objective: ObjectiveName, max_steps: int) -> list[tuple[int, float]]:
    """(optimiser steps, expected best objective) of 1, 2, … of these trials, drawn at random and trained in full.

    A trial that was stopped counts with what it had then, so that this is a little less than random search would find.
    """
    scores = sorted(t.score(objective) or 0.0 for t in trials if t.evaluations and t.status != "failed")
    curve = []
    for count in range(1, len(scores) + 1):
        chances = (math.comb(below, count - 1) / math.comb(len(scores), count) for below in range(len(scores)))
        curve.append((count * max_steps, sum(c * s for c, s in zip(chances, scores, strict=True))))
    return curve


def verdict(trials: Sequence[Trial], objective: ObjectiveName) -> str:
    """What a search found, in a few sentences."""
    order = ranked(trials, objective)
    if not order:
        return f"None of the {len(trials)} trials was evaluated."
    best, most = order[0], max(trial.steps for trial in order)
    whole = sum(trial.steps == most for trial in order)
    values = ", ".join(f"{name} {short(value)}" for name, value in best.params.items())
    score = f"{best.score(objective) or 0.0:.4f}"
    text = f"Trial {best.number} is the best of {len(trials)} by {objective}: {score}, {values}."
    if first := next((trial for trial in order if trial.number == 1 and trial is not best), None):
        text += f" Trial 1, the first point to try, has {first.score(objective) or 0.0:.4f}."
    return (
        f"{text} {whole} trials were trained to step {most}. Whether the lead is more than chance, several seeds of "
        "both tell (--retrain)."
    )


def markdown(
    trials: Sequence[Trial],
    objective: ObjectiveName,
    *,
    second: SecondName | None = None,
    importances: Mapping[str, float] | None = None,
    max_steps: int | None = None,
) -> str:
    """The verdict; all trials as a table, best first; what failed and why; how much each parameter mattered.

    With the `max_steps` of a trial, also the best so far against the steps spent, beside random search.
    """
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    order = ranked(trials, objective)
    rest = [trial for trial in trials if trial not in order]
    front = pareto_front(trials, objective, second) if second else []
    judged_by = dict.fromkeys((objective, *OBJECTIVES[:2]))
    columns = ["trial", *names, *judged_by, *([second] if second else []), "steps", ""]

    def row(trial: Trial) -> list[str]:
        scores = [trial.score(name) for name in judged_by]
        return [
            str(trial.number),
            *(short(trial.params.get(name)) for name in names),
            *("-" if value is None else f"{value:.4f}" for value in scores),
            *([f"{trial.costs[second]:,.4g}" if second in trial.costs else "-"] if second else []),
            str(trial.steps),
            trial.status + (", on the Pareto front" if trial in front else ""),
        ]

    lines = [verdict(trials, objective), "", markdown_table(columns, map(row, [*order, *rest]), escape=False)]
    failed = [f"- trial {trial.number}: {trial.error}" for trial in trials if trial.status == "failed"]
    if failed:
        lines += ["", "Failed:", "", *failed]
    numbers = {trial.trial_id: trial.number for trial in trials}
    taken = [(t["step"], trial.number, numbers[t["trial_id"]]) for trial in trials for t in trial.took_over]
    if taken:
        lines += ["", "Taken over:", ""]
        lines += [f"- step {step}: trial {number} went on as trial {other}" for step, number, other in sorted(taken)]
    if importances:
        at = f"at step {comparable_step(order)} of {len(order)} trials"
        lines += ["", f"Importance of each parameter (PED-ANOVA {at}; shares of 1, of a few dozen trials a hint):", ""]
        lines += [f"- {name}: {value:.2f}" for name, value in importances.items()]
    if max_steps is not None and len(order) > 1:
        lines += ["", _against_random_search(trials, objective, max_steps)]
    return "\n".join(lines) + "\n"


def _against_random_search(trials: Sequence[Trial], objective: ObjectiveName, max_steps: int) -> str:
    spent = best_so_far(trials, objective)
    header = ("steps spent", f"best {objective} so far", "random search among the same trials, expected")
    rows = []
    for steps, expected in random_search(trials, objective, max_steps):
        found = [best for at, best in spent if at <= steps]
        rows.append((f"{steps:,}", f"{found[-1]:.4f}" if found else "-", f"{expected:.4f}"))
        if steps >= spent[-1][0]:
            break
    return markdown_table(header, rows, escape=False)


def short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return (",".join(map(str, value)) or "()") if isinstance(value, list | tuple) else str(value)


def values_text(params: Mapping[str, Any]) -> str:
    """'optim.lr 0.001, model.bins 1,2'."""
    return ", ".join(f"{name} {short(value)}" for name, value in params.items())


# ---- files


def read_json(uri: str) -> dict[str, Any]:
    try:
        body = json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise DataError(f"{uri}: damaged ({error}); remove it, or search anew") from None
    if not isinstance(body, dict):
        raise DataError(f"{uri}: damaged (no object); remove it, or search anew")
    return body


def _write(uri: str, body: Mapping[str, Any]) -> None:
    storage.write_bytes(uri, json.dumps(body, indent=1).encode())
