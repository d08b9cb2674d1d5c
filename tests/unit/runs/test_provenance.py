"""What a run read and computed with is in MLflow: data inputs of its shards, the environment without its variables."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from distseg.config import RunConfig
from distseg.data.shards.manifest import load_manifest
from distseg.errors import DataError
from distseg.runs import provenance, worker


def test_inputs_are_named_by_what_is_chosen(tiny_config: RunConfig, tiny_town: str) -> None:
    manifest = load_manifest(tiny_town)
    config = replace(
        tiny_config, data=replace(tiny_config.data, train_conditions=("dawn",), val_conditions=("fog", "train/night"))
    )
    train, evaluated = provenance.data_inputs(config)
    assert (train.context, train.name, train.num_images) == ("train", "town train: dawn", 4)
    assert (evaluated.context, evaluated.name) == ("eval", "town val: fog + train: night")
    assert evaluated.conditions == {"val": ["fog"], "train": ["night"]} and evaluated.num_images == 2 + 4
    assert train.digest == evaluated.digest == manifest.digest
    whole, of_all = provenance.data_inputs(tiny_config)
    assert (whole.name, of_all.name, of_all.num_images) == ("town train", "town val", 18)
    assert len({used.shards_digest for used in (train, evaluated, whole, of_all)}) == 4


def test_the_same_images_have_the_same_digest_whatever_is_trained_on(tiny_config: RunConfig) -> None:
    less = replace(tiny_config, data=replace(tiny_config.data, train_conditions=("dawn",)))
    assert provenance.data_inputs(less)[-1] == provenance.data_inputs(tiny_config)[-1]


def test_the_environment_has_packages_and_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    data = json.dumps(provenance.environment("job-1")).encode()
    assert b"hunter2" not in data
    found = json.loads(data)
    assert found["ray_job_id"] == "job-1" and found["git_commit"] and found["cpu"]["cores"] >= 1
    assert found["packages"]["torch"].partition("+")[0] == found["torch"]["version"].partition("+")[0]
    tags = provenance.environment_tags(data)
    assert tags.keys() == {"env.python", "env.torch", "env.device"} and "cores of" in tags["env.device"]


def test_gpus_are_named_and_a_damaged_file_is_refused() -> None:
    found = provenance.environment() | {"torch": {"version": "2", "cuda": "13", "gpus": ["NVIDIA H100"] * 2}}
    assert provenance.environment_tags(json.dumps(found).encode())["env.device"] == "2 x NVIDIA H100"
    with pytest.raises(DataError, match=r"environment\.json is damaged"):
        provenance.environment_tags(b"{}")


def test_a_tracked_run_ends_with_inputs_environment_model_and_view(
    light_config: RunConfig, store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(light_config.tracking, uri=store, register="tiny")
    config = replace(
        light_config,
        optim=replace(light_config.optim, max_steps=2),
        checkpoint=replace(light_config.checkpoint, uri=str(tmp_path / "runs")),
        tracking=settings,
    )
    with caplog.at_level(logging.WARNING, "distseg"):
        outcome = worker.train_without_ray(config)
    assert outcome is not None and [r.message for r in caplog.records if r.name.startswith("distseg")] == []
    client = mlflow.MlflowClient(tracking_uri=store)
    run = client.get_run(outcome.run_id)
    assert run.info.status == "FINISHED"
    assert run.inputs is not None
    inputs = {used.dataset.name: used for used in run.inputs.dataset_inputs}
    assert inputs.keys() == {"town train", "town val"}
    used = inputs["town val"]
    assert used.dataset.digest == run.data.tags["data.digest"][:12]
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "eval")]
    assert json.loads(used.dataset.source) == {"uri": config.data.uri}
    assert json.loads(used.dataset.profile or "")["num_images"] == 18
    assert {"env.python", "env.torch", "env.device"} <= run.data.tags.keys()
    environment = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/config/environment.json")
    assert environment["packages"]["mlflow"] == mlflow.__version__

    handed = outcome.logged_network
    assert handed.registered is not None and handed.registered.is_champion
    version = client.get_model_version_by_alias("tiny", "champion")
    assert version.run_id == outcome.run_id and float(version.tags["val/mIoU"]) == run.data.metrics["val/mIoU"]
    assert version.description is not None and version.description.startswith("# tiny")
    model = client.get_logged_model(handed.model_uri.removeprefix("models:/"))
    assert model.status == "READY" and model.params["model.name"] == "unet"
    assert "model.bins" not in model.params.keys() | run.data.params.keys(), "it has none"
    assert "viewStateShareKey=distseg-train-v3-" in handed.view_link
