"""What a search was asked, kept in `search.json` so that it can be resumed."""

import json
from dataclasses import asdict
from typing import Any

from distseg import storage
from distseg.config import RunConfig, from_dict, to_dict
from distseg.errors import DataError
from distseg.search.records import Budget, read_json
from distseg.search.space import Space, load_space
from distseg.search.tuner import Search, choices, grid


def points_of(space: Space, algorithm: str) -> dict[str, Any]:
    """The space, and the points of it that are tried before all others."""
    if algorithm != "grid":
        return {"space": space.space, "first": space.first}
    points = grid(space.grid)
    return {"space": choices(points), "first": points}


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


def keep_question(space: Space, wanted: Search, base: RunConfig) -> None:
    question = {name: getattr(wanted, name) for name in _PLAIN_FIELDS}
    question |= {"space": space.name, "budget": asdict(wanted.budget), "config": to_dict(base)}
    storage.write_bytes(storage.join(wanted.uri, "search.json"), json.dumps(question, indent=1).encode())


def asked_before(uri: str) -> tuple[Space, Search, RunConfig]:
    """A search's question, with the space's module as it is now. Raises DataError if there is none at `uri`."""
    file = storage.join(uri, "search.json")
    if not storage.exists(file):
        raise DataError(f"{uri}: no search.json there; give the search's directory, as it printed itself")
    question = read_json(file)
    try:
        space = load_space(question["space"])
        plain = {name: question[name] for name in _PLAIN_FIELDS} | {"uri": uri}
        wanted = Search(
            **points_of(space, plain["algorithm"]),
            budget=Budget(**question["budget"]),
            **plain,
        )
        return space, wanted, from_dict(question["config"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged ({error!r}); search anew") from None
