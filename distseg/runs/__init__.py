"""TODO distseg.runs."""

from distseg.runs.finalize import Outcome, Sent, finalize, send_run
from distseg.runs.model_logging import save_search_view
from distseg.runs.report import HISTORY_METRICS, build_review
from distseg.runs.run import (
    RUNNING,
    ProgressCallback,
    Run,
    check_run,
    find_run_in,
    fit_run,
    load_resume_checkpoint,
    read_config,
    read_run_json,
    resolve_tracking,
    with_absolute_paths,
)
from distseg.runs.worker import NullReporter, RunReporter, train_without_ray

__all__ = [
    "HISTORY_METRICS",
    "RUNNING",
    "NullReporter",
    "Outcome",
    "ProgressCallback",
    "Run",
    "RunReporter",
    "Sent",
    "build_review",
    "check_run",
    "finalize",
    "find_run_in",
    "fit_run",
    "load_resume_checkpoint",
    "read_config",
    "read_run_json",
    "resolve_tracking",
    "save_search_view",
    "send_run",
    "train_without_ray",
    "with_absolute_paths",
]
