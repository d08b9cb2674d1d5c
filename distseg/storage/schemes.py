"""Which store a URI belongs to, by its scheme.

Built in are the modules of `distseg.storage.stores`. A store of your own is named in the environment, for every process
that uses it (on a cluster, in the job's runtime environment beside the AWS variables):

    DISTSEG_STORES="gs=my_stores:GoogleStore"            several: separated by commas

The module is looked for in the working directory too. A scheme named there takes precedence over a built-in one.
"""

import functools
import os

from distseg import plugins
from distseg.errors import ConfigError, StorageError
from distseg.storage.local import LocalStore
from distseg.storage.store import Store

VARIABLE = "DISTSEG_STORES"

_BUILT_IN = "distseg.storage.stores"
_LOCAL = LocalStore()


def store_of(uri: str) -> Store:
    """Raises StorageError for a scheme that no store serves, and where no bucket follows the scheme."""
    scheme, colon, rest = uri.partition(":")
    if not colon or not scheme.isalnum():
        return _LOCAL
    store = _remote_store(scheme, os.environ.get(VARIABLE, ""))
    if store is None:
        if not rest.startswith("/"):
            return _LOCAL  # a file's name may hold a colon
        raise StorageError(f"{uri}: cannot be read or written here; use s3://bucket/key or a local path")
    if "@" in rest[2:].partition("/")[0]:
        raise StorageError(
            f"{scheme}:// carries a user or password, which would be kept with the run: write {scheme}://bucket/key, "
            "and give credentials by the environment (for S3 AWS_ACCESS_KEY_ID, AWS_PROFILE)"
        )
    if not rest.startswith("//") or rest[2:3] in ("", "/"):
        raise StorageError(f"{uri}: not a place in {scheme.upper()}; write {scheme}://bucket/key")
    return store


def is_remote(uri: str) -> bool:
    """False for local paths. Raises StorageError as `store_of` does."""
    return store_of(uri) is not _LOCAL


@functools.lru_cache(maxsize=64)
def _remote_store(scheme: str, own_stores: str) -> Store | None:
    """The store of a scheme; None if no store serves it. `own_stores` is the value of VARIABLE."""
    what = f"{VARIABLE} {scheme}"
    own = _own_stores(own_stores)
    if scheme in own:
        return _made(what, plugins.from_user(what, own[scheme], kind="class"))
    if scheme in plugins.names(_BUILT_IN):
        return _made(what, plugins.find(what, _BUILT_IN, "STORE", scheme))
    return None


def _own_stores(variable: str) -> dict[str, str]:
    """The user's `module:Class` by scheme."""
    pairs = [pair.strip().partition("=") for pair in variable.split(",") if pair.strip()]
    for scheme, _, target in pairs:
        if not scheme.isalnum() or not target:
            raise ConfigError(f"{VARIABLE} = {variable!r}: give scheme=module:Class, separated by commas")
    return {scheme: target for scheme, _, target in pairs}


def _made(what: str, kind: object) -> Store:
    if not isinstance(kind, type) or not issubclass(kind, Store):
        raise ConfigError(f"{what}: {kind!r} is not a class derived from distseg.storage.Store")
    if missing := sorted(kind.__abstractmethods__):
        raise ConfigError(f"{what}: {kind.__name__} lacks {', '.join(missing)}")
    return kind()
