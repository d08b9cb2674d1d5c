"""A trial's parameters as Ray Tune keeps them, and as a configuration takes them.

Ray Tune's own search would take a tuple, such as a pyramid's bins, for a part of the space. So tuples are written as
strings for it ('tuple [1, 2, 3, 6]') and read back before they are used.
"""

import json
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.search.sample import Categorical, Domain

from distseg.strict_json import loads

TAKES_OVER = "takes_over"
"""A key beside the parameters in a trial's config: {"trial_id", "step"} of the trial whose training it takes over."""

_TUPLE = "tuple "


def encode(value: Any) -> Any:
    """A tuple or list as a string; any other value as it is."""
    return f"{_TUPLE}{json.dumps(value)}" if isinstance(value, tuple | list) else value


def decode(value: Any) -> Any:
    """What `encode` was given; of a list, a tuple."""
    is_tuple = isinstance(value, str) and value.startswith(_TUPLE)
    return tuple(loads(value.removeprefix(_TUPLE).encode())) if is_tuple else value


def encoded_space(space: Mapping[str, Domain]) -> dict[str, Domain]:
    """The space with its tuples encoded."""
    encoded = dict(space)
    for name, domain in space.items():
        if isinstance(domain, Categorical):
            encoded[name] = tune.choice([encode(value) for value in domain.categories])
    return encoded


def parameters(trial_config: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in a trial's config as Ray Tune has it: decoded, and without TAKES_OVER."""
    return {name: decode(value) for name, value in trial_config.items() if name != TAKES_OVER}
