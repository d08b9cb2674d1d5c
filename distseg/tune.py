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

import secrets
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from distseg import cli, search, storage
from distseg.config import RunConfig, recipes, with_overrides
from distseg.data.embedded import ensure_town
from distseg.errors import ConfigError, TrainingError
from distseg.evaluation import as_metrics
from distseg.metric_names import MIOU, MIOU_WORST
from distseg.review import markdown_table, mean_and_spread
from distseg.runs import taken, with_absolute_paths

PROG = "python -m distseg.tune"


def _one_of(names: Iterable[str]) -> Any:
    """How --help shows an argument that takes one of these names, or the user's own."""
    return tyro.conf.arg(metavar="|".join([*names, "MODULE:NAME"]))


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What belongs to the program; everything else overrides a field of the configuration."""

    list: bool = False
    """List the spaces."""
    resume: str | None = None
    """The URI of a search that was stopped, as it printed itself."""
    num_trials: int | None = None
    """In place of the space's budget."""
    objective: Annotated[str | None, _one_of(search.OBJECTIVES)] = None
    """In place of the space's; it is maximised."""
    second: Annotated[str | None, _one_of(search.cost_names())] = None
    """Also minimise this, which gives a Pareto front."""
    algorithm: Annotated[str | None, _one_of(search.algorithm_names())] = None
    """By default optuna; random where trials are paused (hyperband, pbt)."""
    scheduler: Annotated[str | None, _one_of(search.scheduler_names())] = None
    """What stops or changes bad trials early; by default asha."""
    hours: float | None = None
    """After so many hours no trial begins or goes on."""
    keep: int = 3
    """So many of the best trials keep their checkpoints."""
    seeds_per_trial: int = 1
    """Trainings of which a trial is the mean."""
    retrain: tuple[int, ...] = ()
    """Seeds: then train the best and the first point in full with each. Those that the search itself used say nothing,
    since they chose the best point, and are left out: by default give others than 0."""
    recipe: str | None = None
    """NAME or MODULE:FUNCTION, what is searched around; by default the space's."""
    config: str | None = None
    """The same, from a file in JSON."""


def main(arguments: Sequence[str]) -> int:
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: spaces lie beside the user's data
    rest = list(arguments)
    name = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if {"-h", "--help"} & set(rest) and name is None:
        cli.parse(Arguments, ["--help"], prog=PROG, description=__doc__ or "")
    options, overrides = cli.parse_known(Arguments, rest, prog=PROG, description=__doc__ or "")
    if options.list:
        cli.say(*search.list_spaces().splitlines())
        return 0
    if (name is None) == (options.resume is None):
        raise ConfigError(f"give a space ({', '.join(search.space_names())}) or --resume URI, one of the two")
    if name is None and overrides:
        raise ConfigError(f"{overrides[0]}: a search that is resumed keeps its configuration")
    if name is None:
        assert options.resume is not None
        space, wanted, base = search.read_question(storage.absolute(options.resume))
    else:
        space = search.load_space(name)
        base = with_absolute_paths(_base(space, options, overrides))
        wanted = _wanted(space, options, base)
    seeds = search.seeds_to_compare(options.retrain, range(base.seed, base.seed + wanted.seeds_per_trial))
    for seed in seeds:
        replace(base, seed=seed)  # one that is impossible is refused before the search
    best = _search(space, wanted, base, resume=name is None)
    if seeds:
        _retrain(space, wanted, base, best, seeds)
    return 0


def _search(space: search.Space, wanted: search.SearchConfig, base: RunConfig, *, resume: bool) -> search.TrialRecord:
    """The best trial. Raises TrainingError if none was evaluated."""
    if base.data.uri == storage.absolute(recipes.TOWN_URI):
        ensure_town(base.data.uri)
    storage.check_writable(wanted.uri.rpartition("/")[0])
    search.check(wanted, base)
    with taken(wanted.uri, "is searching there"):
        return _search_alone(space, wanted, base, resume=resume)


def _search_alone(
    space: search.Space, wanted: search.SearchConfig, base: RunConfig, *, resume: bool
) -> search.TrialRecord:
    wanted = replace(wanted, parent_run_id=search.open_parent_run(wanted, base))
    search.write_question(space, wanted, base)
    cli.say(f"search      {wanted.uri}")
    status = "FAILED"
    try:
        with search.SearchDisplay(wanted.objective) as display:
            search.run(wanted, base, resume=resume, on_progress=display)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        search.close_all(wanted.uri)
        raise
    finally:
        best = search.conclude(wanted, base, status)
    if best is None:
        raise TrainingError(f"{wanted.uri}: no trial was evaluated; search.md there says why each failed")
    return best


# ---- what is asked


def _base(space: search.Space, options: Arguments, overrides: Sequence[str]) -> RunConfig:
    if options.recipe and options.config:
        raise ConfigError("give only one of --recipe and --config")
    if options.config:
        config = cli.read_config_file(options.config)
    else:
        recipe = options.recipe or space.recipe
        config = recipes.load(recipe) if ":" in recipe else cli.named_recipe(recipe, overrides)
    budget = space.budget
    warmup_steps = min(config.optim.warmup_steps, budget.max_steps - 1)
    optim = replace(config.optim, max_steps=budget.max_steps, warmup_steps=warmup_steps)
    config = replace(config, optim=optim, evaluate=replace(config.evaluate, every_steps=budget.evaluate_every))
    parsed = cli.override(config, overrides, prog=f"{PROG} {space.name}", description=__doc__ or "")
    if parsed.tracking.register is not None:
        raise ConfigError(
            f"tracking.register = {parsed.tracking.register!r}: a search registers no trial; leave it out, and give "
            "it to distseg.train with the search's best.json"
        )
    return parsed


def _wanted(space: search.Space, options: Arguments, base: RunConfig) -> search.SearchConfig:
    budget = replace(
        space.budget,
        num_trials=options.num_trials if options.num_trials is not None else space.budget.num_trials,
        max_steps=base.optim.max_steps,
        evaluate_every=base.evaluate.every_steps or base.optim.max_steps,
    )
    algorithm = options.algorithm or search.default_algorithm(options.scheduler)
    scheduler = options.scheduler or search.default_scheduler(algorithm, options.second, options.seeds_per_trial)
    name = f"{space.name.rpartition('.')[2]}-{secrets.token_hex(2)}-{time.strftime('%Y%m%d-%H%M%S')}"
    return search.SearchConfig(
        uri=storage.join(base.checkpoint.uri, name),
        **search.points_of(space, algorithm),
        objective=options.objective or space.objective,
        budget=budget,
        second=options.second,
        algorithm=algorithm,
        scheduler=scheduler,
        seeds_per_trial=options.seeds_per_trial,
        hours=options.hours,
        keep=options.keep,
    )


# ---- the winner


def _retrain(
    space: search.Space, wanted: search.SearchConfig, base: RunConfig, best: search.TrialRecord, seeds: Sequence[int]
) -> None:
    """Trains the best and the first point with each seed; goes on where it was stopped."""
    contenders = {"best": search.best_config(best, base)}
    if space.first:
        contenders["first"] = replace(with_overrides(base, space.first[0]), name="first")
    rows, judged = [], {}
    for name, config in contenders.items():
        scores = []
        for seed in seeds:
            place = replace(config.checkpoint, uri=storage.join(wanted.uri, "retrained", f"{name}-s{seed}"))
            tables = cli.train_once(replace(config, seed=seed, checkpoint=place))["tables"]
            scores.append(as_metrics(tables))
        names = (MIOU, MIOU_WORST, wanted.objective)
        cells = [mean_and_spread([search.score(s, objective) for s in scores]) for objective in names]
        judged[name] = [search.score(of_seed, wanted.objective) for of_seed in scores]
        values = search.format_values(best.params if name == "best" else space.first[0])
        rows.append([f"{name}: {values}", *cells])
    table = markdown_table(["", MIOU, "worst condition", wanted.objective], rows, escape=False) + "\n"
    if "first" in judged:
        table += f"\n{search.seeds_verdict(judged['best'], judged['first'], wanted.objective)}\n"
    storage.write_bytes(storage.join(wanted.uri, "retrained.md"), table.encode())
    cli.say(f"retrained with seeds {', '.join(map(str, seeds))}", "", *table.splitlines())


if __name__ == "__main__":
    cli.run(main)
