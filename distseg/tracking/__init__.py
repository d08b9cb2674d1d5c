"""MLflow: one run per training, whatever happens to the processes. The only importer of mlflow.

client       the server: which one, how it is reached
runs         a run from its opening to its end
metric_log   metrics on their way there, and the journal of those that are not there yet
"""

from distseg.tracking.client import OFF, is_local_file, resolve_uri
from distseg.tracking.metric_log import MetricLog, Record, read_journal, replace_journal, write_journal
from distseg.tracking.runs import (
    DESCRIPTION_TAG,
    PARAMS,
    History,
    Point,
    find_run,
    finish_run,
    finish_search,
    open_run,
    read_history,
    run_link,
)

__all__ = [
    "DESCRIPTION_TAG",
    "OFF",
    "PARAMS",
    "History",
    "MetricLog",
    "Point",
    "Record",
    "find_run",
    "finish_run",
    "finish_search",
    "is_local_file",
    "open_run",
    "read_history",
    "read_journal",
    "replace_journal",
    "resolve_uri",
    "run_link",
    "write_journal",
]
