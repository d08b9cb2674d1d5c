"""Bytes -> JSON values, within bounds: of size, of depth, of the digits of a number; without NaN, infinity, a key that
is there twice, or half a character."""

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from distseg.errors import ConfigError

MAX_BYTES = 64 << 20  # of a file; a manifest may be larger, see its module
MAX_DEPTH = 32  # of lists and objects in each other
_MAX_INT = 2**63 - 1

_MANY_DIGITS = re.compile(r"\d{18}")
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")  # perhaps: such escapes are sound in pairs
_Object = dict[str, Any]


def loads(
    data: bytes, *, max_bytes: int = MAX_BYTES, hook: Callable[[_Object], Any] | None = None, allow_nan: bool = False
) -> Any:
    """JSON values. `hook` is given each object when it is complete, and gives what takes its place.

    Raises ValueError for what is not JSON or too long, and ConfigError for what is JSON but not plain: one line each.
    What `hook` puts in an object's place is not looked into: the hook must have checked it. `allow_nan`: also takes
    NaN and Infinity, as Python writes them.
    """
    if len(data) > max_bytes:
        raise ValueError(f"more than {max_bytes >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None

    def as_object(pairs: list[tuple[str, Any]]) -> Any:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"the key {twice[:80]!r} is there twice")
        return found if hook is None else hook(found)

    try:
        value = json.loads(
            text,
            object_pairs_hook=as_object,
            parse_constant=float if allow_nan else _refuse,
            parse_float=_finite,
            parse_int=_bounded if _MANY_DIGITS.search(text) else None,
        )
    except RecursionError:
        raise _too_deep() from None
    _check(value, texts=bool(_HALF_CHARACTER.search(text)))
    return value


def _refuse(name: str) -> NoReturn:
    raise ConfigError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ConfigError(f"the number {text[:30]} is too large")
    return value


def _bounded(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > _MAX_INT:
        raise ConfigError(f"the number {text[:20]}… has {len(text.lstrip('-'))} digits; at most 2^63 - 1 is allowed")
    return int(text)


def _too_deep() -> ValueError:
    return ValueError(f"lists and objects in each other deeper than {MAX_DEPTH}")


def _check(value: Any, *, texts: bool) -> None:
    """Level by level, so that no depth can exhaust the stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inside: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                inside += node.values()
                if texts:
                    inside += node  # its keys
            elif isinstance(node, list):
                inside += node
            elif texts and isinstance(node, str) and any("\ud800" <= character <= "\udfff" for character in node):
                raise ConfigError(f"{node[:40]!a} holds half a character (a lone surrogate)")
        if not inside:
            return
        level = inside
    if any(isinstance(node, dict | list) for node in level):
        raise _too_deep()
