"""Search spaces: modules with SPACE, OBJECTIVE and BUDGET, of the folder `tune_spaces` or any other.

SPACE      dotted field of the configuration -> a domain of ray.tune
OBJECTIVE  what is maximised
BUDGET     distseg.search.Budget
FIRST      points to try before all others; optional
GRID       what `--algorithm grid` goes over: a space of choices, or a list of points; SPACE by default
RECIPE     what is searched around; `town` by default
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distseg.errors import ConfigError
from distseg.search.records import OBJECTIVES, Budget, ObjectiveName

SPACES = "tune_spaces"


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


def load_space(name: str) -> Space:
    """A module of tune_spaces, or any by its dotted path. Raises ConfigError saying what is wrong with it."""
    path = f"{SPACES}.{name}" if name in known_spaces() else name
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise ConfigError(
            f"{name!r}: no such space ({error}); known here are {', '.join(known_spaces()) or 'none'}"
        ) from None
    try:
        space, budget = dict(module.SPACE), module.BUDGET
        objective = module.OBJECTIVE
    except AttributeError as error:
        raise ConfigError(f"{path}: a space needs SPACE, OBJECTIVE and BUDGET ({error})") from None
    if objective not in OBJECTIVES:
        raise ConfigError(f"{path}: OBJECTIVE = {objective!r}: choose from {', '.join(OBJECTIVES)}")
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


def known_spaces() -> list[str]:
    folder = Path.cwd() / SPACES
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]))


def list_spaces() -> str:
    """One line per space: its name and the first line of its docstring."""
    names = known_spaces()
    docs = {name: inspect.getdoc(importlib.import_module(f"{SPACES}.{name}")) or "" for name in names}
    return "\n".join(f"{name:<20} {docs[name].splitlines()[0] if docs[name] else ''}" for name in names)
