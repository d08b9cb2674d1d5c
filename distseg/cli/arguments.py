"""Command lines, by tyro: flags with underscores (hyphens work too); bad arguments are a ConfigError of one line.

A program that trains has two kinds of arguments: its own, such as `--resume`, and fields of a configuration, such as
`--optim.lr`. `parse_known` takes its own and returns the rest, with which `override` changes the configuration.
"""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from distseg import storage
from distseg.config import RunConfig, command_line_default, from_dict, to_dict
from distseg.errors import ConfigError

T = TypeVar("T")


def parse(what: Any, arguments: Sequence[str], *, prog: str, description: str = "") -> Any:
    """The arguments as a dataclass, or as one of a union of sub-commands. Flags are `--flag` or `--flag VALUE`."""
    return _parse(what, arguments, prog, description, config=(tyro.conf.FlagCreatePairsOff,))


def parse_known(what: type[T], arguments: Sequence[str], *, prog: str, description: str = "") -> tuple[T, list[str]]:
    """(the arguments that belong to the dataclass, all others in their order). `--help` is left to who reads those."""
    known, rest = _parse(
        what,
        arguments,
        prog,
        description,
        config=(tyro.conf.FlagCreatePairsOff,),
        return_unknown_args=True,
        add_help=False,
    )
    return known, list(rest)


def override(config: RunConfig, arguments: Sequence[str], *, prog: str, description: str = "") -> RunConfig:
    """The configuration with fields replaced by `--dotted.field VALUE`; `True` and `False` are values too.

    Raises ConfigError for a flag that is no field, and for a value that the field does not take.
    """
    conversions = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)
    default, rest = command_line_default(config, arguments)
    changed: RunConfig = _parse(RunConfig, rest, prog, description, config=conversions, default=default)
    return from_dict(to_dict(changed))  # as workers will read it: no `inf`, no seed of more than 64 bits


def check_named(flag: str, uri: str) -> None:
    """Raises ConfigError for an empty name, which would be the working directory."""
    if not uri:
        raise ConfigError(f"{flag} '': name a directory or prefix")


def check_output(flag: str, uri: str) -> None:
    """Raises ConfigError or StorageError if a file cannot be written there: before the work, not after it."""
    if not uri:
        raise ConfigError(f"{flag} '': name the file to write")
    storage.check_file_writable(uri)


def _parse(what: Any, arguments: Sequence[str], prog: str, description: str, **options: Any) -> Any:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                what,
                prog=prog,
                description=description or None,
                args=list(arguments),
                use_underscores=True,
                **options,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(f"{_one_line(complaint.getvalue())} ({prog} --help lists all)") from None


def _one_line(box: str) -> str:
    """The sentence in the box that tyro draws around an error."""
    lines = [re.sub(r"[│╭╮╰╯─┃━]", "", line).strip() for line in box.splitlines()]
    lines = [line for line in lines if line and not re.fullmatch(r"-+", line)]
    sentence: list[str] = []
    for line in lines[1:] or lines:
        if line.startswith(("For full helptext", "Argument helptext")):
            break
        sentence.append(line)
    return re.sub(r"\s+", " ", " ".join(sentence)) or "bad arguments"
