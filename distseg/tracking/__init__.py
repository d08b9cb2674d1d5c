"""MLflow: one run per training, whatever happens to the processes. The only importer of mlflow.

client       the server: which one, how it is reached
runs         a run from its opening to its end
metric_log   metrics on their way there, and the journal of those that are not there yet
models       the network of a run's best checkpoint, and its place in the registry
views        the experiment's page as it answers which run holds in which condition
picture_log  pictures of evaluations, likewise, without a journal
"""

from distseg.tracking.client import OFF, is_local_file, resolve_uri
from distseg.tracking.metric_log import MetricLog, Record, read_journal, replace_journal, write_journal
from distseg.tracking.models import Registered, TrackedModel, log_model, register_model
from distseg.tracking.picture_log import PictureLog
from distseg.tracking.runs import (
    DESCRIPTION_TAG,
    PARAMS,
    VARIED_TAG,
    DataInput,
    History,
    Point,
    find_run,
    finish_run,
    finish_search,
    open_run,
    read_history,
    run_link,
)
from distseg.tracking.views import View, save_view

__all__ = [
    "DESCRIPTION_TAG",
    "OFF",
    "PARAMS",
    "VARIED_TAG",
    "DataInput",
    "History",
    "MetricLog",
    "PictureLog",
    "Point",
    "Record",
    "Registered",
    "TrackedModel",
    "View",
    "find_run",
    "finish_run",
    "finish_search",
    "is_local_file",
    "log_model",
    "open_run",
    "read_history",
    "read_journal",
    "register_model",
    "replace_journal",
    "resolve_uri",
    "run_link",
    "save_view",
    "write_journal",
]
