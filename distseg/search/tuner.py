"""A search by Ray Tune: it chooses the trials; each is a training on workers of its own, driven by trial.py.

Conclusions are drawn from the records (records.py), not from Ray Tune's state. That serves to go on after a crash.
"""

import logging
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from ray import tune

from distseg import orchestration, storage
from distseg.config import RunConfig, to_dict, with_overrides
from distseg.errors import ConfigError
from distseg.search import algorithms, legacy, records, results, schedulers, trial
from distseg.search.algorithms import SCORE
from distseg.search.algorithms.optuna import importances_of, tuples_as_choices
from distseg.search.params import encoded_space
from distseg.search.progress import SearchCallback, TrialProgress, close_earlier, closing, trial_number
from distseg.search.search_config import SearchConfig
from distseg.training import check_run

HEAD = {"node:__internal_head__": 0.001}  # where trials' drivers run; it reserves nothing that a worker could use
_PLAIN_PLACE = re.compile(r"[a-z0-9]+://[A-Za-z0-9._/-]+")
_STATE = "state"  # Ray Tune's own folder below a search's


def check(search: SearchConfig, base: RunConfig) -> None:
    """Joins the Ray cluster. Nothing else is begun or written.

    Raises what `check_run` raises for a point that cannot be trained, and ResourceError if the cluster can never hold a
    training.
    """
    for point in search.first or [{}]:
        check_run(with_overrides(base, point))
    if storage.is_remote(search.uri) and not _PLAIN_PLACE.fullmatch(search.uri):
        raise ConfigError(
            f"checkpoint.uri = {base.checkpoint.uri}: Ray Tune reads it as an address; for a search use letters, "
            "digits, '-', '_', '.' and '/' in it"
        )
    if base.scaling.min_workers is not None:
        raise ConfigError(
            f"scaling.min_workers = {base.scaling.min_workers}: each trial of a search has scaling.num_workers "
            "workers; leave it out"
        )
    orchestration.join(search.uri)
    orchestration.check_resources(base)


def run(search: SearchConfig, base: RunConfig, *, resume: bool, on_progress: Callable[[TrialProgress], None]) -> None:
    """Runs the trials, or the rest of them, after `check`. What came of them is in the search's records.

    A trial that fails does not stop the others.
    """
    orchestration.prepare_search()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    SearchCallback.on_progress, SearchCallback.search_uri = staticmethod(on_progress), search.uri
    state_uri = storage.join(search.uri, _STATE)
    closed = close_earlier(search.uri) if resume else ()
    with tuples_as_choices(), legacy.old_names():
        if resume and _has_state(state_uri):
            space = _told_space(search)
            tuner = tune.Tuner.restore(state_uri, _trainable(search, base), resume_unfinished=True, param_space=space)
        else:
            tuner = _new_tuner(search, base)
        with (
            closing(search.uri, search.objective, search.keep, earlier=closed) as close,
            orchestration.places_come_free(),
        ):
            SearchCallback.close = staticmethod(close)
            tuner.fit()
            for left in records.read_trials(search.uri):  # the time was over; Ray Tune says nothing of those
                if left.status == "running":
                    folder = records.trial_folder(search.uri, left.trial_id)
                    records.write_end(folder, "stopped")
                    close(folder, "FINISHED")


def _has_state(state_uri: str) -> bool:
    return next(iter(storage.list_files(state_uri)), None) is not None


def _new_tuner(search: SearchConfig, base: RunConfig) -> tune.Tuner:
    return tune.Tuner(
        _trainable(search, base),
        param_space=_told_space(search),
        tune_config=_tune_config(search, base),
        run_config=tune.RunConfig(
            name=_STATE,
            storage_path=search.uri,
            verbose=0,
            callbacks=[SearchCallback()],
            failure_config=tune.FailureConfig(max_failures=0),  # of trials; scaling.max_failures is of their workers
        ),
    )


def _trainable(search: SearchConfig, base: RunConfig) -> Any:
    """What Ray Tune runs for each trial, and where."""
    options = {
        "search_uri": search.uri,
        "config": to_dict(base),
        "objective": search.objective,
        "second": search.second,
        "seeds": search.seeds_per_trial,
        "parent_run_id": search.parent_run_id,
        "changes_values": schedulers.find(search.scheduler).changes_values,
        "job": orchestration.job_id(),
        "drives_another": _all_trials_end_by_themselves(search),
    }
    return tune.with_resources(tune.with_parameters(trial.drive, options=options), _place(search, base))


def _place(search: SearchConfig, base: RunConfig) -> dict[str, float]:
    """What each trial's driver asks for.

    If trials are paused, as many drivers fit on the head as the cluster holds trainings; the other trials wait without
    a process. `max_concurrent_trials` would count paused trials too, and never let the rest begin.
    """
    if not schedulers.find(search.scheduler).pauses_trials:
        return HEAD
    (name,) = HEAD
    return {name: math.floor(990 / orchestration.capacity(base)) / 1000}


def _told_space(search: SearchConfig) -> dict[str, Any] | None:
    """The space for Ray Tune; None if the algorithm has it instead."""
    return None if algorithms.find(search.algorithm).learns else encoded_space(search.space)


def _tune_config(search: SearchConfig, base: RunConfig) -> tune.TuneConfig:
    algorithm, scheduler = algorithms.find(search.algorithm), schedulers.find(search.scheduler)
    num_trials = len(search.first) if algorithm.tries_every_point else search.budget.num_trials
    at_once = 0 if scheduler.pauses_trials else max(1, min(orchestration.capacity(base), num_trials))  # 0: no limit
    return tune.TuneConfig(
        # Ray Tune takes one objective only; an algorithm for two knows them from `build`.
        metric=None if search.second else SCORE,
        mode=None if search.second else "max",
        search_alg=algorithm.build(search.space, search.first, second=search.second, at_once=at_once, seed=base.seed),
        scheduler=scheduler.build(search.budget, search.space, num_trials=num_trials, seed=base.seed),
        num_samples=num_trials,
        max_concurrent_trials=(at_once or None) if algorithm.learns else None,
        reuse_actors=_all_trials_end_by_themselves(search),
        time_budget_s=None if search.hours is None else search.hours * 3600,
        trial_name_creator=_trial_name,
        trial_dirname_creator=_trial_folder,
    )


def _all_trials_end_by_themselves(search: SearchConfig) -> bool:
    """Then a driver that has ended its trial can drive another, which is one import of torch less.

    A driver whose trial is stopped or paused must be killed, and its training with it: Ray Tune would keep it instead.
    """
    scheduler = schedulers.find(search.scheduler)
    return not (scheduler.compares_unfinished or scheduler.pauses_trials or search.hours)


def _trial_name(trial: Any) -> str:
    return str(trial_number(trial))


def _trial_folder(trial: Any) -> str:
    return str(trial.trial_id)


def importances(search: SearchConfig, trials: Sequence[records.TrialRecord]) -> dict[str, float]:
    """How much of the score's variation each parameter explains (PED-ANOVA), largest first; {} for a few trials.

    The scores are those at the last step that all trials came to: a stopped trial has a lower last score for that
    reason alone.
    """
    judged = [trial for trial in trials if trial.evaluations and trial.status != "failed"]
    step = results.comparable_step(judged)
    scores = [(trial.params, trial.score(search.objective, step) or 0.0) for trial in judged]
    return importances_of(search.space, scores)
