"""Search spaces: modules that say what is searched. One module each, found by its file name.

A space is looked for in ./tune_spaces of the working directory, then in the package `tune_spaces`, which is installed
with distseg. Any other module that can be imported is named by its dotted path. It holds

    SPACE      dotted field -> a domain of ray.tune
    OBJECTIVE  what is maximised: a name of objectives.py, or your own `module:name`
    BUDGET     distseg.search.Budget
    FIRST      points to try before all others; optional
    GRID       what --algorithm grid goes over, or its points; optional, by default SPACE
    RECIPE     what is searched around, a name or `module:function`; optional, by default pspnet_town
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import distseg
from distseg import plugins
from distseg.errors import ConfigError
from distseg.search import objectives
from distseg.search.search_config import Budget

PACKAGE = "tune_spaces"


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a module of tune_spaces says."""

    name: str
    space: Mapping[str, Any]
    objective: str
    budget: Budget
    first: Sequence[Mapping[str, Any]]
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    recipe: str


def load_space(name: str) -> Space:
    """The space of a name. Raises ConfigError saying what is wrong with it."""
    module = _import(name)
    try:
        space, objective, budget = dict(module.SPACE), module.OBJECTIVE, module.BUDGET
    except AttributeError as error:
        raise ConfigError(f"{module.__name__}: a space needs SPACE, OBJECTIVE and BUDGET ({error})") from None
    if objective not in objectives.OBJECTIVES:
        objectives.find(objective, f"{module.__name__}: OBJECTIVE =")
    if not isinstance(budget, Budget):
        raise ConfigError(
            f"{module.__name__}: BUDGET = {str(budget)[:80]!r}: write Budget(num_trials=8, max_steps=240, "
            "evaluate_every=60), from distseg.search import Budget"
        )
    return Space(
        name=name,
        space=space,
        objective=objective,
        budget=budget,
        first=list(getattr(module, "FIRST", ())),
        grid=getattr(module, "GRID", space),
        recipe=getattr(module, "RECIPE", "pspnet_town"),
    )


def space_names() -> list[str]:
    """The spaces of the working directory and those that came with distseg, sorted."""
    return sorted({module.name for module in pkgutil.iter_modules(list(map(str, _folders())))})


def list_spaces() -> str:
    """One line per space: its name and the first line of its docstring."""
    docs = {name: inspect.getdoc(_import(name)) or "" for name in space_names()}
    return "\n".join(f"{name:<20} {doc.splitlines()[0] if doc else ''}" for name, doc in docs.items())


def _folders() -> list[Path]:
    """Where spaces lie: the working directory's come first, so that a user's own replaces one of the same name."""
    folders = [Path.cwd() / PACKAGE, Path(distseg.__file__).parent.parent / PACKAGE]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _import(name: str) -> ModuleType:
    if name in space_names():
        package = importlib.import_module(PACKAGE)
        package.__path__ = list(map(str, _folders()))  # so that one package has the modules of all folders
        return importlib.import_module(f"{PACKAGE}.{name}")
    try:
        return plugins.import_user_module("space", name)
    except ConfigError as error:
        known = ", ".join(space_names()) or "none"
        raise ConfigError(f"{name!r}: no such space ({error}); known here are {known}") from None
