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
    """A `__getattr__` for `package` that finds each name in the module that `names_of` gives for it.

    "pack as pack_samples" gives it another name; a name may also be one of the module's own submodules.
    """
    places = {name.rpartition(" as ")[2]: (module, name) for module, names in names_of.items() for name in names}

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = places[name][0], places[name][1].partition(" as ")[0]
        found = importlib.import_module(module)
        value = getattr(found, attribute) if hasattr(found, attribute) else importlib.import_module(f"{module}.{name}")
        vars(importlib.import_module(package))[name] = value  # found at once the next time
        return value

    return get
