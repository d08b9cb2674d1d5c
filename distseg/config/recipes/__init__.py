"""Named runs: each is a function that returns a RunConfig; its docstring says paper, data, expected score and cost.

    find("town")              the run of that name
    load("mine:recipe")       a user's own: any function in a module of the working directory that returns a RunConfig
    sizes(PackedData(…), uri) the fields of the recipe `auto` that follow from the data
    RECIPES                   every name with its function; each can also be called as `recipes.town()`

Every public function of a file in this folder that is annotated to return a RunConfig is a recipe.
A variant changes fields of another recipe. Importing this loads no torch, calling a recipe does.
"""

import importlib
import inspect
from collections.abc import Callable

from distseg import plugins
from distseg.config import RunConfig, network_names
from distseg.config.recipes.on_any_data import PackedData, sizes, train_split
from distseg.config.recipes.on_town import TOWN_URI
from distseg.errors import ConfigError

__all__ = ["DEFAULT", "RECIPES", "TOWN_URI", "PackedData", "Recipe", "find", "load", "sizes", "train_split"]

Recipe = Callable[[], RunConfig]

DEFAULT = "town"


def _in_this_folder() -> dict[str, Recipe]:
    """The default first, then file by file, in order of definition."""
    modules = [importlib.import_module(f"{__name__}.{name}") for name in plugins.names(__name__)]
    found = {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and _is_recipe(value)
    }
    return {DEFAULT: found[DEFAULT], **found}


def _is_recipe(function: Callable[..., object]) -> bool:
    returned = inspect.signature(function, eval_str=True).return_annotation
    return returned is RunConfig and not function.__name__.startswith("_")


RECIPES = _in_this_folder()


def __getattr__(name: str) -> Recipe:
    if name not in RECIPES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return RECIPES[name]


def find(name: str) -> RunConfig:
    """The named recipe's config. Raises ConfigError with the nearest name."""
    if name not in RECIPES and name in network_names():
        raise ConfigError(
            f"recipe {name!r} does not exist; it is a network: give a recipe and --model.name {name}, for data of your "
            f"own `auto --data.uri URI --model.name {name}`"
        )
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} does not exist; {plugins.suggestion(name, RECIPES)}")
    return RECIPES[name]()


def load(target: str) -> RunConfig:
    """The config that a user's own `module:function` returns. Raises ConfigError saying what is wrong with it."""
    function = plugins.from_user("--recipe", target, kind="function")
    if not callable(function):
        name = target.partition(":")[2]
        raise ConfigError(f"--recipe {target!r}: {name} is of type {type(function).__name__}, not a function")
    config = function()
    if not isinstance(config, RunConfig):
        raise ConfigError(f"--recipe {target!r}: returned {type(config).__name__}, not a distseg.config.RunConfig")
    return config
