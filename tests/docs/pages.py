"""The README and the pages of docs/ as data: their blocks of code, commands, links and headings."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
_FENCE = re.compile(r"^\s*```(\w*)\s*$")
_COMMENT = re.compile(r"^\s*<!-- (.+) -->\s*$")
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_REFERENCE = re.compile(r"^::: (\S+)$", re.MULTILINE)  # mkdocstrings makes it an anchor


@dataclass(frozen=True)
class Block:
    """Code between two ``` lines, and what the HTML comment on the line above says about it."""

    page: Path
    line: int
    language: str
    text: str
    comment: str

    @property
    def where(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that the block is the content of."""
        return self.comment.removeprefix("file: ") if self.comment.startswith("file: ") else None

    @property
    def is_run(self) -> bool:
        content = self.comment.startswith(("not run: ", "file: "))
        return self.language in ("bash", "python") and not content

    @property
    def needs_ray(self) -> bool:
        return self.comment.startswith("on Ray")

    @property
    def added_flags(self) -> str:
        """That make a training or a search short."""
        found = re.search(r"\bwith: (--.+)", self.comment) if self.is_run else None
        return found[1] if found else ""

    @property
    def commands(self) -> list[str]:
        """One for each line; continued lines are joined, comments removed."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        lines = (re.sub(r"(^|\s+)#\s.*$", "", line).strip() for line in joined.splitlines())
        return [line for line in lines if line]


@dataclass(frozen=True)
class Invocation:
    """A program of ours as a command names it: `train`, or with its sub-command, `pack folder`."""

    program: str
    arguments: list[str]

    @property
    def is_training(self) -> bool:
        return self.program in ("train", "stylize train")

    @property
    def takes_fields(self) -> bool:
        """Any field of a configuration is a flag of it."""
        return self.is_training or self.program == "tune"

    @property
    def flags(self) -> set[str]:
        """With `_` between words, which the programs write; most take `-` too."""
        return {word.partition("=")[0].replace("-", "_") for word in self.arguments if word.startswith("--")}


WITH_SUBCOMMANDS = ("pack", "report", "stylize")


def pages() -> list[Path]:
    first = [REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    return [*first, *sorted(DOCS.glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    found = []
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    above = ""
    for number, line in lines:
        fence = _FENCE.match(line)
        if fence is None:
            above = line
            continue
        text = []
        for _, inside in lines:
            if _FENCE.match(inside):
                break
            text.append(inside)
        comment = _COMMENT.match(above)
        found.append(Block(page, number, fence[1], "\n".join(text) + "\n", comment[1] if comment else ""))
        above = ""
    return found


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^\s*```.*?^\s*```\s*$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def code_spans(page: Path) -> list[str]:
    """What stands between `backticks`, on one line each."""
    return [" ".join(span.split()) for span in _SPAN.findall(prose(page))]


def invocations(command: str) -> Iterator[Invocation]:
    """The programs that a shell command starts: one, or also that of a job that it submits."""
    words = shlex.split(command, comments=True)
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "--":
            parts.append([])
        else:
            parts[-1].append(word)
    for part in parts:
        modules = [i + 1 for i, word in enumerate(part[:-1]) if word == "-m"]
        if part[:1] == ["distseg"] and len(part) > 1:
            name, arguments = part[1], part[2:]
        elif modules and part[modules[0]].startswith(("distseg.", "cluster.")):
            name, arguments = part[modules[0]].removeprefix("distseg."), part[modules[0] + 1 :]
        else:
            continue
        if name.isupper():  # `distseg VERB`
            continue
        if name in WITH_SUBCOMMANDS and arguments and arguments[0].islower():
            name, arguments = f"{name} {arguments[0]}", arguments[1:]
        yield Invocation(name, arguments)


def links(page: Path) -> list[str]:
    """Relative ones, with their #anchor."""
    found = _LINK.findall(_SPAN.sub("", prose(page)))
    return [link for link in found if not link.startswith(("http:", "https:", "mailto:"))]


def anchors(page: Path) -> set[str]:
    """Of the headings that have the same anchor on the site and where a repository is browsed."""
    text = prose(page)
    found = set(_REFERENCE.findall(text))
    for heading in _HEADING.findall(text):
        plain = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        if (anchor := plain.replace(" ", "-")) == re.sub(r"[-\s]+", "-", plain):
            found.add(anchor)
    return found
