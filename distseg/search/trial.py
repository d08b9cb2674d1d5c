"""One trial of a search: its driver begins or resumes its training, or one per seed, and tells Ray Tune how it goes.

The driver runs on the head and reserves no CPU. Else trials could hold CPUs for which their own workers wait.
"""

import contextlib
import queue
import re
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray import tune
from ray.train import UserCallback
from ray.tune.integration.ray_train import TuneReportCallback

from distseg import orchestration, storage
from distseg.config import RunConfig, from_dict, to_dict, with_overrides
from distseg.errors import DistsegError
from distseg.metric_names import MIOU, is_of_evaluation
from distseg.runs import find_run_in
from distseg.search import costs, objectives, records
from distseg.search.algorithms import SCORE
from distseg.search.params import TAKES_OVER, parameters
from distseg.search.results import format_value
from distseg.search.schedulers.pbt import take_over
from distseg.tracking import VARIED_TAG


def drive(params: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Drives one trial. Ray Tune calls it in an actor on the head; `options` are made by `tuner.run`.

    Ray Tune finds a resumed search's trials by the name of this function: it must stay.
    """
    trial_id = str(tune.get_context().get_trial_id())
    folder = records.trial_folder(options["search_uri"], trial_id)
    try:
        _train(params, options, trial_id, folder)
    except Exception as error:
        records.write_end(folder, "failed", str(error) if isinstance(error, DistsegError) else repr(error)[:300])
        raise
    records.write_end(folder, "finished")


def _train(params: Mapping[str, Any], options: Mapping[str, Any], trial_id: str, folder: str) -> None:
    """Begins or resumes the training, or those with different seeds one after the other."""
    number = int(tune.get_context().get_trial_name() or 0)
    other = params.get(TAKES_OVER)
    params = parameters(params)
    named_by = {} if options["changes_values"] else params
    config = config_of(from_dict(options["config"]), params, number, folder, named_by)
    if other is not None:
        take_over(config, options["search_uri"], trial_id, other["trial_id"], other["step"])
    cost = {options["second"]: costs.find(options["second"])(config)} if options["second"] else {}
    about: dict[str, Any] = {
        "trial_id": trial_id,
        "number": number,
        "params": dict(params),
        "config": to_dict(config),
        "costs": cost,
    }
    records.write_trial(options["search_uri"], records.TrialRecord(**about))
    tags = {"stage": "trial", "mlflow.parentRunId": options["parent_run_id"], VARIED_TAG: ",".join(params)}
    seeds = range(config.seed, config.seed + options["seeds"])
    if len(seeds) == 1:
        with _telling_tune() as tell:
            relay = _Relay(folder, options["objective"], cost, tell)
            _fit(config, folder, relay, tags, options, trains_again=options["drives_another"])
    else:
        metrics = _mean_over_seeds(config, seeds, folder, tags, options)
        records.write_evaluation(folder, config.optim.max_steps, metrics)
        score = objectives.score(metrics, options["objective"])
        tune.report({SCORE: score, "step": config.optim.max_steps, **cost})


def _fit(
    config: RunConfig,
    place: str,
    relay: UserCallback,
    tags: Mapping[str, str],
    options: Mapping[str, Any],
    *,
    trains_again: bool,
) -> None:
    """One training, in the run that `place` may have already."""
    orchestration.train(
        config,
        resume=find_run_in(place),
        tags=tags,
        callbacks=[relay],
        job=options["job"],
        hands_workers_on=trains_again,
    )


def _mean_over_seeds(
    config: RunConfig, seeds: Sequence[int], folder: str, tags: Mapping[str, str], options: Mapping[str, Any]
) -> dict[str, float]:
    """The mean of each metric over one training after the other, which differ by their seeds."""
    last: list[dict[str, float]] = []
    for seed in seeds:
        place = storage.join(folder, f"seed-{seed}")
        seeded = replace(config, seed=seed, checkpoint=replace(config.checkpoint, uri=place))
        if not records.has_ended(place):
            relay = _Relay(place, options["objective"], {}, None)
            trains_again = options["drives_another"] or seed != seeds[-1]
            _fit(seeded, place, relay, tags, options, trains_again=trains_again)
            records.write_end(place, "finished")
        last.append(records.read_evaluations(place)[-1].metrics)
    return {name: statistics.fmean(metrics[name] for metrics in last) for name in last[0]}


def config_of(
    base: RunConfig, params: Mapping[str, Any], number: int, folder: str, named_by: Mapping[str, Any]
) -> RunConfig:
    """The base with the trial's values. Its name has its number and those values that never change."""
    config = with_overrides(base, params)
    values = "-".join(re.sub(r"[^A-Za-z0-9_-]", "", format_value(v).replace(".", "_")) for v in named_by.values())
    name = f"t{number:02d}-{values}"[:60].rstrip("-")
    return replace(config, name=name, checkpoint=replace(config.checkpoint, uri=folder))


Tell = Callable[[dict[str, Any]], object]
_told: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()  # not the relay's: Ray sends that to workers, too


class _Relay(UserCallback):
    """In the training's controller: writes every evaluation, and tells it to Ray Tune, which may stop the trial."""

    def __init__(self, folder: str, objective: str, cost: Mapping[str, float], tell: Tell | None) -> None:
        self._folder, self._objective, self._cost, self._tell = folder, objective, dict(cost), tell

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        reported = metrics[0]
        if reported[MIOU] == orchestration.NO_SCORE:  # a checkpoint without an evaluation
            return
        step = int(reported["step"])
        values = {name: value for name, value in reported.items() if is_of_evaluation(name)}
        records.write_evaluation(self._folder, step, values)
        if self._tell is not None:
            self._tell({SCORE: objectives.score(values, self._objective), "step": step, **self._cost})


@contextlib.contextmanager
def _telling_tune() -> Iterator[Tell]:
    """What a controller tells Ray Tune by. At the end of the block Ray Tune has heard all of it.

    A controller in this process needs no actor in between, as Ray's own callback makes one. `tune.report` waits until
    the search has heard it: in a thread, since the controller has workers to look after.
    """
    if not orchestration.controls_here():
        callback: Any = TuneReportCallback()
        yield lambda result: callback.after_report(None, [result], None)
        return
    failed: list[Exception] = []
    thread = threading.Thread(target=_report_told, args=[failed], name="telling", daemon=True)
    thread.start()
    try:
        yield _tell_tune
    finally:
        _told.put(None)
        thread.join()
    if failed:
        raise failed[0]


def _tell_tune(result: dict[str, Any]) -> None:
    _told.put(result)


def _report_told(failed: list[Exception]) -> None:
    """Reads to the end in any case: in this process the next trial may begin, with the same queue."""
    for result in iter(_told.get, None):
        try:
            tune.report(result)
        except Exception as error:  # noqa: BLE001 — raised where the trial can fail by it
            failed.append(error)
