"""python -m distseg.report compare RUN RUN … --out FILE.html
       python -m distseg.report show RUN --out FILE.html

Sets runs side by side, per condition, against the first: by how much they differ, and whether that is more than the
choice of test images explains (a paired bootstrap over the images that both evaluated). `show` writes a run's own page
again. A RUN is a run's directory as `train` printed it, or any other thing that --checkpoint takes; the page is one
file that needs nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from distseg import cli, storage
from distseg.errors import ConfigError
from distseg.review import comparison_page, run_page
from distseg.runs import briefly_named, read_review

PROG = "python -m distseg.report"


@dataclass(frozen=True)
class Compare:
    """Runs side by side, against the first."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    out: str
    """The HTML file: a path or s3:// URI."""


@dataclass(frozen=True)
class Show:
    """The page of one run."""

    run: tyro.conf.Positional[str]
    out: str
    """The HTML file: a path or s3:// URI."""


_Command = Annotated[Compare, tyro.conf.subcommand("compare")] | Annotated[Show, tyro.conf.subcommand("show")]


def main(arguments: Sequence[str]) -> int:
    command = cli.parse(_Command, arguments, prog=PROG, description=__doc__ or "")
    storage.check_writable(command.out.rpartition("/")[0] or ".")
    if isinstance(command, Show):
        page = run_page(read_review(command.run))
    elif len(command.runs) < 2:
        raise ConfigError(f"compare {' '.join(command.runs)}: give at least two runs; for one there is show")
    else:
        page = comparison_page(briefly_named([read_review(uri) for uri in command.runs]))
    storage.write_bytes(command.out, page.encode())
    cli.say(f"written     {command.out}")
    return 0


if __name__ == "__main__":
    cli.run(main)
