"""What is found by its name: a module of one of distseg's folders, or the user's own as `module:name`.

A folder such as `distseg.models.networks` is the list of its kind: a file added to it is found by the file's name, with
nothing to register. What a user adds outside is named by module and attribute, and imported from the working directory.
"""

import difflib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from distseg.errors import ConfigError


def names(package: str) -> tuple[str, ...]:
    """The modules of a folder, sorted, without importing them; those that begin with '_' are helpers."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = (module.name for module in pkgutil.iter_modules(places) if not module.ispkg)
    return tuple(sorted(name for name in found if not name.startswith("_")))


def find(what: str, package: str, attribute: str, name: str, *, kind: str = "name") -> Any:
    """`attribute` of the module `name` of a folder, or what a user's `module:name` names.

    `what` begins each error: a field or flag, such as 'model.name'; `kind` is what is looked for: 'class', 'function'.
    Raises ConfigError that lists what is known.
    """
    if ":" in name:
        return from_user(what, name, kind=kind)
    if name not in names(package):
        raise ConfigError(f"{what} = {name!r}: {suggestion(name, names(package))}; your own is given as module:{kind}")
    return getattr(importlib.import_module(f"{package}.{name}"), attribute)


def from_user(what: str, target: str, *, kind: str = "name") -> Any:
    """What `module:name` names. The module is looked for in the working directory too, as `python -m` does."""
    module_name, _, name = target.partition(":")
    if not _is_module_name(module_name) or not name:
        raise ConfigError(f"{what} {target!r:.200}: give it as module:{kind}")
    try:
        module = import_from_working_directory(module_name)
    except ImportError as error:
        raise ConfigError(f"{what} {target!r}: cannot import {module_name} ({error})") from None
    if not hasattr(module, name):
        close = difflib.get_close_matches(name, vars(module), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"{what} {target!r}: {module_name} has no {kind} {name}{hint}")
    return getattr(module, name)


def import_user_module(what: str, module_name: str) -> ModuleType:
    """A module of the working directory, or any other that can be imported. Raises ConfigError if it cannot."""
    if not _is_module_name(module_name):
        raise ConfigError(f"{what} {module_name!r:.200}: is not the name of a module, such as package.module")
    try:
        return import_from_working_directory(module_name)
    except ImportError as error:
        raise ConfigError(f"{what} {module_name!r}: cannot be imported ({error})") from None


def _is_module_name(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def import_from_working_directory(module_name: str) -> ModuleType:
    """Raises ImportError if there is no such module there or elsewhere, or if it raises anything else itself."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ImportError:
        raise
    except (Exception, SystemExit) as error:
        raise ImportError(f"it {raised(error)}") from error


def raised(error: BaseException) -> str:
    """What a user's own code has raised, and where."""
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return f"raises {type(error).__name__}: {str(error)!r:.200} at {innermost.filename}, line {innermost.lineno}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """'did you mean …?' if there is a name like it, else all that are known."""
    known = [each for each in known if not each.startswith("_")]
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(known)}"
