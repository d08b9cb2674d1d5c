"""A run from its beginning to its end: its directory, its report to MLflow, and what is sent later.

In: a RunConfig, or the directory of a run (a path or s3:// URI). Out: an Outcome, and in the directory all that MLflow
shows of the run, so that it can be sent at any time.

    run = Run.new(config)                   or Run.resume(uri, config)
    run.open(config, manifest, saved)       creates the MLflow run, writes run.json
    reporter = RunReporter(config, run, saved)      rank 0; the training loop calls it. Other ranks: NullReporter
    reporter.close()
    outcome = finalize_run(run, "FINISHED")     or FAILED, KILLED: report, model, end of the MLflow run

`train_without_ray` does all of this in one process or under torchrun; distseg.orchestration does it with Ray.
`send_run` sends what MLflow lacks of a run; `read_review` reads a run for distseg.review. What MLflow shows of a run is
listed in contents.py.

A tracking server that fails costs a warning, never a run; only `send_run` raises TrackingError. A directory that is
no run, or is damaged, raises CheckpointError, one line with the path and the remedy.
"""

from distseg.runs.finalize import (
    Outcome,
    Sent,
    begin_to_end,
    close_early,
    end_run,
    finalize_run,
    leave_run,
    send_run,
    stop_notice,
)
from distseg.runs.lease import TRAINS_IT, taken
from distseg.runs.mlflow_logs import Left, Logs, NoLogs, close_logs, logs_of
from distseg.runs.model_logging import save_search_view
from distseg.runs.report import briefly_named, read_evaluations, read_review
from distseg.runs.reporter import NullReporter, RunReporter
from distseg.runs.run import (
    RUNNING,
    ProgressCallback,
    Run,
    check_resume,
    find_run_in,
    find_runs_in,
    load_resume_checkpoint,
    read_config,
    read_run_json,
    resolve_tracking,
    with_absolute_paths,
)
from distseg.runs.worker import train_without_ray

__all__ = [
    "RUNNING",
    "TRAINS_IT",
    "Left",
    "Logs",
    "NoLogs",
    "NullReporter",
    "Outcome",
    "ProgressCallback",
    "Run",
    "RunReporter",
    "Sent",
    "begin_to_end",
    "briefly_named",
    "check_resume",
    "close_early",
    "close_logs",
    "end_run",
    "finalize_run",
    "find_run_in",
    "find_runs_in",
    "leave_run",
    "load_resume_checkpoint",
    "logs_of",
    "read_config",
    "read_evaluations",
    "read_review",
    "read_run_json",
    "resolve_tracking",
    "save_search_view",
    "send_run",
    "stop_notice",
    "taken",
    "train_without_ray",
    "with_absolute_paths",
]
