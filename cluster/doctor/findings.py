"""The result of a check, the same check on many machines as one line, and no secrets in any of them."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from distseg.errors import masked

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"
HERE = "here"
MAX_MACHINES_NAMED = 3
NAME_WIDTH = 33  # of the longest name, and two blanks

_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
_NAMES_A_PLACE = re.compile(r"(_PATH|_FILE|_DIR|_MODE)$", re.IGNORECASE)
_MIN_SECRET_LENGTH = 4


@dataclass(frozen=True)
class Finding:
    """What a check saw, and, if it failed, what to do."""

    name: str
    status: str  # OK, FAILED, SKIPPED
    seen: str
    remedy: str = ""
    where: tuple[str, ...] = ()  # machines; HERE is the user's


def ok(name: str, seen: str, *where: str) -> Finding:
    return Finding(name, OK, seen, "", where)


def failed(name: str, seen: str, remedy: str, *where: str) -> Finding:
    return Finding(name, FAILED, seen, remedy, where)


def skipped(name: str, why: str) -> Finding:
    return Finding(name, SKIPPED, why)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """The findings of one check on many machines as one, or, where it failed, as one for each way in which it did."""
    by_name: dict[str, list[Finding]] = {}
    for finding in findings:
        by_name.setdefault(finding.name, []).append(finding)
    result = []
    for group in by_name.values():
        bad = [finding for finding in group if finding.status == FAILED]
        ways = dict.fromkeys((finding.seen, finding.remedy) for finding in bad)
        for seen, remedy in ways:
            where = [place for f in bad if (f.seen, f.remedy) == (seen, remedy) for place in f.where]
            result.append(replace(bad[0], seen=seen, remedy=remedy, where=tuple(where)))
        if not bad:
            result.append(replace(group[0], where=tuple(place for f in group for place in f.where)))
    return result


def line(finding: Finding) -> str:
    """For a person."""
    where = f" [{machines(finding.where)}]" if finding.where else ""
    remedy = f": {finding.remedy}" if finding.remedy else ""
    return f"{finding.status:8}{finding.name:<{NAME_WIDTH}}{finding.seen}{where}{remedy}"


def machines(names: Sequence[str]) -> str:
    """'here, 10.0.0.1, 10.0.0.2 and 7 more'."""
    shown = ", ".join(names[:MAX_MACHINES_NAMED])
    return shown if len(names) <= MAX_MACHINES_NAMED else f"{shown} and {len(names) - MAX_MACHINES_NAMED} more"


# ---- secrets


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """The values that must never be printed, longest first: a short one may be a part of a long one."""
    values = {
        value
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and not _NAMES_A_PLACE.search(name) and len(value) >= _MIN_SECRET_LENGTH
    }
    return sorted(values | {quote(value, safe="") for value in values}, key=len, reverse=True)


def redacted(finding: Finding, secrets: Sequence[str]) -> Finding:
    """Without secrets, and in one line: libraries quote what they were given."""
    return replace(finding, seen=_without(finding.seen, secrets), remedy=_without(finding.remedy, secrets))


def redacted_here(findings: Iterable[Finding], more: Mapping[str, str] | None = None) -> list[Finding]:
    """With the secrets of this process's environment, and of `more`."""
    secrets = secrets_of({**os.environ, **(more or {})})
    return [redacted(finding, secrets) for finding in findings]


def _without(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return " ".join(masked(text).split())
