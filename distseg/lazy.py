"""Public names that are imported when they are first used, so that importing a package does not load torch or Ray.

    if TYPE_CHECKING:
        from distseg.search.tuner import Search
    __getattr__ = on_first_use(__name__, {"distseg.search.tuner": ("Search",)})

This is the module `__getattr__` of PEP 562; type checkers read the import above it.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def on_first_use(package: str, names_of: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """A `__getattr__` for `package` that finds each name in the module that `names_of` gives for it."""
    module_of = {name: module for module, names in names_of.items() for name in names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module_of[name]), name)
        vars(importlib.import_module(package))[name] = value  # found at once the next time
        return value

    return get
