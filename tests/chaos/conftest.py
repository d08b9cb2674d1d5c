"""A training of seconds to disturb, and the same one undisturbed."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from distseg.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    RunConfig,
    ScalingConfig,
    TrackingConfig,
    model_config,
    to_dict,
)
from distseg.data.shards import pack
from distseg.tracking.client import rounded
from distseg.training import checkpoint
from tests import ranks
from tests.chaos.tracking_server import Server
from tests.recorded import Recorded
from tests.toy_data import LABELS, toy_samples

NIGHTLY_ON_HOSTS = [  # the marks of tests that bring up hosts of their own, and take minutes
    pytest.mark.chaos,
    pytest.mark.servers,
    pytest.mark.ray,
    pytest.mark.nightly,
    pytest.mark.timeout(1800),
]
NUM_STEPS = 24
SAVED_EVERY = 6  # steps


@pytest.fixture(scope="session")
def data_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 training and 4 held-out samples of two conditions."""
    uri = str(tmp_path_factory.mktemp("toy"))
    groups = (("day", "town"), ("night", "town"))
    lengths = {"train": 24, "val": 4}
    samples = {split: toy_samples(length, split, groups, size_hw=(40, 56)) for split, length in lengths.items()}
    pack(samples, LABELS, uri, dataset="toy")
    return uri


@pytest.fixture
def config(data_uri: str, tmp_path: Path) -> RunConfig:
    return config_for(data_uri, tmp_path)


def config_for(data_uri: str, folder: Path) -> RunConfig:
    """PSPNet-18 on crops of 32 pixels, dropout on; two workers; its store and its MLflow tables in `folder`."""
    return RunConfig(
        name="chaos",
        model=model_config(backbone="resnet18"),
        optim=OptimConfig(lr=0.01, head_lr_scale=1.0, max_steps=NUM_STEPS),
        data=DataConfig(uri=data_uri, batch_size=4, crop_px=(32, 32), num_threads=1),
        scaling=ScalingConfig(num_workers=2),
        checkpoint=CheckpointConfig(uri=str(folder / "runs"), every_steps=SAVED_EVERY),
        tracking=TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}", log_every_steps=1),
        precision="fp32",
    )


def write_config(config: RunConfig, folder: Path) -> str:
    """As a file for `--config`."""
    path = folder / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    return str(path)


@dataclass(frozen=True)
class Undisturbed:
    losses: list[float]  # of steps 1 to NUM_STEPS
    weights: dict[str, Tensor]  # after the last


@pytest.fixture(scope="session")
def undisturbed(data_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """What `config` comes to on two ranks when nobody is killed, and without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = config_for(data_uri, folder)
    logged = ranks.train(replace(config, checkpoint=CheckpointConfig()), 2, folder=folder / "run")
    found = checkpoint.newest(str(folder / "run"))
    assert found is not None and found[1].step == NUM_STEPS
    return Undisturbed([logged[step]["train/loss"] for step in range(1, NUM_STEPS + 1)], found[1].model)


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Not started before a test asks for it by `running`."""
    server = Server(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.kill()


@pytest.fixture
def running(server: Server) -> Server:
    if not server.is_up():
        server.start()
    return server


def assert_same_training(recorded: Recorded, run_uri: str, undisturbed: Undisturbed) -> None:
    """The disturbed run saw the same samples and learnt the same from them, to the last bit."""
    assert recorded.values("train/loss") == [rounded(loss) for loss in undisturbed.losses]
    found = checkpoint.newest(run_uri)
    assert found is not None and found[1].step == NUM_STEPS
    different = [name for name, tensor in found[1].model.items() if not tensor.equal(undisturbed.weights[name])]
    assert not different and found[1].model.keys() == undisturbed.weights.keys()


def print_table(
    request: pytest.FixtureRequest, layout: str, titles: Iterable[str], rows: Iterable[Iterable[object]]
) -> None:
    """Where a person sees it, although pytest keeps what tests print. `layout`: a `str.format` of one row."""
    capture: Any = request.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print()
        for row in (titles, *rows):
            print(layout.format(*row))
