"""Small packed data that many unit tests train and evaluate on."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

from distseg.config import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    OptimConfig,
    RunConfig,
    TrackingConfig,
    model_config,
)
from distseg.data.datasets import town
from distseg.data.shards import pack
from tests.small_network import Small

settings.register_profile("any machine", deadline=None)  # a slow one, or one at other work, is no failure
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def what_a_program_keeps_quiet_is_heard_after_it() -> Iterator[None]:
    """`submit` and `doctor` silence clients for as long as their process lives, which in a test is not theirs."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def tiny_town(tmp_path_factory: pytest.TempPathFactory) -> str:
    """36 training and 18 held-out frames of 64x96: two and one of each condition and site."""
    uri = str(tmp_path_factory.mktemp("tiny-town"))
    splits = {
        "train": town.samples("train", num_frames=36, size=(64, 96)),
        "val": town.samples("val", num_frames=18, size=(64, 96)),
    }
    pack(splits, town.LABELS, uri, dataset="town")
    return uri


@pytest.fixture(scope="session")
def tiny_config(tiny_town: str) -> RunConfig:
    """A training of seconds: a narrow PSPNet-18 in fp64, the recipes' own dropout, 20 steps, every step logged."""
    return RunConfig(
        name="tiny",
        model=model_config(backbone="resnet18", width=0.25),
        loss=LossConfig(class_weights="inverse_sqrt"),
        optim=OptimConfig(lr=0.01, head_lr_scale=1.0, max_steps=20),
        data=DataConfig(uri=tiny_town, batch_size=4, crop_px=(33, 49), num_threads=1),
        augment=AugmentConfig(jitter=0.2),
        tracking=TrackingConfig(log_every_steps=1, uri="off"),
        precision="fp64",
    )


@pytest.fixture(scope="session")
def light_config(tiny_config: RunConfig) -> RunConfig:
    """The same with a U-Net of 0.5M weights and no auxiliary head, for what does not depend on the network."""
    unet = model_config("unet", width=0.125)
    return replace(tiny_config, model=unet, loss=replace(tiny_config.loss, aux_weight=0.0))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: to make them takes seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    """The tracking URI of an MLflow of the test's own, with no run in it."""
    return f"sqlite:///{shutil.copy(empty_store, tmp_path)}"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(scope="session")
def small_config(light_config: RunConfig) -> RunConfig:
    """Three convolutions with dropout, no batch norm, and eight samples in a batch: a step of milliseconds."""
    model = Small(dropout=0.3)
    data, optim = replace(light_config.data, batch_size=8), replace(light_config.optim, lr=0.1, max_steps=4)
    return replace(light_config, model=model, data=data, optim=optim)
