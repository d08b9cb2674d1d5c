"""python -m distseg.report compare RUN RUN … --out FILE.html
       python -m distseg.report show RUN --out FILE.html

Sets runs side by side, per condition, against the first: by how much they differ, and whether that is more than the
choice of test images explains (a paired bootstrap over the images that both evaluated). `show` writes a run's own page
again. A RUN is a run's directory as `train` printed it, or any other thing that --checkpoint takes; the page is one
file that needs nothing else.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import tyro

from distseg import cli, storage, tracking
from distseg.errors import CheckpointError, ConfigError, TrackingError
from distseg.review import RunReview, comparison_page, run_page
from distseg.runs import HISTORY_METRICS, build_review, read_run_json
from distseg.tracking import History
from distseg.training import checkpoint

PROG = "python -m distseg.report"

log = logging.getLogger(__name__)

_BEGUN = re.compile(r"-\d{8}-\d{6}-[0-9a-f]{4}$")  # as `distseg.runs` names them


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
        page = run_page(reviewed(command.run))
    elif len(command.runs) < 2:
        raise ConfigError(f"compare {' '.join(command.runs)}: give at least two runs; for one there is show")
    else:
        page = comparison_page(briefly_named([reviewed(uri) for uri in command.runs]))
    storage.write_bytes(command.out, page.encode())
    print(f"written     {command.out}")
    return 0


def briefly_named(runs: Sequence[RunReview]) -> list[RunReview]:
    """Without the times at which they began, if they differ without; the page has both names."""
    brief = [_BEGUN.sub("", run.name) for run in runs]
    if len(set(brief)) < len(brief):
        return list(runs)
    return [replace(run, name=name, run=run.name) for run, name in zip(runs, brief, strict=True)]


def reviewed(uri: str) -> RunReview:
    """Raises CheckpointError for what has no evaluation; without its history if that is nowhere to be found."""
    found_uri, saved = checkpoint.resolve(uri)
    if "conditions" not in saved.tables:
        raise CheckpointError(f"{found_uri}: was saved without an evaluation; give a run that has evaluated")
    name = uri.rstrip("/").rpartition("/")[2]
    history: History = {}
    if storage.exists(storage.join(uri, "run.json")):
        about = read_run_json(uri)
        name, history = about["name"], _history(uri, about)
    return build_review(name, saved, history=history)


def _history(uri: str, about: Mapping[str, Any]) -> History:
    """From the run's journal, else, for a run of before there were journals, from the server."""
    history = tracking.history_of(tracking.read_journal(uri), HISTORY_METRICS)
    if history or not about["run_id"]:
        return history
    try:
        return tracking.read_history(about["tracking_uri"], about["run_id"], HISTORY_METRICS)
    except TrackingError as error:
        log.warning("%s; the page has no training curves and no cost of %s", error, about["name"])
        return {}


if __name__ == "__main__":
    cli.run(main)
