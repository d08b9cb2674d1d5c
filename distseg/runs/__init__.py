"""TODO distseg.runs."""

from distseg.runs.finalize import Outcome, Sent, finalize, send_run
from distseg.runs.model_logging import search_view
from distseg.runs.report import HISTORY, review_of
from distseg.runs.run import (
    RUNNING,
    Run,
    Show,
    check_run,
    fit_run,
    read_about,
    read_config,
    saved_before,
    tracking_of,
    with_absolute_paths,
)
from distseg.runs.worker import Follower, RunReport, train_as_rank

__all__ = [
    "HISTORY",
    "RUNNING",
    "Follower",
    "Outcome",
    "Run",
    "RunReport",
    "Sent",
    "Show",
    "check_run",
    "finalize",
    "fit_run",
    "read_about",
    "read_config",
    "review_of",
    "saved_before",
    "search_view",
    "send_run",
    "tracking_of",
    "train_as_rank",
    "with_absolute_paths",
]
