"""python -m distseg.tune SPACE [--num_trials N] [--objective NAME] [--second parameters|latency_ms]
                          [--algorithm optuna|random|grid] [--scheduler asha|hyperband|pbt|none] [--hours H] [--keep N]
                          [--seeds_per_trial N] [--retrain SEED …] [--recipe NAME|MODULE:FUNCTION] [--config FILE.json]
                          [--dotted.field VALUE …] [--list] [--debug]
       python -m distseg.tune --resume URI [--retrain SEED …]

Searches a space (a module of tune_spaces, or your own) for the configuration with the best objective. Each trial is a
training as `distseg.train` makes it, on workers of its own, as many at a time as the cluster holds. `best.json` is what
`distseg.train --config` takes. Stop it whenever you like: --resume keeps finished trials and goes on with the others.
--retrain trains the best and the space's first point (the papers' values) in full with each seed, and compares them.
"""

import argparse
import importlib
import inspect
import json
import logging
import pkgutil
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.live import Live
from rich.table import Table

from distseg import cli, search, storage, tracking
from distseg.config import RunConfig, command_line_default, from_dict, recipes, to_dict, with_overrides
from distseg.data.embedded import ensure_town
from distseg.errors import ConfigError, DataError, TrackingError, TrainingError
from distseg.runs import resolve_tracking, save_search_view, with_absolute_paths
from distseg.search import Budget, ObjectiveName
from distseg.train import read_config_file, train_once

if TYPE_CHECKING:
    from distseg.search import Algorithm, Progress, Search

PROG = "python -m distseg.tune"
SPACES = "tune_spaces"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a module of tune_spaces says."""

    name: str
    space: Mapping[str, Any]  # SPACE: dotted field -> a domain of ray.tune
    objective: ObjectiveName  # OBJECTIVE
    budget: Budget  # BUDGET
    first: Sequence[Mapping[str, Any]]  # FIRST: points to try before all others; none
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]]  # GRID: what --algorithm grid goes over, or its points; SPACE
    recipe: str  # RECIPE; town


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} ({PROG} --help lists all)")


def main(arguments: Sequence[str]) -> int:
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: spaces lie beside the user's data
    rest = list(arguments)
    name = rest.pop(0) if rest and not rest[0].startswith("-") else None
    known, overrides = _parser().parse_known_args(rest)
    if known.list:
        print(list_spaces())
        return 0
    if (name is None) == (known.resume is None):
        raise ConfigError(f"give a space ({', '.join(_known_spaces())}) or --resume URI, one of the two")
    if name is None and overrides:
        raise ConfigError(f"{overrides[0]}: a search that is resumed keeps its configuration")
    from distseg import search

    if name is None:
        space, wanted, base = _asked_before(storage.absolute(known.resume))
    else:
        space = load_space(name)
        base = with_absolute_paths(_base(space, known, overrides))
        wanted = _wanted(space, known, base)
    if base.data.uri == storage.absolute(recipes.TOWN_URI):
        ensure_town(base.data.uri)
    storage.check_writable(wanted.uri.rpartition("/")[0])
    search.check(wanted, base)
    wanted = replace(wanted, parent_run_id=_open_parent(wanted, base))
    _keep_question(space, wanted, base)
    print(f"search      {wanted.uri}", flush=True)
    status = "FAILED"
    try:
        with _Screen(wanted.objective) as screen:
            search.run(wanted, base, resume=name is None, show=screen)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        _close_running(wanted)
        raise
    finally:
        best = _conclude(wanted, base, status)
    if best is None:
        raise TrainingError(f"{wanted.uri}: no trial was evaluated; search.md there says why each failed")
    if known.retrain:
        _retrain(space, wanted, base, best, known.retrain)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.allow_abbrev = False
    add = parser.add_argument
    add("--list", action="store_true", help="the spaces")
    add("--resume", metavar="URI", help="a search, as it printed itself")
    add("--num_trials", "--num-trials", type=int, help="in place of the space's budget")
    add("--objective", choices=search.OBJECTIVES, help="in place of the space's; to be maximised")
    add("--second", choices=("parameters", "latency_ms"), help="also to be minimised: gives a Pareto front")
    add(
        "--algorithm",
        choices=("optuna", "random", "grid"),
        help="optuna; random where trials are paused (hyperband, pbt)",
    )
    add(
        "--scheduler", choices=("asha", "hyperband", "pbt", "none"), help="what stops or changes bad trials early; asha"
    )
    add("--hours", type=float, help="no trial is begun or goes on after so many")
    add("--keep", type=int, default=3, help="so many best trials keep their checkpoints (3)")
    add("--seeds_per_trial", "--seeds-per-trial", type=int, default=1, help="trainings of which a trial is the mean")
    add("--retrain", type=int, nargs="+", metavar="SEED", help="then train the best and the first point in full")
    add("--recipe", metavar="NAME|MODULE:FUNCTION", help="what is searched around; the space's")
    add("--config", metavar="FILE.json", help="the same, from a file")
    return parser


# ---- spaces


def load_space(name: str) -> Space:
    """A module of tune_spaces, or any by its dotted path. Raises ConfigError saying what is wrong with it."""
    path = f"{SPACES}.{name}" if name in _known_spaces() else name
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise ConfigError(
            f"{name!r}: no such space ({error}); known here are {', '.join(_known_spaces()) or 'none'}"
        ) from None
    try:
        space, budget = dict(module.SPACE), module.BUDGET
        objective = module.OBJECTIVE
    except AttributeError as error:
        raise ConfigError(f"{path}: a space needs SPACE, OBJECTIVE and BUDGET ({error})") from None
    if objective not in search.OBJECTIVES:
        raise ConfigError(f"{path}: OBJECTIVE = {objective!r}: choose from {', '.join(search.OBJECTIVES)}")
    if not isinstance(budget, Budget):
        raise ConfigError(f"{path}: BUDGET is a {type(budget).__name__}, not a distseg.search.Budget")
    first = list(getattr(module, "FIRST", ()))
    recipe = getattr(module, "RECIPE", "town")
    return Space(
        name=name,
        space=space,
        objective=objective,
        budget=budget,
        first=first,
        grid=getattr(module, "GRID", space),
        recipe=recipe,
    )


def _known_spaces() -> list[str]:
    folder = Path.cwd() / SPACES
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]))


def list_spaces() -> str:
    """One line per space: its name and the first line of its docstring."""
    names = _known_spaces()
    docs = {name: inspect.getdoc(importlib.import_module(f"{SPACES}.{name}")) or "" for name in names}
    return "\n".join(f"{name:<20} {docs[name].splitlines()[0] if docs[name] else ''}" for name in names)


# ---- what is asked


def _base(space: Space, known: argparse.Namespace, overrides: Sequence[str]) -> RunConfig:
    if known.recipe and known.config:
        raise ConfigError("give only one of --recipe and --config")
    if known.config:
        config = read_config_file(known.config)
    else:
        recipe = known.recipe or space.recipe
        config = recipes.load(recipe) if ":" in recipe else recipes.find(recipe)
    budget = space.budget
    warmup_steps = min(config.optim.warmup_steps, budget.max_steps - 1)
    optim = replace(config.optim, max_steps=budget.max_steps, warmup_steps=warmup_steps)
    config = replace(config, optim=optim, evaluate=replace(config.evaluate, every_steps=budget.evaluate_every))
    config = command_line_default(config, overrides)
    parsed: RunConfig = cli.parse(
        RunConfig, overrides, prog=f"{PROG} {space.name}", description=__doc__ or "", default=config, flat=True
    )
    if parsed.tracking.register is not None:
        raise ConfigError(
            f"tracking.register = {parsed.tracking.register!r}: a search registers no trial; leave it out, and give "
            "it to distseg.train with the search's best.json"
        )
    return parsed


def _wanted(space: Space, known: argparse.Namespace, base: RunConfig) -> "Search":
    from distseg.search import PAUSING, Search

    budget = replace(
        space.budget,
        num_trials=known.num_trials if known.num_trials is not None else space.budget.num_trials,
        max_steps=base.optim.max_steps,
        evaluate_every=base.evaluate.every_steps or base.optim.max_steps,
    )
    algorithm: Algorithm = known.algorithm or ("random" if known.scheduler in PAUSING else "optuna")
    ranks_whole = known.second is not None or known.seeds_per_trial > 1 or algorithm == "grid"
    name = f"{space.name.rpartition('.')[2]}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return Search(
        uri=storage.join(base.checkpoint.uri, name),
        **_points(space, algorithm),
        objective=known.objective or space.objective,
        budget=budget,
        second=known.second,
        algorithm=algorithm,
        scheduler=known.scheduler or ("none" if ranks_whole else "asha"),
        seeds_per_trial=known.seeds_per_trial,
        hours=known.hours,
        keep=known.keep,
    )


def _points(space: Space, algorithm: str) -> dict[str, Any]:
    """The space, and the points of it that are tried before all others."""
    from distseg.search import choices, grid

    if algorithm != "grid":
        return {"space": space.space, "first": space.first}
    points = grid(space.grid)
    return {"space": choices(points), "first": points}


_PLAIN = ("uri", "objective", "second", "algorithm", "scheduler", "seeds_per_trial", "hours", "keep", "parent_run_id")


def _keep_question(space: Space, wanted: "Search", base: RunConfig) -> None:
    question = {name: getattr(wanted, name) for name in _PLAIN}
    question |= {"space": space.name, "budget": asdict(wanted.budget), "config": to_dict(base)}
    storage.write_bytes(storage.join(wanted.uri, "search.json"), json.dumps(question, indent=1).encode())


def _asked_before(uri: str) -> tuple[Space, "Search", RunConfig]:
    """A search's question, with the space's module as it is now. Raises DataError if there is none at `uri`."""
    from distseg.search import Search

    file = storage.join(uri, "search.json")
    if not storage.exists(file):
        raise DataError(f"{uri}: no search.json there; give the search's directory, as it printed itself")
    question = search.read_json(file)
    try:
        space = load_space(question["space"])
        plain = {name: question[name] for name in _PLAIN} | {"uri": uri}
        wanted = Search(
            **_points(space, plain["algorithm"]),
            budget=Budget(**question["budget"]),
            **plain,
        )
        return space, wanted, from_dict(question["config"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged ({error!r}); search anew") from None


# ---- what came of it


def _open_parent(wanted: "Search", base: RunConfig) -> str:
    """The search's own MLflow run; empty if tracking is off or the server does not answer."""
    uri, experiment = resolve_tracking(base)
    if uri == tracking.OFF:
        return ""
    tags = {"stage": "search", "search.uri": wanted.uri, "search.objective": wanted.objective}
    try:
        return tracking.open_run(uri, experiment, wanted.uri.rpartition("/")[2], base, tags)
    except TrackingError as error:
        log.warning("%s; the search goes on, its trials will have no parent run", error)
        return ""


def _close_running(wanted: "Search") -> None:
    from distseg.search import close_run

    for trial in search.read_trials(wanted.uri):
        if trial.status == "running":
            close_run(search.trial_folder(wanted.uri, trial.trial_id), "KILLED")


def _conclude(wanted: "Search", base: RunConfig, status: str) -> search.Trial | None:
    """Writes and prints the table and the best configuration, and closes the search's MLflow run."""
    from distseg.search import importances

    trials = search.read_trials(wanted.uri)
    best = next(iter(search.ranked(trials, wanted.objective)), None)
    table = search.markdown(
        trials,
        wanted.objective,
        second=wanted.second,
        importances=importances(wanted, trials),
        max_steps=wanted.budget.max_steps,
    )
    storage.write_bytes(storage.join(wanted.uri, "search.md"), table.encode())
    print(table)
    texts = {"search.md": table}
    metrics: dict[str, float] = {"search/num_trials": len(trials)}
    if best is not None:
        text = json.dumps(to_dict(_best_config(best, base)), indent=1)
        storage.write_bytes(storage.join(wanted.uri, "best.json"), text.encode())
        texts["best.json"] = text
        metrics |= {"search/best_objective": best.score(wanted.objective) or 0.0, "search/best_trial": best.number}
        print(f"best        trial {best.number}, {wanted.objective} {best.score(wanted.objective):.4f}")
        print(f"            python -m distseg.train --config {storage.join(wanted.uri, 'best.json')}")
    uri, _ = resolve_tracking(base)
    if wanted.parent_run_id:
        curve = search.best_so_far(trials, wanted.objective)
        try:
            tracking.finish_search(uri, wanted.parent_run_id, status, metrics, curve, texts, description=table)
        except TrackingError as error:
            log.warning("%s; the search is not closed there", error)
        if link := save_search_view(uri, base, list(wanted.space)):
            print(f"compare it  {link}")
    return best


def _best_config(best: search.Trial, base: RunConfig) -> RunConfig:
    return replace(with_overrides(base, best.params), name="best")


def _retrain(space: Space, wanted: "Search", base: RunConfig, best: search.Trial, seeds: Sequence[int]) -> None:
    """Trains the best and the first point with each seed; goes on where it was stopped."""
    contenders = {"best": _best_config(best, base)}
    if space.first:
        contenders["first"] = replace(with_overrides(base, space.first[0]), name="first")
    rows = ["| | " + " | ".join(["val/mIoU", "worst condition", wanted.objective]) + " |", "|---|---|---|---|"]
    for name, config in contenders.items():
        scores = []
        for seed in seeds:
            place = replace(config.checkpoint, uri=storage.join(wanted.uri, "retrained", f"{name}-s{seed}"))
            tables = train_once(replace(config, seed=seed, checkpoint=place))["tables"]
            scores.append({"val/mIoU": tables["mIoU"], "val/mIoU_worst": tables["mIoU_worst"]})
        names: tuple[ObjectiveName, ...] = ("val/mIoU", "val/mIoU_worst", wanted.objective)
        cells = [search.mean_and_spread([search.score(s, objective) for s in scores]) for objective in names]
        values = _values(best.params if name == "best" else space.first[0])
        rows.append(f"| {name}: {values} | " + " | ".join(cells) + " |")
    table = "\n".join(rows) + "\n"
    storage.write_bytes(storage.join(wanted.uri, "retrained.md"), table.encode())
    print(f"retrained with {len(seeds)} seeds\n\n{table}")


def _values(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {search.short(value)}" for name, value in params.items())


# ---- progress


class _Screen:
    """One live table on a terminal; elsewhere one plain line for each thing that happens."""

    def __init__(self, objective: str) -> None:
        self._objective = objective
        self._rows: dict[int, Progress] = {}
        self._live = Live(console=Console(), auto_refresh=False) if sys.stdout.isatty() else None

    def __enter__(self) -> "_Screen":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, progress: "Progress") -> None:
        self._rows[progress.number] = progress
        if self._live:
            self._live.update(self._table(), refresh=True)
            return
        score = "" if progress.objective is None else f"  {self._objective} {progress.objective:.4f}"
        happened = f"failed: {progress.error}" if progress.status == "failed" else progress.status
        line = f"trial {progress.number}: step {progress.step}{score}  {happened}  ({_values(progress.params)})"
        print(line, flush=True)

    def _table(self) -> Table:
        names = list(dict.fromkeys(name for row in self._rows.values() for name in row.params))
        table = Table("trial", *names, "step", self._objective, "")
        for number, row in sorted(self._rows.items()):
            score = "-" if row.objective is None else f"{row.objective:.4f}"
            values = (search.short(row.params.get(name)) for name in names)
            table.add_row(str(number), *values, str(row.step), score, row.error or row.status)
        return table


if __name__ == "__main__":
    cli.run(main)
