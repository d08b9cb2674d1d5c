"""python -m distseg.train [RECIPE] [--recipe MODULE:FUNCTION] [--config FILE.json] [--dotted.field VALUE …]
                           [--resume RUN_URI] [--list] [--print-config] [--debug]

Trains a recipe on a Ray cluster: the one at RAY_ADDRESS, a running one, or one started here. Under torchrun (RANK set)
Ray is left out. Without a recipe it trains `town`, the embedded default, and keeps all it makes under ./runs.
Arguments override the recipe field by field; --resume takes a run's own configuration instead of a recipe.
"""

import argparse
import inspect
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.table import Table

from distseg import cli, evaluation, storage
from distseg.cli.training_display import Screen
from distseg.config import RunConfig, command_line_default, from_dict, recipes, to_dict
from distseg.data.embedded import ensure_town
from distseg.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from distseg.runs import Outcome

# Nothing above imports torch: the processes that pack `town` import this file again, and --list needs none of it.

PROG = "python -m distseg.train"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} ({PROG} --help lists all)")


def main(arguments: Sequence[str], default_recipe: str = "town") -> int:
    known, overrides = _program_arguments(arguments)
    known.name = known.name or default_recipe
    if known.list:
        print(list_recipes())
        return 0
    config = _config(known, overrides)
    if known.print_config:
        print(json.dumps(to_dict(config), indent=2))
        return 0
    if config.data.uri == recipes.TOWN_URI:
        ensure_town(config.data.uri)
    outcome = _train(config, known.resume)
    if outcome is not None:
        show(outcome, config.tracking.experiment)
    return 0


def _program_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What belongs to the program, and the rest, which overrides fields of the configuration."""
    parser = _Parser(prog=PROG, add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", metavar="MODULE:FUNCTION", default=None)
    parser.add_argument("--config", metavar="FILE.json", default=None)
    parser.add_argument("--resume", metavar="RUN_URI", default=None)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--print-config", "--print_config", action="store_true")
    rest = list(arguments)
    name = rest.pop(0) if rest and not rest[0].startswith("-") else None
    known, overrides = parser.parse_known_args(rest)
    known.name = name
    given = [flag for flag in ("name", "recipe", "config", "resume") if getattr(known, flag) is not None]
    if len(given) > 1:
        raise ConfigError(f"give only one of RECIPE, --recipe, --config and --resume, not {' and '.join(given)}")
    return known, overrides


def _config(known: argparse.Namespace, overrides: Sequence[str]) -> RunConfig:
    """The recipe, file or earlier run that was named, with the overrides of the command line."""
    if known.resume is not None:
        from distseg.runs import read_config

        base = read_config(known.resume)
    elif known.config is not None:
        base = read_config_file(known.config)
    elif known.recipe is not None:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: a user's recipe lies beside his data
        base = recipes.load(known.recipe)
    else:
        base = recipes.find(known.name)
    base = command_line_default(base, overrides)
    config: RunConfig = cli.parse(RunConfig, overrides, prog=PROG, description=__doc__ or "", default=base, flat=True)
    return config


def read_config_file(path: str) -> RunConfig:
    """A configuration in JSON, as --print-config writes it. Raises ConfigError naming the field that is wrong."""
    try:
        return from_dict(json.loads(storage.read_bytes(path)))
    except StorageError as error:
        raise ConfigError(f"--config {error}") from None
    except ValueError as error:  # not JSON, or not even UTF-8
        raise ConfigError(f"--config {path}: not JSON ({error})") from None


def list_recipes() -> str:
    """One line per recipe: its name and the first line of its docstring."""
    width = max(map(len, recipes.RECIPES))
    lines = [f"{name:<{width}}  {(inspect.getdoc(f) or '').splitlines()[0]}" for name, f in recipes.RECIPES.items()]
    return "\n".join(lines)


def _train(config: RunConfig, resume: str | None) -> "Outcome | None":
    """Through Ray, or as the rank that torchrun started; the outcome is None on every rank but 0."""
    if "RANK" in os.environ:
        from distseg.runs import train_without_ray

        if os.environ["RANK"] != "0":
            return train_without_ray(config, resume=resume)
        with Screen(config.optim.max_steps) as screen:
            return train_without_ray(config, resume=resume, show=screen)
    from distseg import orchestration

    with Screen(config.optim.max_steps) as screen:
        return orchestration.train(config, resume=resume, show=screen)


def train_once(config: RunConfig) -> dict[str, Any]:
    """The result of a training that was done before, or is done now: {"config", "checkpoint_uri", "tables"}.

    It is kept in `checkpoint.uri`, which belongs to this training alone; one that was stopped goes on. Raises
    ConfigError if what is there was made with another configuration.
    """
    folder = config.checkpoint.uri
    uri = storage.join(folder, "result.json")
    if storage.exists(uri):
        result: dict[str, Any] = json.loads(storage.read_bytes(uri))
        if from_dict(result["config"]) != config:
            raise ConfigError(f"{uri}: made with another configuration; give another place, or remove {folder}")
        return result
    from distseg.runs import find_run_in

    begun = find_run_in(folder)
    print(f"== {folder}{' goes on' if begun else ''}", flush=True)
    outcome = _train(config, begun)
    assert outcome is not None
    result = {"config": to_dict(config), "checkpoint_uri": outcome.checkpoint_uri, "tables": outcome.tables}
    storage.write_bytes(uri, json.dumps(result, indent=1).encode())
    return result


def show(outcome: "Outcome", experiment: str) -> None:
    """The table of conditions, and where everything is."""
    from distseg import tracking

    if outcome.tables:
        print_conditions(outcome.tables, f"{outcome.run_name}: best checkpoint, step {outcome.step}")
    print(f"run         {outcome.run_uri}")
    print(f"checkpoint  {outcome.checkpoint_uri or 'none was saved'}")
    if outcome.run_id:
        print(f"MLflow run  {outcome.run_id}")
        print(f"open it     {tracking.run_link(outcome.tracking_uri, outcome.run_id, experiment)}")
    handed = outcome.logged_network
    if handed.view_link:
        print(f"compare it  {handed.view_link}")
    if handed.model_uri:
        print(f"model       {handed.model_uri}")
    if handed.registered is not None:
        r = handed.registered
        print(f"registered  {r.name} version {r.version}, {'now' if r.is_champion else 'not'} champion: {r.why}")
    if not outcome.is_sent:
        print(f"not sent    MLflow lacks some of this run; send it with python -m distseg.sync {outcome.run_uri}")


def print_conditions(tables: dict[str, Any], title: str) -> None:
    """The metrics of each condition, worst first, then those of all images together."""
    metrics = evaluation.metrics_in("terminal")
    table = Table(title=title, title_justify="left")
    for column in ("condition", "images", *metrics, "weakest class"):
        table.add_column(column, justify="left" if column in ("condition", "weakest class") else "right")

    def add_row(name: str, entry: dict[str, Any]) -> None:
        weakest = evaluation.weakest_class(entry)
        shown = f"{weakest[0]} {weakest[1]:.3f}" if weakest else "-"
        table.add_row(name, str(entry["num_images"]), *(_number(entry.get(metric)) for metric in metrics), shown)

    for name in evaluation.rank_conditions(tables).order:
        add_row(name, tables["conditions"][name])
    table.add_section()
    add_row("all images", tables)
    Console(width=max(100, Console().width) if not sys.stdout.isatty() else None).print(table)
    print(
        f"val/mIoU {_number(tables['mIoU'])}   mean over conditions {_number(tables['mIoU_mean_conditions'])}   "
        f"worst {tables['worst_condition']} {_number(tables['mIoU_worst'])}   gap {_number(tables['mIoU_gap'])}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    cli.run(main)
