"""MLflow runs: opened once, found again by their tag `distseg.run` (a unique name), read, and closed."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distseg.config import RunConfig, dotted_fields, to_dict
from distseg.errors import TrackingError, first_line
from distseg.tracking.client import connect, failures, is_local_file, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "distseg.run"
VARIED_TAG = "search.params"  # of a trial: the fields that the search varies, which are logged like PARAMS
DESCRIPTION_TAG = "mlflow.note.content"
METRICS_PER_CALL = 1000  # what one log_batch may carry
DATASET_NAME_LENGTH, DATASET_DIGEST_LENGTH = 500, 12  # MLflow takes 500 and 36; a page shows the whole digest

# The fields that tell runs apart in the MLflow table; the whole configuration is an artifact.
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


class Point(NamedTuple):
    """One value of a metric."""

    step: int
    value: float
    time_s: float  # since the epoch


History = Mapping[str, Sequence[Point]]  # of each metric, by step


class DataInput(NamedTuple):
    """What a run reads of one data set."""

    name: str  # of the data set and of what is chosen of it
    digest: str  # of its manifest
    uri: str
    context: str  # train, eval or style
    shards_digest: str  # of the content that is chosen
    num_images: int
    conditions: dict[str, list[str]]  # split -> conditions


def open_run(
    uri: str,
    experiment: str,
    run_name: str,
    config: RunConfig,
    tags: Mapping[str, str],
    inputs: Sequence[DataInput] = (),
) -> str:
    """Creates the run with its tags, params, inputs and config/resolved.json, or finds it again. Returns its id.

    Raises TrackingError if the server does not answer or refuses.
    """
    client = connect(uri)
    try:
        run_id = _find_run(client, experiment, run_name)
        if run_id is None:
            all_tags = {"stage": "train", **tags, RUN_TAG: run_name}
            run = client.create_run(_experiment_id(client, uri, experiment), run_name=run_name, tags=all_tags)
            run_id = str(run.info.run_id)
            fields = dotted_fields(config)
            varied = [name for name in tags.get(VARIED_TAG, "").split(",") if name in fields]
            _log_params(client, run_id, {name: _short(fields[name]) for name in (*PARAMS, *varied)})
            _log_inputs(client, run_id, inputs)
            client.log_dict(run_id, to_dict(config), "config/resolved.json")
        else:
            client.update_run(run_id, status="RUNNING")
        return run_id
    except failures() as error:
        raise TrackingError(f"MLflow at {shown(uri)}: {first_line(error)}") from None


def _short(value: object) -> str:
    """As MLflow's table shows it; an empty list of conditions or bins would show as nothing at all."""
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
            source_type="s3" if used.uri.startswith("s3://") else "local",
            source=json.dumps({"uri": shown(used.uri)}),
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


def _experiment_id(client: "MlflowClient", uri: str, experiment: str) -> str:
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        return str(found.experiment_id)
    # A server knows where artifacts go; for a file we say so, or they would land in the working directory.
    artifacts = None
    if is_local_file(uri):
        artifacts = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / experiment).as_uri()
    return str(client.create_experiment(experiment, artifact_location=artifacts))


def find_run(uri: str, experiment: str, run_name: str) -> str:
    """The id of a run by its name. Raises TrackingError if the server does not answer or has no such run."""
    try:
        run_id = _find_run(connect(uri), experiment, run_name)
    except failures() as error:
        raise TrackingError(f"MLflow at {shown(uri)}: {first_line(error)}") from None
    if run_id is None:
        raise TrackingError(f"MLflow at {shown(uri)} has no run named {run_name} in experiment {experiment}")
    return run_id


def _find_run(client: "MlflowClient", experiment: str, run_name: str) -> str | None:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = client.search_runs([found.experiment_id], f"tags.`{RUN_TAG}` = '{run_name}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None


def read_history(uri: str, run_id: str, names: Sequence[str]) -> dict[str, list[Point]]:
    """What the server has of these metrics, by step. Raises TrackingError if it does not answer or refuses."""
    client = connect(uri)
    try:
        found = {name: client.get_metric_history(run_id, name) for name in names}
    except failures() as error:
        raise TrackingError(f"MLflow at {shown(uri)}: {first_line(error)}") from None
    return {
        name: sorted(Point(metric.step, metric.value, metric.timestamp / 1000) for metric in metrics)
        for name, metrics in found.items()
    }


def finish_run(uri: str, run_id: str, status: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None:
    """Logs what is left to be looked at and the final tags, and closes the run as FINISHED, FAILED or KILLED.

    Raises TrackingError if the server does not answer or refuses.
    """
    from mlflow.entities import RunTag

    client = connect(uri)
    try:
        if tags:
            client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        if files:
            with tempfile.TemporaryDirectory() as folder:
                for name, data in files.items():
                    path = Path(folder, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                client.log_artifacts(run_id, folder)
        client.set_terminated(run_id, status)
    except failures() as error:
        raise TrackingError(f"MLflow at {shown(uri)}: {first_line(error)}") from None


def finish_search(
    uri: str,
    run_id: str,
    status: str,
    metrics: Mapping[str, float],
    curve: Sequence[tuple[int, float]],
    texts: Mapping[str, str],
) -> None:
    """Logs what came of a search, and closes its run. `curve`: (optimiser steps spent, best objective until then).

    Raises TrackingError if the server does not answer or refuses.
    """
    from mlflow.entities import Metric

    client = connect(uri)
    now_ms = int(time.time() * 1000)
    try:
        known = {metric.step for metric in client.get_metric_history(run_id, "search/best_so_far")}
        points = [Metric("search/best_so_far", value, now_ms, steps) for steps, value in curve if steps not in known]
        points += [Metric(name, value, now_ms, 0) for name, value in metrics.items()]
        for start in range(0, len(points), METRICS_PER_CALL):
            client.log_batch(run_id, metrics=points[start : start + METRICS_PER_CALL])
        for name, text in texts.items():
            client.log_text(run_id, text, name)
        client.set_terminated(run_id, status)
    except failures() as error:
        raise TrackingError(f"MLflow at {shown(uri)}: {first_line(error)}") from None


def run_link(uri: str, run_id: str, experiment: str) -> str:
    """Where a browser shows the run: a URL, or for SQLite the command that serves it."""
    if is_local_file(uri):
        return f"mlflow ui --backend-store-uri {uri}    (run {run_id})"
    try:
        found = connect(uri).get_experiment_by_name(experiment)
    except failures():
        return f"{shown(uri)}    (it does not answer now; run {run_id})"
    experiment_id = found.experiment_id if found is not None else "0"
    # Without the type of workflow, MLflow shows the page among those of language models, under other names.
    page = f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"{shown(uri).rstrip('/')}/{page}"
