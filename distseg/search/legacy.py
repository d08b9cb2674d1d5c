"""Searches that were begun before modules were moved: Ray Tune's state names classes by the modules they were in then.

Ray Tune pickles a search's callback, scheduler and trial names. `old_names` makes their old names importable for as
long as such a state is read, and only then.
"""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from distseg.search.progress import SearchCallback, trial_number
from distseg.search.schedulers.pbt import Population
from distseg.search.search_config import Budget, SearchConfig
from distseg.search.trial import drive

OLD_NAMES: dict[str, dict[str, Any]] = {
    "distseg.ray_tune": {"_Ends": SearchCallback, "_number": trial_number, "Search": SearchConfig, "Budget": Budget},
    "distseg.ray_population": {"Population": Population},
    "distseg.ray_trial": {"drive": drive},
}
"""module -> name in it -> what it is now. What is moved again gets an entry here, and one for its name in between."""


@contextlib.contextmanager
def old_names() -> Iterator[None]:
    """Within the block, the old modules can be imported."""
    added = {name: ModuleType(name) for name in OLD_NAMES if name not in sys.modules}
    for name, module in added.items():
        vars(module).update(OLD_NAMES[name])
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)
