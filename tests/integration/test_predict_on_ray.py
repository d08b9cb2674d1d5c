"""Photographs segmented by tasks of a real Ray cluster, which go on where another process was stopped."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from distseg.config import LossConfig, RunConfig, model_config
from distseg.data import in_processes
from distseg.deployment import segment_all
from distseg.training.checkpoint import resolve
from tests import programs
from tests.unit.deployment.test_segmenting import SIZES, job_of

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(1800)]


def test_a_cluster_goes_on_and_gives_the_same_as_one_process(ray_cluster: Mapping[str, str], tmp_path: Path) -> None:
    job = job_of(tmp_path, RunConfig(model=model_config("unet", width=0.125), loss=LossConfig(aux_weight=0.0)))
    saved, places = resolve(job.checkpoint)[1], job.source.places()
    segment_all(job, saved, places, in_processes(1), lambda done, all_: None)
    expected = files_of(Path(job.out))
    receipts = [path for path in Path(job.out, ".segmenting").iterdir() if path.name != "job.json"]
    receipts[0].unlink()  # as if it had been stopped
    receipts[1].unlink()
    options = ("--checkpoint", job.checkpoint, "--images", job.source.uri, "--out", job.out, "--precision", "fp32")
    ended = programs.run(tmp_path / "driver", ray_cluster, "distseg.predict", *options, "--ray")
    assert ended.code == 0, ended.err
    assert f"{len(SIZES)} images segmented by {job.checkpoint}, 1 of them before" in ended.out
    assert expected.items() <= files_of(Path(job.out)).items()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
