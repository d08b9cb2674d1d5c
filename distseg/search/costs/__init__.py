"""Costs: the second objective of a search, to be minimised. One module each, found by its file name.

A module here holds COST, a function: a trial's configuration -> its cost, a number known before training. A user's own:

    python -m distseg.tune pyramid_bins --second my_costs:flops
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from distseg import plugins
from distseg.errors import ConfigError

if TYPE_CHECKING:
    from distseg.config import RunConfig

FLAG = "--second"

Cost = Callable[["RunConfig"], float]


def names() -> tuple[str, ...]:
    return plugins.names(__name__)


def find(name: str) -> Cost:
    """The cost of a name, or a user's `module:name`. Raises ConfigError if there is none."""
    found = plugins.find(FLAG, __name__, "COST", name)
    if not callable(found):
        raise ConfigError(f"{FLAG} {name}: not a function of a configuration")
    cost: Cost = found
    return cost
