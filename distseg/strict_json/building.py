"""JSON values as the types that a dataclass's fields are annotated with, with one clear line for each mistake.

Known are dataclasses and NamedTuples (JSON objects; NamedTuples also lists), tuples and lists, dictionaries by text,
Literals, optional types, Annotated types with a `Check`, Any, and bool, int, float and str. An integer is taken where a
float is asked for, nothing else is converted. Errors are ConfigErrors that name the field. A dataclass that decides by
its value which class it is has a classmethod `from_json(value, where)`.
"""

import dataclasses
import difflib
import functools
import math
import reprlib
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeVar, cast

from distseg import plugins
from distseg.errors import ConfigError, DistsegError
from distseg.strict_json.kinds import Check
from distseg.strict_json.parsing import loads

T = TypeVar("T")

_Builder = Callable[[Any, str], Any]
"""(value, where) -> the value as its type; `where` is the dotted field."""

_MAX_INT = 2**63 - 1


def read(
    kind: Any, data: bytes, uri: str, error_class: type[DistsegError], remedy: str, *, is_ours: bool = True
) -> Any:
    """A file's bytes as `kind`. Raises `error_class`: one line with the uri, the field, its value and the remedy.

    A file that distseg wrote (`is_ours`) is damaged, if it is not as it should be; one that a user wrote is not.
    """
    try:
        return build(kind, loads(data), "")
    except (ValueError, ConfigError) as error:
        problem = f"not JSON ({error})" if isinstance(error, ValueError) else str(error)
    raise error_class(f"{uri} is damaged ({problem}); {remedy}" if is_ours else f"{uri}: {problem}; {remedy}")


def require(condition: object, name: str, value: object, remedy: str) -> None:
    """Raises ConfigError 'name = value: remedy' unless the condition holds."""
    if not condition:
        raise ConfigError(f"{name or 'it'} = {_shown(value)}: {remedy}")


def no_such_field(name: str, known: Iterable[str], where: str = "") -> ConfigError:
    """`where` is the dotted field that was asked for, `name` the part of it that is not known."""
    return ConfigError(f"{_plain(where or name)}: no such field; {plugins.suggestion(name[:80], known)}")


def build(annotation: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type; `where` is the dotted field, '' for the whole."""
    return _builder(annotation)(value, where)


def build_group(group: type, value: Any, where: str) -> Any:
    """A dataclass or NamedTuple from a JSON object; fields that are absent take their defaults."""
    require(isinstance(value, dict), where or "config", value, "must be an object with named fields")
    fields = _fields(group)
    prefix = f"{where}." if where else ""
    built = {}
    for name, item in value.items():
        builder = fields.get(name)
        if builder is None:
            raise no_such_field(name, fields, f"{prefix}{name}")
        built[name] = builder(item, prefix + name)
    if missing := _required(group) - built.keys():
        raise ConfigError(f"{prefix}{min(missing)}: missing")
    return group(**built)


# ---- builders, each made once


@functools.lru_cache(maxsize=1024)
def _builder(annotation: Any) -> _Builder:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or annotation is object:
        return lambda value, where: value
    if origin is Annotated:
        return _checked(_builder(args[0]), [each for each in args[1:] if isinstance(each, Check)])
    if dataclasses.is_dataclass(annotation) or hasattr(annotation, "_fields"):
        return _object(cast(type, annotation))
    if origin in (types.UnionType, typing.Union):
        return _union(args)
    if origin is Literal:
        return _literal(args)
    if origin is tuple:
        return _tuple(args)
    if origin is list:
        items = _tuple((*args, ...))
        return lambda value, where: list(items(value, where))
    if origin is dict:
        return _dict(*args)
    return {float: _float, str: _str, int: _int}.get(annotation) or _exactly(annotation)


def _checked(inner: _Builder, checks: list[Check]) -> _Builder:
    def built(value: Any, where: str) -> Any:
        made = inner(value, where)
        for check in checks:
            if not check.holds(made):
                require(False, where, value, check.remedy)
        return made

    return built


def _object(group: Any) -> _Builder:
    if hasattr(group, "from_json"):
        return cast(_Builder, group.from_json)

    def built(value: Any, where: str) -> Any:
        if isinstance(value, list) and hasattr(group, "_fields"):  # a NamedTuple, as JSON writes it
            require(len(value) == len(group._fields), where, value, f"must have {len(group._fields)} values")
            return build_group(group, dict(zip(group._fields, value, strict=True)), where)
        if type(value) is group:  # built while it was parsed
            return value
        return build_group(group, value, where)

    return built


@functools.cache
def _fields(group: type) -> dict[str, _Builder]:
    hints = typing.get_type_hints(group, include_extras=True)
    names = [each.name for each in dataclasses.fields(group)] if dataclasses.is_dataclass(group) else group._fields  # type: ignore[attr-defined]
    return {name: _builder(hints[name]) for name in names}


@functools.cache
def _required(group: type) -> frozenset[str]:
    if not dataclasses.is_dataclass(group):
        return frozenset(group._fields) - frozenset(group._field_defaults)  # type: ignore[attr-defined]
    absent = dataclasses.MISSING
    return frozenset(f.name for f in dataclasses.fields(group) if f.default is absent and f.default_factory is absent)


def _union(args: tuple[Any, ...]) -> _Builder:
    """Of None and one other type."""
    (inner,) = (_builder(each) for each in args if each is not types.NoneType)
    return lambda value, where: None if value is None else inner(value, where)


def _literal(args: tuple[Any, ...]) -> _Builder:
    def built(value: Any, where: str) -> Any:
        is_one = any(isinstance(value, type(each)) and value == each for each in args) and not isinstance(value, bool)
        require(is_one, where, value, f"choose from {', '.join(map(str, args))}{_closest(value, args)}")
        return value

    return built


def _tuple(args: tuple[Any, ...]) -> _Builder:
    is_open = args[-1] is Ellipsis
    builders = [_builder(each) for each in args if each is not Ellipsis]

    def built(value: Any, where: str) -> Any:
        require(isinstance(value, list | tuple), where, value, "must be a list")
        if is_open:
            item = builders[0]
            if item is _int and all(type(each) is int for each in value):  # thousands, in a large file
                if value and not -_MAX_INT <= min(value) <= max(value) <= _MAX_INT:
                    require(False, where, value, "its numbers must be below 2^63")
                return tuple(value)
            return tuple([item(each, where) for each in value])
        require(len(value) == len(builders), where, value, f"must have {len(builders)} values")
        return tuple([item(each, where) for item, each in zip(builders, value, strict=True)])

    return built


def _dict(key: Any, item: Any) -> _Builder:
    keys, items = _builder(key), _builder(item)

    def built(value: Any, where: str) -> Any:
        require(isinstance(value, dict), where, value, "must be an object with named fields")
        name_of_key = f"a name in {where}"
        return {keys(name, name_of_key): items(each, f"{where}.{_plain(name)}") for name, each in value.items()}

    return built


def _int(value: Any, where: str) -> Any:
    if type(value) is not int:
        require(False, where, value, "must be of type int")
    if not -_MAX_INT <= value <= _MAX_INT:
        require(False, where, value, "must be below 2^63")
    return value


def _float(value: Any, where: str) -> Any:
    if type(value) is int and -_MAX_INT <= value <= _MAX_INT:
        return float(value)
    if not isinstance(value, float):
        require(False, where, value, "must be of type float")
    if not math.isfinite(value):
        require(False, where, value, "must be a finite number")
    return value


def _str(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        require(False, where, value, "must be of type str")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        require(False, where, value, "holds half a character (a lone surrogate); write it as UTF-8")
    if "\0" in value:
        require(False, where, value, "must not hold the character 0")
    return value


def _exactly(annotation: Any) -> _Builder:
    def built(value: Any, where: str) -> Any:
        has_type = isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool))
        require(has_type, where, value, f"must be of type {annotation.__name__}")
        return value

    return built


# ---- what is quoted in an error: one line, and not long


class _Shown(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < 10**40 else f"a number of {x.bit_length()} bits"


_shown_by = _Shown()
_shown_by.maxstring = _shown_by.maxother = 120
_shown_by.maxlist = _shown_by.maxtuple = _shown_by.maxdict = 12


def _shown(value: object) -> str:
    """Its repr, shortened."""
    return _shown_by.repr(value)


def _plain(name: str) -> str:
    """A field's name as it stands; with escapes if it could not be printed, and shortened."""
    return name if name.isprintable() and len(name) <= 120 else _shown(name)


def _closest(value: object, known: tuple[Any, ...]) -> str:
    close = difflib.get_close_matches(str(value)[:80], [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
