"""search.json: what a search was asked, so that it can be resumed."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from distseg import storage
from distseg.config import RunConfig, to_dict
from distseg.errors import ConfigError, DataError
from distseg.search import algorithms
from distseg.search.search_config import Budget, SearchConfig
from distseg.search.spaces import Space, load_space
from distseg.strict_json import AtLeast1, Line, RunId


def points_of(space: Space, algorithm: str) -> dict[str, Any]:
    """The space, and the points of it that are tried before all others, as fields of SearchConfig."""
    searched, first = algorithms.find(algorithm).points(space.space, space.first, space.grid)
    return {"space": searched, "first": first}


_PLAIN_FIELDS = (
    "uri",
    "objective",
    "second",
    "algorithm",
    "scheduler",
    "seeds_per_trial",
    "hours",
    "keep",
    "parent_run_id",
)


@dataclass(frozen=True, kw_only=True)
class _Question:
    """search.json"""

    uri: str
    space: Line
    budget: Budget
    config: RunConfig
    objective: Line
    second: Line | None
    algorithm: Line
    scheduler: Line
    seeds_per_trial: AtLeast1
    hours: float | None
    keep: AtLeast1
    parent_run_id: RunId


def write_question(space: Space, search: SearchConfig, base: RunConfig) -> None:
    question = {name: getattr(search, name) for name in _PLAIN_FIELDS}
    question |= {"space": space.name, "budget": asdict(search.budget), "config": to_dict(base)}
    storage.write_bytes(storage.join(search.uri, "search.json"), json.dumps(question, indent=1).encode())


def read_question(uri: str) -> tuple[Space, SearchConfig, RunConfig]:
    """A search's question, with the space's module as it is now. Raises DataError if there is none at `uri`."""
    file = storage.join(uri, "search.json")
    if not storage.exists(file):
        raise DataError(f"{uri}: no search.json there; give the search's directory, as it printed itself")
    asked: _Question = storage.read_json(_Question, file, DataError, "search anew")
    try:
        space = load_space(asked.space)
        plain = {name: getattr(asked, name) for name in _PLAIN_FIELDS} | {"uri": uri}
        search = SearchConfig(**points_of(space, asked.algorithm), budget=asked.budget, **plain)
    except ConfigError as error:
        raise DataError(f"{file}: {error}; search anew") from None
    return space, search, asked.config
