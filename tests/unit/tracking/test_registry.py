"""A logged model gives the label maps of distseg.inference in a fresh process; the champion is the best one."""

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pytest
import torch

from distseg import evaluation, tracking
from distseg.config import RunConfig, TrackingConfig
from distseg.errors import ConfigError
from distseg.models import build_model
from distseg.runs.model_logging import log_network
from distseg.tracking import ModelToLog
from distseg.training.checkpoint import Checkpoint
from tests.unit.tracking.small_model import SCORES, evaluated_on, model_of

SIZES = ((33, 47), (64, 96), (1, 130))
LOAD = """
import sys, mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
images = np.load(sys.argv[2])
np.savez(sys.argv[3], **{name: model.predict(images[name]) for name in images.files})
"""


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('store'))}"


@pytest.fixture
def client(store: str) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=store)


def new_run(store: str, name: str, metrics: dict[str, float] | None = None, step: int = 7) -> str:
    run_id = tracking.open_run(store, "exp", name, RunConfig(), {})
    tracking.send_records(store, run_id, [{"step": step, "time_ms": 1, "metrics": metrics or SCORES}])
    return run_id


def models_of(client: mlflow.MlflowClient, run_id: str) -> list[tuple[str, int]]:
    outputs = client.get_run(run_id).outputs
    assert outputs is not None
    return [(output.model_id, output.step) for output in outputs.model_outputs]


def label_maps(saved: Checkpoint, images_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    model = build_model(saved.config.model, saved.label_space.num_classes, aux=False)
    model.load_state_dict(saved.model)
    model.eval().to(memory_format=torch.channels_last)
    precision = evaluation.resolve_precision("auto", torch.device("cpu"))
    batch_B3HW = torch.from_numpy(images_BHW3).permute(0, 3, 1, 2)
    return evaluation.predict(model, batch_B3HW, precision).numpy().astype(np.uint8)


# ---- the model


def test_a_fresh_process_gets_the_label_maps_of_inference_at_any_size(
    store: str, saved: Checkpoint, tmp_path: Path
) -> None:
    model_id = tracking.log_model(store, new_run(store, "loads"), model_of(saved))
    rng = np.random.default_rng(0)
    images = {f"{h}x{w}": rng.integers(0, 256, (2, h, w, 3), dtype=np.uint8) for h, w in SIZES}
    np.savez(tmp_path / "images.npz", allow_pickle=False, **images)
    paths = [str(tmp_path / "images.npz"), str(tmp_path / "labels.npz")]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", LOAD, f"models:/{model_id}", *paths], env=environment, check=True)
    labels = np.load(paths[1])
    for name, images_BHW3 in images.items():
        assert labels[name].dtype == np.uint8
        np.testing.assert_array_equal(labels[name], label_maps(saved, images_BHW3), err_msg=name)
    assert len(np.unique(labels["64x96"])) > 1  # or any network would do


def test_the_runs_scores_of_that_step_belong_to_the_model_and_are_not_doubled(
    store: str, client: mlflow.MlflowClient, saved: Checkpoint
) -> None:
    run_id = new_run(store, "scores", SCORES | {"val/IoU/road": 0.9, "train/loss": 1.0})
    worse = {name: value / 2 for name, value in SCORES.items()}
    tracking.send_records(store, run_id, [{"step": 9, "time_ms": 2, "metrics": worse}])
    model_id = tracking.log_model(store, run_id, model_of(saved))
    model = client.get_logged_model(model_id)
    assert model.status == "READY" and model.name == "small"
    assert {metric.key: (metric.value, metric.step) for metric in model.metrics or []} == {
        name: (value, 7) for name, value in SCORES.items()
    }
    assert {(metric.dataset_name, metric.dataset_digest) for metric in model.metrics or []} == {("town val", "d" * 12)}
    for name in SCORES:
        assert len(client.get_metric_history(run_id, name)) == 2
    assert models_of(client, run_id) == [(model_id, 7)]


def test_a_run_that_ends_twice_with_the_same_best_logs_and_registers_it_once(
    store: str, client: mlflow.MlflowClient, saved: Checkpoint
) -> None:
    run_id, model = new_run(store, "twice"), model_of(saved)
    versions = []
    for _ in range(2):
        model_id = tracking.log_model(store, run_id, model)
        registered = tracking.register_model(store, run_id, model_id, model, name="twice", objective="val/mIoU")
        versions.append((model_id, registered.version, registered.is_champion))
    assert versions[0] == versions[1]
    assert len(client.search_model_versions("name = 'twice'")) == 1
    assert len(models_of(client, run_id)) == 1


# ---- the registry


def register(store: str, name: str, run_name: str, model: ModelToLog, objective: str = "val/mIoU") -> Any:
    run_id = new_run(store, run_name)
    model_id = tracking.log_model(store, run_id, model)
    return tracking.register_model(store, run_id, model_id, model, name=name, objective=objective)


def champion(client: mlflow.MlflowClient, name: str) -> str:
    return str(client.get_model_version_by_alias(name, "champion").version)


def test_the_alias_moves_to_a_better_model_only(store: str, client: mlflow.MlflowClient, saved: Checkpoint) -> None:
    expected = {0.5: "1", 0.4: "1", 0.50001: "3", 0.500005: "3"}  # at last two that show as the same
    for i, (score, version) in enumerate(expected.items()):
        registered = register(store, "better", f"better-{i}", model_of(saved, mIoU=score))
        assert registered.version == str(i + 1)
        assert champion(client, "better") == version, registered.why
        assert registered.is_champion == (version == registered.version)
    made = client.get_model_version("better", "1")
    assert made.description == "# Card" and made.tags["evaluation.digest"] == "same images"


def test_the_objective_decides(store: str, client: mlflow.MlflowClient, saved: Checkpoint) -> None:
    worst = "val/mIoU_worst"
    register(store, "robust", "robust-0", model_of(saved, mIoU=0.9, mIoU_worst=0.1), worst)
    register(store, "robust", "robust-1", model_of(saved, mIoU=0.5, mIoU_worst=0.2), worst)
    assert champion(client, "robust") == "2"


def test_a_model_evaluated_on_other_images_is_not_compared(
    store: str, client: mlflow.MlflowClient, saved: Checkpoint
) -> None:
    register(store, "other", "other-0", model_of(saved, mIoU=0.1))
    registered = register(store, "other", "other-1", model_of(saved, "easy images", mIoU=0.9))
    assert (registered.version, registered.is_champion) == ("2", False)
    assert "version 1 stays it: it was evaluated on other images" in registered.why
    assert champion(client, "other") == "1"


def test_a_champion_that_a_person_registered_stays(store: str, client: mlflow.MlflowClient, saved: Checkpoint) -> None:
    client.create_registered_model("by-hand")
    client.create_model_version("by-hand", source="s3://bucket/model")
    client.set_registered_model_alias("by-hand", "champion", "1")
    assert not register(store, "by-hand", "hand", model_of(saved, mIoU=0.99)).is_champion
    assert champion(client, "by-hand") == "1"


@pytest.mark.parametrize("has_finished", [True, False])
def test_a_model_that_is_not_wanted_or_not_done_is_not_logged(
    store: str, client: mlflow.MlflowClient, saved: Checkpoint, has_finished: bool
) -> None:
    run_id = new_run(store, f"unwanted-{has_finished}")
    settings = TrackingConfig(experiment="exp", log_model=not has_finished)
    handed = log_network(
        store, run_id, settings, saved, dataset="town", inputs=evaluated_on("x"), has_finished=has_finished
    )
    assert handed.model_uri == "" and handed.view_link
    assert models_of(client, run_id) == []


# ---- what fails


def hand_over_to(store: str, run_id: str, saved: Checkpoint, **config: Any) -> Any:
    inputs = evaluated_on("same images")
    return log_network(store, run_id, TrackingConfig(experiment="exp", **config), saved, dataset="town", inputs=inputs)


def test_a_registry_that_fails_costs_a_warning_and_not_the_model(
    store: str, saved: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise mlflow.MlflowException("no permission")

    monkeypatch.setattr(mlflow.MlflowClient, "create_registered_model", refuse)
    with caplog.at_level(logging.WARNING):
        handed = hand_over_to(store, new_run(store, "refused"), saved, register="refused")
    assert handed.model_uri.startswith("models:/m-") and handed.registered is None and handed.view_link
    assert "'refused' is not registered: no permission" in caplog.text


def test_an_upload_that_fails_leaves_a_failed_model_and_none_of_the_runs(
    store: str,
    client: mlflow.MlflowClient,
    saved: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    run_id = new_run(store, "full")
    monkeypatch.setattr(mlflow.MlflowClient, "log_model_artifacts", full)
    assert hand_over_to(store, run_id, saved).model_uri == ""
    assert "the model is not logged: No space left on device" in caplog.text
    assert models_of(client, run_id) == []
    experiment_id = client.get_run(run_id).info.experiment_id
    left = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    assert [str(model.status) for model in left] == ["FAILED"]


def test_a_dead_server_costs_warnings(saved: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    handed = hand_over_to("http://127.0.0.1:9", "0" * 32, saved, register="dead")
    assert (handed.model_uri, handed.registered, handed.view_link) == ("", None, "")
    assert "the model is not logged" in caplog.text and "the view is not saved" in caplog.text


def test_a_network_that_needs_a_second_one_is_not_logged(
    store: str, saved: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    restyled = replace(saved, source_style={"mean_BC11": torch.zeros(1)})
    assert hand_over_to(store, new_run(store, "restyled"), restyled).model_uri == ""
    assert "keep the whole checkpoint" in caplog.text


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "it's"])
def test_a_name_that_no_registry_takes_is_refused_at_once(name: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.register = "):
        TrackingConfig(register=name)


def test_nothing_is_registered_that_is_not_logged() -> None:
    with pytest.raises(ConfigError, match=r"needs tracking\.log_model True"):
        TrackingConfig(register="name", log_model=False)
