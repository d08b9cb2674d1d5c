"""MLflow: one run per training, whatever happens to the processes. The only importer of mlflow.

client       the server: which one, how it is reached, how long it is waited for
runs         a run from its opening to its end
journal      what a run measured, in its own directory
outbox       things on their way to the server, from a thread
metric_log   metrics on that way
picture_log  pictures of evaluations, likewise
models       the network of a run's best checkpoint, and its place in the registry
views        the experiment's page as it answers which run holds in which condition
"""

from distseg.tracking.client import (
    CLOSE_WAIT_S,
    FINISH_WAIT_S,
    MODEL_WAIT_S,
    OFF,
    call_with_timeout,
    checked_uri,
    is_local_file,
    resolve_uri,
)
from distseg.tracking.journal import (
    Journal,
    MetricRecord,
    close_journal,
    history_of,
    read_journal,
    read_journal_end,
    reopen_journal,
    replace_journal,
    without_repeats,
)
from distseg.tracking.metric_log import MetricLog, send_records
from distseg.tracking.mlflow_runs import (
    DESCRIPTION_TAG,
    PARAMS,
    VARIED_TAG,
    DataInput,
    History,
    MetricPoint,
    delete_replaced,
    find_run,
    finish_run,
    finish_search,
    is_sent,
    mark_sent,
    open_run,
    read_history,
    run_link,
)
from distseg.tracking.picture_log import PictureLog, send_pictures
from distseg.tracking.registry import ModelToLog, RegisteredVersion, log_model, register_model
from distseg.tracking.saved_view import ComparisonView, save_view

__all__ = [
    "CLOSE_WAIT_S",
    "DESCRIPTION_TAG",
    "FINISH_WAIT_S",
    "MODEL_WAIT_S",
    "OFF",
    "PARAMS",
    "VARIED_TAG",
    "ComparisonView",
    "DataInput",
    "History",
    "Journal",
    "MetricLog",
    "MetricPoint",
    "MetricRecord",
    "ModelToLog",
    "PictureLog",
    "RegisteredVersion",
    "call_with_timeout",
    "checked_uri",
    "close_journal",
    "delete_replaced",
    "find_run",
    "finish_run",
    "finish_search",
    "history_of",
    "is_local_file",
    "is_sent",
    "log_model",
    "mark_sent",
    "open_run",
    "read_history",
    "read_journal",
    "read_journal_end",
    "register_model",
    "reopen_journal",
    "replace_journal",
    "resolve_uri",
    "run_link",
    "save_view",
    "send_pictures",
    "send_records",
    "without_repeats",
]
