"""JSON values as the types that a dataclass's fields are annotated with, with one clear line for each mistake.

Known are dataclasses (JSON objects), tuples (lists), Literals, optional types, and bool, int, float and str. An
integer is taken where a float is asked for, nothing else is converted. Errors are ConfigErrors that name the field.
A dataclass that decides by its value which class it is has a classmethod `from_json(value, where)`.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, cast

from distseg import plugins
from distseg.errors import ConfigError


def require(condition: bool, name: str, value: object, remedy: str) -> None:
    """Raises ConfigError 'name = value: remedy' unless the condition holds."""
    if not condition:
        raise ConfigError(f"{name} = {value!r}: {remedy}")


def no_such_field(name: str, known: Iterable[str], where: str = "") -> ConfigError:
    """`where` is the dotted field that was asked for, `name` the part of it that is not known."""
    return ConfigError(f"{where or name}: no such field; {plugins.suggestion(name, known)}")


def build(annotation: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type; `where` is the dotted field, '' for the whole configuration."""
    if dataclasses.is_dataclass(annotation):
        group = cast(Any, annotation)
        return group.from_json(value, where) if hasattr(group, "from_json") else build_group(group, value, where)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        (inner,) = (a for a in args if a is not type(None))
        return build(inner, value, where)
    if origin is Literal:
        require(value in args, where, value, f"choose from {', '.join(map(str, args))}{_closest(value, args)}")
        return value
    if origin is tuple:
        return _build_tuple(args, value, where)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    has_type = isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool))
    require(has_type, where, value, f"must be of type {annotation.__name__}")
    return value


def build_group(group: type, value: Any, where: str) -> Any:
    """A dataclass from a JSON object; fields that are absent take their defaults."""
    require(isinstance(value, dict), where or "config", value, "must be an object with named fields")
    hints = typing.get_type_hints(group)
    prefix = f"{where}." if where else ""
    for name in value:
        if name not in hints:
            raise no_such_field(name, hints, f"{prefix}{name}")
    return group(**{name: build(hints[name], item, f"{prefix}{name}") for name, item in value.items()})


def _build_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    require(isinstance(value, list | tuple), where, value, "must be a list")
    item_types = [args[0]] * len(value) if args[-1] is Ellipsis else args
    require(len(value) == len(item_types), where, value, f"must have {len(item_types)} values")
    return tuple(build(t, v, where) for t, v in zip(item_types, value, strict=True))


def _closest(value: object, known: tuple[Any, ...]) -> str:
    close = difflib.get_close_matches(str(value), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
