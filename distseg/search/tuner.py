"""A search: Ray Tune chooses the trials; each is a training on workers of its own, driven by `distseg.search.trial`.

What is concluded later is read from the records of `distseg.search`, not from Ray Tune's state, which serves to go on
after a crash.
"""

import contextlib
import itertools
import logging
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import optuna
from ray import tune
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Categorical, Domain
from ray.util.state import list_actors

from distseg import orchestration, storage
from distseg.config import RunConfig, to_dict, with_overrides
from distseg.errors import ConfigError, DistsegError, ResourceError, first_line
from distseg.runs import Run, check_run, finalize_run, find_run_in
from distseg.search import population, records, trial
from distseg.search.records import Algorithm, Budget, ObjectiveName, Scheduler, SecondName

log = logging.getLogger(__name__)

PAUSING: tuple[Scheduler, ...] = ("hyperband", "pbt")  # trials wait for each other
HEAD = {"node:__internal_head__": 0.001}  # where trials' drivers run; it reserves nothing that a worker could use
_STATE = "state"  # Ray Tune's own folder below a search's


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is asked of a search."""

    uri: str
    space: Mapping[str, Domain]  # dotted field -> where its values come from
    first: Sequence[Mapping[str, Any]]  # points to try before all others; of a grid all
    objective: ObjectiveName
    budget: Budget
    second: SecondName | None = None  # to be minimised
    algorithm: Algorithm = "optuna"
    scheduler: Scheduler = "asha"
    seeds_per_trial: int = 1
    hours: float | None = None
    keep: int = 3  # trials whose checkpoints stay
    parent_run_id: str = ""  # MLflow's

    def __post_init__(self) -> None:
        if self.scheduler in PAUSING and self.algorithm == "optuna":
            raise ConfigError(
                f"--algorithm optuna: --scheduler {self.scheduler} begins all trials before it could learn from any; "
                "choose random or grid"
            )
        several = self.second is not None or self.seeds_per_trial > 1
        if several and self.scheduler != "none":
            what = "a second objective" if self.second else f"seeds_per_trial = {self.seeds_per_trial}"
            raise ConfigError(f"--scheduler {self.scheduler}: cannot rank half-done trials of {what}; give none")
        if self.second is not None and self.algorithm != "optuna":
            raise ConfigError(f"--algorithm {self.algorithm}: a second objective needs optuna")
        for name, least in (("seeds_per_trial", 1), ("keep", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name} {getattr(self, name)}: must be at least {least}")
        if self.hours is not None and self.hours <= 0:
            raise ConfigError(f"--hours {self.hours}: must be positive")


def check(wanted: Search, base: RunConfig) -> None:
    """Joins the Ray cluster. Nothing else is begun or written.

    Raises ConfigError and others for a point that cannot be trained, ResourceError if the cluster can never hold one or
    cannot stop one.
    """
    for point in wanted.first or [{}]:
        check_run(with_overrides(base, point))
    if base.scaling.min_workers is not None:
        raise ConfigError(
            f"scaling.min_workers = {base.scaling.min_workers}: each trial of a search has scaling.num_workers "
            "workers; leave it out"
        )
    orchestration.join(wanted.uri)
    orchestration.check_resources(base)
    if wanted.scheduler != "none":
        check_places_come_free()


def check_places_come_free() -> None:
    """Raises ResourceError on a cluster where the workers of a stopped trial would keep their place for good.

    What frees it, a helper of Ray Train, asks Ray's dashboard whether the trial is still there.
    """
    try:
        list_actors(limit=1, timeout=10, raise_on_missing_output=False)
    except Exception as error:  # noqa: BLE001 — Ray names none
        raise ResourceError(
            f"the Ray cluster's dashboard does not answer ({first_line(error)}); start the head with "
            "--include-dashboard=true, or choose --scheduler none, which stops no trial"
        ) from None


def run(wanted: Search, base: RunConfig, *, resume: bool, show: Callable[["Progress"], None]) -> None:
    """Runs the trials, or the rest of them, after `check`. What came of them is in the search's records.

    A trial that fails does not stop the others.
    """
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the records are ours
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # and so is what is said
    os.environ.setdefault("TUNE_FORCE_TRIAL_CLEANUP_S", "2")  # what is stopped would else keep its workers for minutes
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "5")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is a KeyboardInterrupt, as everywhere
    _Ends.show = staticmethod(show)
    options: dict[str, Any] = {"search_uri": wanted.uri, "config": to_dict(base), "objective": wanted.objective}
    options |= {"second": wanted.second, "seeds": wanted.seeds_per_trial, "parent_run_id": wanted.parent_run_id}
    options |= {"is_population": wanted.scheduler == "pbt", "job": orchestration.job_id()}
    trainable = tune.with_resources(tune.with_parameters(trial.drive, options=options), _place(wanted, base))
    has_told = wanted.algorithm == "optuna"  # the space to the algorithm
    space = None if has_told else population.space_of_wholes(wanted.space)
    state_uri = storage.join(wanted.uri, _STATE)
    if resume and _has_state(state_uri):
        tuner = tune.Tuner.restore(state_uri, trainable, resume_unfinished=True, param_space=space)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=_tune_config(wanted, base),
            run_config=tune.RunConfig(
                name=_STATE,
                storage_path=wanted.uri,
                verbose=0,
                callbacks=[_Ends(wanted.uri, wanted.objective, wanted.keep)],
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
    with _tuples_as_categories():
        tuner.fit()


def _place(wanted: Search, base: RunConfig) -> dict[str, float]:
    """What each trial's driver asks for.

    Where trials are paused, as many as the cluster holds share the head, so that the others wait without a process. The
    limit `max_concurrent_trials` would count those that are paused, and never let the rest begin.
    """
    if wanted.scheduler not in PAUSING:
        return HEAD
    (name,) = HEAD
    return {name: math.floor(990 / orchestration.capacity(base)) / 1000}


def _has_state(state_uri: str) -> bool:
    return next(iter(storage.list_files(state_uri)), None) is not None


def grid(asked: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every combination of the values of a space; of a list of points, those.

    Raises ConfigError for a range, which has no end of values, and for points that differ in what they say.
    """
    if not isinstance(asked, Mapping):
        if not asked or any(point.keys() != asked[0].keys() for point in asked):
            raise ConfigError("--algorithm grid: GRID must be a space of choices, or points that have the same fields")
        return [dict(point) for point in asked]
    for name, domain in asked.items():
        if not isinstance(domain, Categorical):
            raise ConfigError(f"--algorithm grid: {name} is a range; choose random or optuna, or a space of choices")
    axes = [[(name, value) for value in domain.categories] for name, domain in asked.items()]
    return [dict(point) for point in itertools.product(*axes)]


def choices(points: Sequence[Mapping[str, Any]]) -> dict[str, Domain]:
    """The smallest space that holds these points."""
    return {name: tune.choice(list(dict.fromkeys(point[name] for point in points))) for name in points[0]}


def _tune_config(wanted: Search, base: RunConfig) -> tune.TuneConfig:
    budget, points = wanted.budget, [dict(point) for point in wanted.first]
    capacity = orchestration.capacity(base)
    num_trials = len(points) if wanted.algorithm == "grid" else budget.num_trials
    at_once = 0 if wanted.scheduler in PAUSING else max(1, min(capacity, num_trials))  # 0: no limit
    names = ["objective", *([wanted.second] if wanted.second else [])]
    modes = ["max", "min"][: len(names)]
    algorithm: Any
    if wanted.algorithm == "optuna":
        with _tuples_as_categories():
            space = OptunaSearch.convert_search_space(dict(wanted.space))
        metric, mode = (names, modes) if wanted.second else (names[0], modes[0])
        algorithm = OptunaSearch(space, metric=metric, mode=mode, points_to_evaluate=points, seed=base.seed)
    else:
        algorithm = plain_search(points, at_once, base.seed)
    return tune.TuneConfig(
        # With several objectives Optuna knows them, and nobody else may.
        metric=None if wanted.second else names[0],
        mode=None if wanted.second else modes[0],
        search_alg=algorithm,
        scheduler=_scheduler(wanted, num_trials, base.seed),
        num_samples=num_trials,
        max_concurrent_trials=at_once or None if wanted.algorithm == "optuna" else None,
        time_budget_s=None if wanted.hours is None else wanted.hours * 3600,
        trial_name_creator=lambda trial: str(_number(trial)),
        trial_dirname_creator=lambda trial: str(trial.trial_id),
    )


def plain_search(points: Sequence[Mapping[str, Any]], at_once: int, seed: int) -> BasicVariantGenerator:
    """Ray Tune's own search: these points, then random ones. It heeds no limit but one that it was made with."""
    wholes = [{name: population.as_whole(value) for name, value in point.items()} for point in points]
    return BasicVariantGenerator(points_to_evaluate=wholes or None, max_concurrent=at_once, random_state=seed)


@contextlib.contextmanager
def _tuples_as_categories() -> Iterator[None]:
    """Optuna warns of each that its databases could not hold it; there is no database here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _scheduler(wanted: Search, num_trials: int, seed: int) -> TrialScheduler | None:
    budget = wanted.budget
    match wanted.scheduler:
        case "asha":
            if budget.evaluate_every >= budget.max_steps:
                return None  # there is nothing to stop
            return ASHAScheduler(
                time_attr="step",
                max_t=budget.max_steps - 1,  # no rung at the end, where a stop would only cut off the report
                grace_period=budget.evaluate_every,
                reduction_factor=budget.reduction,
                stop_last_trials=False,  # they end by themselves, in order
            )
        case "hyperband":
            return HyperBandScheduler(
                time_attr="step", max_t=budget.max_steps, reduction_factor=budget.reduction, stop_last_trials=False
            )
        case "pbt":
            return population.Population(wanted.space, num_trials, budget.max_steps, seed=seed)
        case "none":
            return None


# -------------------------------------------------------------------------------------------------- how the trials go


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How a trial goes."""

    number: int
    params: Mapping[str, Any]
    status: records.Status
    step: int = 0
    objective: float | None = None
    error: str = ""


class _Ends(tune.Callback):
    """Says how trials go, closes what the scheduler stopped, and deletes the losers' checkpoints.

    The rule: checkpoints stay of trials that run and of the `keep` best of those that ended.
    """

    show: ClassVar[Callable[[Progress], None]]  # of the class: Ray Tune stores its instances and brings them back

    def __init__(self, search_uri: str, objective: ObjectiveName, keep: int) -> None:
        self._search_uri, self._objective, self._keep = search_uri, objective, keep

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial, "running", trial.last_result)  # of one that was paused

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "objective" in result:
            self._tell(trial, "running", result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with _never_stopping_the_search():
            folder = records.trial_folder(self._search_uri, trial.trial_id)
            status: records.Status = "finished" if records.has_ended(folder) else "stopped"
            if status == "stopped":
                records.end(folder, status)
                close_run(folder, "FINISHED")
            self._tell(trial, status, trial.last_result)
            self._prune()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with _never_stopping_the_search():
            folder = records.trial_folder(self._search_uri, trial.trial_id)
            if not records.has_ended(folder):
                records.end(folder, "failed", "the process that drove it was lost")
            close_run(folder, "FAILED")
            self._tell(trial, "failed", trial.last_result, records.why_ended(folder))

    @staticmethod
    def _tell(trial: Any, status: records.Status, result: Mapping[str, Any] | None = None, error: str = "") -> None:
        result = result or {}
        _Ends.show(
            Progress(
                number=_number(trial),
                params=population.parameters(trial.config),
                status=status,
                step=int(result.get("step", 0)),
                objective=result.get("objective"),
                error=error,
            )
        )

    def _prune(self) -> None:
        trials = records.read_trials(self._search_uri)
        ended = records.ranked([trial for trial in trials if trial.status in ("finished", "stopped")], self._objective)
        for loser in ended[self._keep :]:
            delete_checkpoints(records.trial_folder(self._search_uri, loser.trial_id))


def close_run(folder: str, status: str) -> None:
    """Closes the trial's MLflow run, whose own process was killed."""
    run_uri = find_run_in(folder)
    if run_uri is not None:
        finalize_run(Run.read(run_uri), status)


def delete_checkpoints(folder: str) -> None:
    uris = {entry.uri.rpartition("/")[0] for entry in storage.list_files(folder)}
    for uri in uris:
        if uri.rpartition("/")[2].startswith("checkpoint_"):
            storage.delete_tree(uri)


@contextlib.contextmanager
def _never_stopping_the_search() -> Iterator[None]:
    """Ray Tune ends a search when a callback raises."""
    try:
        yield
    except DistsegError as error:
        log.warning("%s", error)


def _number(trial: Any) -> int:
    """Which of the search's trials it is, from 1. As `ray_trial` has it by its name."""
    counted = re.fullmatch(r".*_(\d{5,})", trial.trial_id)  # from 0, by Ray Tune's own search; Optuna's tells nothing
    return int(counted[1]) + 1 if counted else int(trial.experiment_tag.partition("_")[0])


def importances(wanted: Search, trials: Sequence[records.Trial]) -> dict[str, float]:
    """How much of the objective's variation each parameter explains (PED-ANOVA), largest first; {} for a few trials.

    The objective at the last step that all came to: what was stopped early has less for that reason alone.
    """
    judged = [trial for trial in trials if trial.evaluations and trial.status != "failed"]
    with _tuples_as_categories():
        distributions = OptunaSearch.convert_search_space(dict(wanted.space))
    varied = {name for name in wanted.space if len({str(trial.params.get(name)) for trial in judged}) > 1}
    if len(judged) < 4 or not varied:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(direction="maximize")
        for trial in judged:
            params = {name: _hashable(trial.params[name]) for name in distributions}
            value = trial.score(wanted.objective, records.comparable_step(judged))
            study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=value))
        found = optuna.importance.get_param_importances(study, params=sorted(varied))
    return dict(found)


def _hashable(value: Any) -> Any:
    """JSON has made lists of tuples."""
    return tuple(value) if isinstance(value, list) else value
