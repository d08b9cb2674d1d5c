"""What a value of JSON may be beside its type: kinds, for the annotations of a format's fields."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Check:
    """Annotated[int, Check(lambda n: n > 0, "must be positive")]: a type and what its values must also be."""

    holds: Callable[[Any], object]
    remedy: str


NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""What names files: a split, a condition, a site, a sample. No dot and no slash, so it cannot lead elsewhere."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Name = Annotated[str, Check(NAME.fullmatch, "use letters, digits, '-' and '_' only, 200 at most")]
RunName = Annotated[str, Check(re.compile(r"[\w-]{1,300}").fullmatch, "use letters, digits, '-' and '_' only")]
RunId = Annotated[str, Check(re.compile(r"[\w-]{0,300}").fullmatch, "use letters, digits, '-' and '_' only")]
Sha256 = Annotated[str, Check(re.compile(r"[0-9a-f]{64}").fullmatch, "must be 64 hex digits")]
Line = Annotated[
    str,
    Check(
        lambda text: text.strip() and len(text) <= 1000 and not _CONTROL.search(text),
        "must be one line of text, 1000 characters at most",
    ),
]
Count = Annotated[int, Check(lambda n: 0 <= n < 2**62, "must be from 0 to 2^62")]
AtLeast1 = Annotated[int, Check(lambda n: 1 <= n < 2**50, "must be from 1 to 2^50")]
Size = Annotated[int, Check(lambda n: 1 <= n <= 1 << 20, "must be from 1 to 2^20")]
Fraction = Annotated[float, Check(lambda x: 0 <= x <= 1, "must be from 0 to 1")]
