"""What was made before the packages were laid out anew still works: a run's directory and a model in MLflow."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest

from distseg import sync, tracking
from distseg.deployment import Segmenter
from distseg.runs import Run, find_run_in
from distseg.tracking.registry import LOADER
from distseg.training.checkpoint import resolve
from tests.conftest import REPOSITORY
from tests.recorded import only_run

BEFORE = REPOSITORY / "tests" / "data" / "before"
NAME = "town-20261128-110530-59f4"
LABELS_SHA256 = "807717f0fc41ab60b1b81b041ba6de2340f709d8d90a3bdb13a00e279997c811"  # by the code of that time, in fp64
HEAVY = ("distseg.cli", "distseg.data.datasets", "ray", "mlflow", "tyro")  # a server of models needs none of them


def images() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    images_BHW3 = np.random.default_rng(7).integers(0, 256, (2, 40, 56, 3), dtype=np.uint8)
    images_BHW3[:, :20] //= 3
    images_BHW3[:, :, :28, 0] //= 4
    return images_BHW3


@pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType:UserWarning")  # of mlflow.pyfunc itself
def test_a_model_logged_before_predicts_what_it_did_then() -> None:
    path = BEFORE / "mlflow_model"
    assert "loader_module: distseg.serving\n" in (path / "MLmodel").read_text()
    model = mlflow.pyfunc.load_model(str(path), model_config={"precision": "fp64"})
    labels_BHW = model.predict(images())
    assert hashlib.sha256(labels_BHW.tobytes()).hexdigest() == LABELS_SHA256
    saved = resolve(str(path / "data" / "model.pt"))[1]
    np.testing.assert_array_equal(labels_BHW, Segmenter(saved, "fp64").predict(images()))


@pytest.mark.parametrize("module", [LOADER, "distseg.serving"])
def test_what_loads_a_model_loads_no_programs(module: str) -> None:
    """In a fresh process: a server of models needs no command line, no data sets, no Ray."""
    code = f"import sys, {module} as m; m._load_pyfunc; print(*(n for n in {HEAVY} if n in sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (0, [], "")


def test_a_run_made_before_is_sent_whole(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_uri = str(tmp_path / "runs" / NAME)
    shutil.copytree(BEFORE / "run", run_uri)
    assert find_run_in(str(tmp_path / "runs")) == run_uri
    assert sync.main([run_uri, "--uri", store]) == 0
    out = capsys.readouterr().out
    assert "(created)" in out and "sent        status FINISHED" in out and "config/environment.json" in out

    recorded, run = only_run(store, "distseg"), Run.read(run_uri)
    assert recorded.steps("train/loss") == [1, 2, 3, 4] and recorded.steps("val/mIoU") == [4]
    assert (recorded.run.info.run_name, recorded.run.info.status) == (NAME, "FINISHED")
    assert (recorded.run.info.start_time, recorded.run.info.end_time) == (run.started_ms, run.ended_ms)
    params = recorded.run.data.params
    assert (params["model.name"], params["optim.max_steps"], params["loss.aux_weight"]) == ("unet", "4", "0.0")
    assert not {"model.bins", "model.se_ratio"} & params.keys(), "its config.json has the fields of every network"
    assert recorded.run.data.tags.keys() >= {"data.digest", "git.commit", "env.python", "env.torch", "env.device"}
    assert recorded.run.inputs is not None and len(recorded.run.inputs.dataset_inputs) == 2
    written = mlflow.artifacts.load_dict(f"{recorded.run.info.artifact_uri}/config/resolved.json")
    assert written["optim"]["max_steps"] == 4

    values = len([value for record in tracking.read_journal(run_uri) for value in record["metrics"]])
    assert f"sent        {values} values of metrics" in out
    assert sync.main([run_uri, "--uri", store]) == 0
    assert "all was there" in capsys.readouterr().out
