"""JSON that others wrote: what is let in, and the one line for what is not."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pytest

from distseg.errors import ConfigError, DataError
from distseg.strict_json import (
    MAX_BYTES,
    AtLeast1,
    Count,
    Fraction,
    Line,
    Name,
    RunName,
    Sha256,
    build,
    loads,
    read,
)


class Pair(NamedTuple):
    low: int
    high: int


DEFAULT = Pair(0, 1)


@dataclass(frozen=True, kw_only=True)
class Format:
    name: Name
    count: Count = 0
    share: Fraction = 0.0
    pair: Pair = DEFAULT
    kind: Literal["a", "b"] = "a"
    scores: dict[Line, float | None] = field(default_factory=dict)
    numbers: tuple[int, ...] = ()


def test_what_fits_is_built_of_exact_types() -> None:
    data = b'{"name": "a-1", "count": 3, "share": 1, "pair": [2, 3], "scores": {"mIoU": 1, "x": null}, "numbers": [1]}'
    built = read(Format, data, "f.json", DataError, "again")
    assert built == Format(
        name="a-1", count=3, share=1.0, pair=Pair(2, 3), scores={"mIoU": 1.0, "x": None}, numbers=(1,)
    )
    assert type(built.share) is float
    assert type(built.pair) is Pair


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], r"must be an object"),
        ({}, r"name: missing"),
        ({"name": "a", "nmae": 1}, r"nmae: no such field; did you mean 'name'\?"),
        ({"name": "../../etc"}, r"name = '\.\./\.\./etc': use letters, digits"),
        ({"name": "/etc/x"}, "use letters, digits"),
        ({"name": ""}, "use letters, digits"),
        ({"name": "a\n"}, "use letters, digits"),
        ({"name": "x" * 201}, "200 at most"),
        ({"name": "a", "count": True}, "count = True: must be of type int"),
        ({"name": "a", "count": 1.0}, "count = 1.0: must be of type int"),
        ({"name": "a", "count": -1}, "count = -1: must be from 0"),
        ({"name": "a", "share": 1.5}, "share = 1.5: must be from 0 to 1"),
        ({"name": "a", "share": "1"}, "share = '1': must be of type float"),
        ({"name": "a", "share": False}, "share = False: must be of type float"),
        ({"name": "a", "pair": [1]}, r"pair = \[1\]: must have 2 values"),
        ({"name": "a", "pair": {"low": 1}}, r"pair\.high: missing"),
        ({"name": "a", "kind": "c"}, "kind = 'c': choose from a, b"),
        ({"name": "a", "kind": True}, "kind = True: choose from"),
        ({"name": "a", "scores": {"a\x1b[1m": 1}}, "one line of text"),
        ({"name": "a", "scores": {"x": "y"}}, r"scores\.x = 'y': must be of type float"),
        ({"name": "a", "numbers": [1, True]}, "numbers = True: must be of type int"),
        ({"name": "a", "numbers": "1"}, "numbers = '1': must be a list"),
    ],
)
def test_what_does_not_fit_is_one_line_with_uri_field_value_and_remedy(value: Any, says: str) -> None:
    with pytest.raises(DataError, match=rf"^f\.json is damaged \(.*{says}.*\); again$") as caught:
        read(Format, json.dumps(value).encode(), "f.json", DataError, "again")
    assert "\n" not in str(caught.value)


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),  # half a character, as three bytes
        (DEEP, "deeper than 32"),
        (DEEP + b"]" * 100_000, "deeper than 32"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "deeper than 32"),
        (b"[1" + b"0" * 5000 + b"]", "has 5001 digits"),
        (b"[-9223372036854775808]", "at most 2.63 - 1"),
        (b'{"lr": NaN}', "NaN is not a number"),
        (b"[-Infinity]", "-Infinity is not a number"),
        (b"[1e999]", "1e999 is too large"),
        (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
        (rb'["\ud800"]', "half a character"),
        (rb'{"\udc00": 1}', "half a character"),
        (b" " * (MAX_BYTES + 1), "more than 64 MiB"),
    ],
    ids=[f"case{n}" for n in range(16)],
)
def test_what_is_no_plain_json_is_one_line(data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read(Any, data, "f.json", DataError, "again")
    assert str(caught.value).startswith("f.json is damaged (")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_sound_json_passes() -> None:
    assert loads(b"\xef\xbb\xbf[1]") == [1], "as some editors write UTF-8"
    assert loads(rb'["\ud83d\ude00", "\\ud800"]') == ["😀", "\\ud800"]
    assert loads(b"[9223372036854775807, 1e300]") == [2**63 - 1, 1e300]
    assert loads(b"[" * 32 + b"]" * 32)


@pytest.mark.parametrize(
    "value",
    ["9" * 5000, 10**5000, [list(range(100))] * 100, {"k" * 5000: 1}, "\x1b[31m\n"],
    ids=["text", "number", "lists", "key", "control"],
)
def test_a_value_is_quoted_in_one_short_line(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Format, {"name": value} if not isinstance(value, dict) else value, "")
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Sha256, "0" * 64, ["0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n", "/" * 64]),
        (RunName, "grün-1_x", ["", "a/b", "..", "a b", "x" * 301]),
        (Line, "traffic light (rot)", ["", " ", "a\nb", "\x1b[0m", "x" * 1001]),
        (AtLeast1, 1, [0, -1, True, 2**51]),
        (float, 0.5, ["1", float("nan"), float("inf"), True, 10**400]),
        (str, "a\nb", ["\0", "\ud800", 1]),
    ],
)
def test_kinds(kind: Any, good: Any, bad: list[Any]) -> None:
    assert build(kind, good, "x") == good
    for value in bad:
        with pytest.raises(ConfigError, match=r"^x = "):
            build(kind, value, "x")


def test_rows_are_built_while_a_file_is_parsed() -> None:
    found = loads(
        b'{"rows": [{"name": "a"}, {"name": "b"}]}', hook=lambda v: build(Format, v, "") if "name" in v else v
    )
    assert found == {"rows": [Format(name="a"), Format(name="b")]}
