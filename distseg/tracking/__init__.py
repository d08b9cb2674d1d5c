"""MLflow: one run for each training, whatever happens to its processes. Nobody else calls mlflow.

In: a tracking URI (an MLflow server, or sqlite:///FILE), a run's name, metric records, JPEGs, a model's file.
Out: ids of MLflow runs and models, links for a browser, histories of metrics.

Functions that talk to the server raise TrackingError, one line that names the server and says what to do, if it does
not answer or refuses; `call_with_timeout` limits how long they are waited for. MetricLog and PictureLog never wait and
never raise: they queue. The journal needs no server: it is in the run's directory, on a disk or in S3. Everything may
be repeated: what the server has already is not sent twice.

Times named `_ms` are milliseconds since the epoch, `_s` seconds. Values of metrics are logged with six digits.

address         tracking.uri as people write it
client          the server: which one, how it is reached, how long it is waited for
environment     environment variables that are set for MLflow's client
mlflow_formats  formats of MLflow that are not documented, and its known versions
mlflow_runs     a run on the server from its creation to its end: params, inputs, artifacts, tags, status
metric_records  metrics as they are kept and read
journal         the metrics of a run in its own directory
send_queue      a queue whose thread sends to the server
metric_log      metrics in such a queue
picture_log     pictures of evaluations in such a queue
registry        the network of a run's best checkpoint as an MLflow model, and its registered version
saved_view      the view of an experiment's page that compares runs by condition
"""

from distseg.tracking.address import OFF, is_local_file, without_password
from distseg.tracking.client import (
    CLOSE_WAIT_S,
    FINISH_WAIT_S,
    MODEL_WAIT_S,
    begin_to_connect,
    call_with_timeout,
    checked_uri,
    resolve_uri,
    run_link,
    try_out,
)
from distseg.tracking.journal import (
    Journal,
    close_journal,
    read_journal,
    read_journal_end,
    reopen_journal,
    replace_journal,
)
from distseg.tracking.metric_log import MetricLog, send_records
from distseg.tracking.metric_records import History, MetricPoint, MetricRecord, history_of, without_repeats
from distseg.tracking.mlflow_runs import (
    DESCRIPTION_TAG,
    PARAMS,
    VARIED_TAG,
    DataInput,
    close_early,
    delete_replaced,
    find_run,
    finish_run,
    finish_search,
    is_sent,
    mark_sent,
    open_run,
    read_history,
)
from distseg.tracking.picture_log import PictureLog, send_pictures
from distseg.tracking.registry import (
    ModelToLog,
    RegisteredVersion,
    log_model,
    prepare_to_log_model,
    register_model,
)
from distseg.tracking.saved_view import ComparisonView, artifact_link, save_view

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
    "artifact_link",
    "begin_to_connect",
    "call_with_timeout",
    "checked_uri",
    "close_early",
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
    "prepare_to_log_model",
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
    "try_out",
    "without_password",
    "without_repeats",
]
