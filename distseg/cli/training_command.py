"""The command line of `distseg.train`, which `distseg.stylize train` has too."""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass

from distseg import storage, strict_json
from distseg.cli.arguments import override, parse_known
from distseg.cli.named_recipes import named_recipe
from distseg.cli.run_training import print_outcome, train
from distseg.config import RunConfig, from_dict, recipes, to_dict
from distseg.data.embedded import ensure_town
from distseg.errors import ConfigError, StorageError


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """What belongs to the program; everything else overrides a field of the configuration."""

    recipe: str | None = None
    """MODULE:FUNCTION, your own function that returns a RunConfig."""
    config: str | None = None
    """A configuration in JSON, as --print_config writes it."""
    resume: str | None = None
    """The URI of a run that was stopped, as `train` printed it."""
    list: bool = False
    """List the recipes."""
    print_config: bool = False
    """Print the configuration as JSON and stop."""


def train_command(arguments: Sequence[str], *, default_recipe: str, prog: str, description: str) -> int:
    """Parses, trains, prints. Returns the exit code."""
    rest = list(arguments)
    name = rest.pop(0) if rest and not rest[0].startswith("-") else None
    options, overrides = parse_known(TrainArguments, rest, prog=prog, description=description)
    if options.list:
        print(recipe_list())
        return 0
    base = _base_config(name, options, default_recipe, overrides)
    config = override(base, overrides, prog=prog, description=description)
    if options.print_config:
        print(json.dumps(to_dict(config), indent=2))
        return 0
    if config.data.uri == recipes.TOWN_URI:
        ensure_town(config.data.uri)
    outcome = train(config, options.resume)
    if outcome is not None:
        print_outcome(outcome, config.tracking.experiment)
    return 0


def recipe_list() -> str:
    """One line per recipe: its name and the first line of its docstring."""
    width = max(map(len, recipes.RECIPES))
    lines = [f"{name:<{width}}  {(inspect.getdoc(f) or '').splitlines()[0]}" for name, f in recipes.RECIPES.items()]
    return "\n".join(lines)


def _base_config(name: str | None, options: TrainArguments, default_recipe: str, overrides: Sequence[str]) -> RunConfig:
    """That of the named recipe, of the user's own, of a file or of an earlier run."""
    sources = {"name": name, "recipe": options.recipe, "config": options.config, "resume": options.resume}
    given = [source for source, value in sources.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"give only one of RECIPE, --recipe, --config and --resume, not {' and '.join(given)}")
    if options.resume is not None:
        from distseg.runs import read_config  # here, since it imports torch

        return read_config(options.resume)
    if options.config is not None:
        return read_config_file(options.config)
    return recipes.load(options.recipe) if options.recipe else named_recipe(name or default_recipe, overrides)


def read_config_file(path: str) -> RunConfig:
    """A configuration in JSON, as --print_config writes it. Raises ConfigError naming the field that is wrong."""
    try:
        data = storage.read_bytes(path, length=strict_json.MAX_BYTES + 1)
    except StorageError as error:
        raise ConfigError(f"--config {error}") from None
    try:
        body = strict_json.loads(data)
    except ValueError as error:
        raise ConfigError(f"--config {path}: not JSON ({error})") from None
    except ConfigError as error:
        raise ConfigError(f"--config {path}: {error}") from None
    return from_dict(body)
