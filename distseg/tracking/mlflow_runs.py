"""MLflow's runs: created once, found again by the tag `distseg.run` (a unique name), read, and closed.

Each function may be repeated after a failure, from any process: what the server has already is not created twice.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distseg import storage
from distseg.config import RunConfig, dotted_fields, to_dict
from distseg.errors import TrackingError
from distseg.tracking.address import is_local_file, without_password
from distseg.tracking.client import (
    CLOSE_EARLY_S,
    OPEN_WAIT_S,
    as_tracking_error,
    call_with_timeout,
    connect,
    experiment_id,
    rounded,
    server_errors,
    storing_files,
)
from distseg.tracking.metric_records import MetricPoint

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

log = logging.getLogger(__name__)

RUN_TAG = "distseg.run"
VARIED_TAG = "search.params"  # on a trial: the fields that the search varies, which are logged as PARAMS are
SENT_TAG = "distseg.sent"  # set once the server has all of a run that ended: the time of its end, ms since the epoch
REPLACED_TAG = "distseg.replaced_by"
RESOLVED_CONFIG = "config/resolved.json"  # an artifact
ARTIFACT_WAIT_S = 4.0  # for the store of artifacts, when a run is opened
DESCRIPTION_TAG = "mlflow.note.content"
BEST_SO_FAR = "search/best_so_far"  # a metric
METRICS_PER_CALL = 1000  # the limit of one log_batch
DATASET_NAME_LENGTH, DATASET_DIGEST_LENGTH = 500, 12  # MLflow takes 500 and 36; its pages show the digest in full

# The fields that tell runs apart in MLflow's table. The whole configuration is an artifact, config/resolved.json.
PARAMS = (
    "model.name",
    "model.backbone",
    "model.bins",
    "model.se_ratio",
    "loss.aux_weight",
    "optim.name",
    "optim.lr",
    "optim.max_steps",
    "data.batch_size",
    "data.train_conditions",
    "seed",
)
STYLE_PARAMS = ("style.conditions", "style.kl_weight")  # also logged for runs that restyle images


class DataInput(NamedTuple):
    """The part of one data set that a run reads."""

    name: str  # the data set and the chosen part, as `town val: fog`
    digest: str  # of the manifest
    uri: str
    context: str  # train, eval or style
    shards_digest: str  # of the content of the chosen shards
    num_images: int
    conditions: dict[str, list[str]]  # split -> conditions


def open_run(
    uri: str,
    experiment: str,
    run_name: str,
    config: RunConfig,
    tags: Mapping[str, str],
    inputs: Sequence[DataInput] = (),
    *,
    started_ms: int | None = None,
) -> str:
    """Creates the run with its tags, params, inputs and config/resolved.json, or finds it again. Returns its id.

    Raises TrackingError if the server does not answer within OPEN_WAIT_S or refuses.
    """
    client = connect(uri)
    end_s = math.inf if is_local_file(uri) else time.monotonic() + OPEN_WAIT_S

    def find_or_create() -> str:
        try:
            run = _find_run(client, experiment, run_name)
            if run is None:
                place = experiment_id(client, uri, experiment)
                if time.monotonic() > end_s:  # nobody waits any more, and another process may be creating it
                    raise TrackingError(f"MLflow at {without_password(uri)}: not done within {OPEN_WAIT_S:.0f} s")
                all_tags = {"stage": "train", **tags, RUN_TAG: run_name}
                run = client.create_run(place, start_time=started_ms, run_name=run_name, tags=all_tags)
            elif run.info.status != "RUNNING":
                client.update_run(run.info.run_id, status="RUNNING")
            _describe(client, run, config, inputs)
            _log_config(client, uri, str(run.info.run_id), config)
            return str(run.info.run_id)
        except server_errors() as error:
            raise as_tracking_error(uri, error) from None

    return call_with_timeout(OPEN_WAIT_S, uri, find_or_create)


def _describe(client: "MlflowClient", run: "MlflowRun", config: RunConfig, inputs: Sequence[DataInput]) -> None:
    """Adds params, inputs and configuration that the run lacks: the process that created it may have died then."""
    run_id = run.info.run_id
    if not run.data.params:
        fields = dotted_fields(config)
        varied = [name for name in run.data.tags.get(VARIED_TAG, "").split(",") if name in fields]
        style = STYLE_PARAMS if config.style.network is not None else ()
        names = [name for name in (*PARAMS, *style, *varied) if name in fields]
        _log_params(client, run_id, {name: _short(fields[name]) for name in names})
    if run.inputs is None or not run.inputs.dataset_inputs:
        _log_inputs(client, run_id, inputs)


def _log_config(client: "MlflowClient", uri: str, run_id: str, config: RunConfig) -> None:
    """Logs the configuration as an artifact, unless it is there.

    The store of artifacts may be another server than MLflow: if it does not answer, metrics must not wait for it.
    """
    problem = []

    def log_it() -> None:
        try:
            with storing_files(uri):
                if RESOLVED_CONFIG not in {file.path for file in client.list_artifacts(run_id, "config")}:
                    client.log_dict(run_id, to_dict(config), RESOLVED_CONFIG)
        except server_errors() as error:
            problem.append(str(as_tracking_error(uri, error)))

    if is_local_file(uri):
        log_it()
    else:
        (thread := threading.Thread(target=log_it, name="mlflow-config", daemon=True)).start()
        thread.join(ARTIFACT_WAIT_S)
        if thread.is_alive():
            problem.append(f"MLflow at {without_password(uri)}: the store of its artifacts does not answer")
    for text in problem:
        log.warning("%s; metrics go on, the rest waits", text)


def _short(value: object) -> str:
    """The text for MLflow's table. An empty list is (), since an empty text would look as if nothing was logged."""
    return (",".join(map(str, value)) or "()") if isinstance(value, list) else str(value)


def _log_params(client: "MlflowClient", run_id: str, params: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])


def _log_inputs(client: "MlflowClient", run_id: str, inputs: Sequence[DataInput]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    datasets = []
    for used in inputs:
        dataset = Dataset(
            name=used.name[:DATASET_NAME_LENGTH],
            digest=used.digest[:DATASET_DIGEST_LENGTH],
            source_type=used.uri.partition("://")[0] if storage.is_remote(used.uri) else "local",
            source=json.dumps({"uri": without_password(used.uri)}),
            profile=json.dumps(
                {
                    "num_images": used.num_images,
                    "conditions": used.conditions,
                    "manifest_digest": used.digest,
                    "shards_digest": used.shards_digest,
                }
            ),
        )
        datasets.append(DatasetInput(dataset, [InputTag("mlflow.data.context", used.context)]))
    if datasets:
        client.log_inputs(run_id, datasets)


def find_run(uri: str, experiment: str, run_name: str) -> str | None:
    """The id of the run with this name, or None. Raises TrackingError if the server does not answer or refuses."""
    try:
        run = _find_run(connect(uri), experiment, run_name)
    except server_errors() as error:
        raise as_tracking_error(uri, error) from None
    return None if run is None else str(run.info.run_id)


def _find_run(client: "MlflowClient", experiment: str, run_name: str) -> "MlflowRun | None":
    """The run with this name. A server that hung may have created several: then the one with metrics."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = _runs_named(client, found.experiment_id, run_name)
    return min(runs, key=lambda run: (-len(run.data.metrics), run.info.run_id), default=None)


def _runs_named(client: "MlflowClient", experiment_id: str, run_name: str) -> "list[MlflowRun]":
    return list(client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{run_name}'"))


def delete_replaced(uri: str, experiment: str, run_name: str, replaced_by: str) -> None:
    """Deletes the run with this name, if the server has it, because another run has replaced it. MLflow can restore it.

    Raises TrackingError.
    """
    client = connect(uri)
    try:
        run = _find_run(client, experiment, run_name)
        if run is not None:
            client.set_tag(run.info.run_id, REPLACED_TAG, replaced_by)
            client.delete_run(run.info.run_id)
    except server_errors() as error:
        raise as_tracking_error(uri, error) from None


def read_history(uri: str, run_id: str, names: Sequence[str]) -> dict[str, list[MetricPoint]]:
    """The values of these metrics on the server, by step. Raises TrackingError if it does not answer or refuses."""
    client = connect(uri)
    try:
        found = {name: client.get_metric_history(run_id, name) for name in names}
    except server_errors() as error:
        raise as_tracking_error(uri, error) from None
    return {
        name: sorted(MetricPoint(metric.step, metric.value, metric.timestamp / 1000) for metric in metrics)
        for name, metrics in found.items()
    }


def finish_run(
    uri: str,
    run_id: str,
    status: str,
    files: Mapping[str, bytes],
    tags: Mapping[str, str],
    *,
    ended_ms: int | None = None,
) -> None:
    """Logs artifacts (path -> content) and tags, and closes the run with `status`: FINISHED, FAILED or KILLED.

    `ended_ms`: when it ended, if not now. Raises TrackingError if the server does not answer or refuses.
    """
    from mlflow.entities import RunTag

    client = connect(uri)
    try:
        if tags:
            client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        if files:
            with storage.scratch_folder() as folder:
                for name, data in files.items():
                    path = Path(folder, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                with storing_files(uri):
                    client.log_artifacts(run_id, str(folder))
        _delete_duplicates(client, run_id)
        client.set_terminated(run_id, status, ended_ms or int(time.time() * 1000))
    except server_errors() as error:
        raise as_tracking_error(uri, error) from None


def close_early(uri: str, experiment: str, run_name: str, status: str, *, run_id: str = "") -> None:
    """Closes a run before the rest of it is sent, which may never happen. Nothing, if the server has no such run.

    Raises TrackingError within CLOSE_EARLY_S.
    """

    def close() -> None:
        if not (found := run_id or find_run(uri, experiment, run_name)):
            return
        try:
            connect(uri).set_terminated(found, status)
        except server_errors() as error:
            raise as_tracking_error(uri, error) from None

    call_with_timeout(CLOSE_EARLY_S, uri, close)


def mark_sent(uri: str, run_id: str, ended_ms: int) -> None:
    """Notes on the server that it has all of the run, which ended at `ended_ms`. Raises TrackingError."""
    try:
        connect(uri).set_tag(run_id, SENT_TAG, str(ended_ms))
    except server_errors() as error:
        raise as_tracking_error(uri, error) from None


def is_sent(uri: str, run_id: str, ended_ms: int) -> bool:
    """Whether `mark_sent` was called for this end, and the run was not resumed since. Raises TrackingError."""
    try:
        run = connect(uri).get_run(run_id)
    except server_errors() as error:
        raise as_tracking_error(uri, error) from None
    return run.data.tags.get(SENT_TAG) == str(ended_ms) and run.info.status != "RUNNING"


def _delete_duplicates(client: "MlflowClient", run_id: str) -> None:
    """Deletes runs of the same name without metrics: a server that hung may have created one too late."""
    run = client.get_run(run_id)
    for other in _runs_named(client, run.info.experiment_id, run.data.tags.get(RUN_TAG, "")):
        if other.info.run_id != run_id and not other.data.metrics:
            client.delete_run(other.info.run_id)


def finish_search(
    uri: str,
    run_id: str,
    status: str,
    metrics: Mapping[str, float],
    curve: Sequence[tuple[int, float]],
    texts: Mapping[str, str],
    *,
    description: str = "",
) -> None:
    """Logs the results of a search, and closes its run.

    `curve`: (optimiser steps spent, best objective until then). `texts`: artifact path -> content. `description` is
    Markdown. Raises TrackingError if the server does not answer or refuses.
    """
    from mlflow.entities import Metric

    client = connect(uri)
    now_ms = int(time.time() * 1000)
    try:
        known = {metric.step for metric in client.get_metric_history(run_id, BEST_SO_FAR)}
        curve = [(steps, value) for steps, value in curve if steps not in known]
        points = [Metric(BEST_SO_FAR, rounded(value), now_ms, steps) for steps, value in curve]
        points += [Metric(name, rounded(value), now_ms, 0) for name, value in metrics.items()]
        for start in range(0, len(points), METRICS_PER_CALL):
            client.log_batch(run_id, metrics=points[start : start + METRICS_PER_CALL])
        with storing_files(uri):
            for name, text in texts.items():
                client.log_text(run_id, text, name)
        client.set_tag(run_id, DESCRIPTION_TAG, description)
        client.set_terminated(run_id, status)
    except server_errors() as error:
        raise as_tracking_error(uri, error) from None
