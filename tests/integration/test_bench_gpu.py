"""The benchmark for GPUs works on a machine without what distseg itself installs, so that it works the first time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import programs
from tests.conftest import REPOSITORY

ABSENT = (
    "ray",
    "mlflow",
    "webdataset",
    "boto3",
    "botocore",
    "tyro",
    "rich",
    "simplejpeg",
    "isal",
    "matplotlib",
    "jinja2",
)


@pytest.mark.long
@pytest.mark.nightly
def test_the_small_form_works_with_torch_and_torchvision_alone(tmp_path: Path) -> None:
    for name in ABSENT:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not installed here')\n")
    environment = programs.plain_environment() | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    out = tmp_path / "gpu.json"
    command = ["bash", str(REPOSITORY / "tests/benchmarks/gpu.sh"), str(out), "--small", "--device", "cpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads(out.read_text())
    assert found.keys() == {"machine", "equality", "two_ranks", "steps", "reader", "evaluation", "town"}
    assert all(apart["fp64"] < 1e-8 for apart in found["equality"].values() if isinstance(apart, dict))
    assert found["two_ranks"]["largest_relative_difference"] < 1e-8
    assert found["steps"]["pspnet resnet18"]["images_per_s"] > 0
    assert 0 <= found["town"]["val/mIoU"] <= 1
