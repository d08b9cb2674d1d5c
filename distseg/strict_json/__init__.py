"""JSON that others wrote, read strictly: the one place that checks what comes from a file or an object store.

    loads(data)                                   bytes -> JSON values; ValueError for what is not plain, bounded JSON
    build(Kind, value, where)                     JSON values -> the annotated type; ConfigError naming the field
    read(Kind, data, uri, DataError, "pack …")    both; one line: the uri, the field, its value, the remedy

A file's format is a dataclass or NamedTuple whose fields are annotated: bool, int, float, str, Literal, tuples, dicts
by name, optional types, further dataclasses, and the kinds below, which say what a value must be beside its type. Types
are exact, no key may be unknown or missing, numbers are finite. A file of many rows may be built row by row while it
is parsed, by the `hook` of `loads`.

    Name, Sha256, Line, RunName …    texts: of a permitted alphabet, of 64 hex digits, on one line
    Count, AtLeast1, Size            numbers within bounds
    Check(holds, remedy)             in Annotated[type, …]: a kind of one's own

Nothing is read or written here; whoever reads a file asks for at most MAX_BYTES + 1 of its bytes.
"""

from distseg.strict_json.building import build, build_group, no_such_field, read, require
from distseg.strict_json.kinds import (
    NAME,
    AtLeast1,
    Check,
    Count,
    Fraction,
    Line,
    Name,
    RunId,
    RunName,
    Sha256,
    Size,
)
from distseg.strict_json.parsing import MAX_BYTES, loads

__all__ = [
    "MAX_BYTES",
    "NAME",
    "AtLeast1",
    "Check",
    "Count",
    "Fraction",
    "Line",
    "Name",
    "RunId",
    "RunName",
    "Sha256",
    "Size",
    "build",
    "build_group",
    "loads",
    "no_such_field",
    "read",
    "require",
]
