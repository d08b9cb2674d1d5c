"""The directory that is logged as a model, and what loads it: no server is needed for either."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml

from distseg.config import TrackingConfig
from distseg.deployment.segmenter import Segmenter, _load_pyfunc
from distseg.errors import CheckpointError, DataError
from distseg.evaluation import scoring
from distseg.tracking.registry import requirements, write_model
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint
from tests.unit.tracking.small_model import model_of


def test_a_long_batch_is_cut_and_nothing_is_lost(saved: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    images_BHW3 = np.random.default_rng(2).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)
    whole = Segmenter(saved, "fp32").predict(images_BHW3)
    monkeypatch.setattr(scoring, "MAX_BATCH_PIXELS", 2 * 40 * 40)
    np.testing.assert_array_equal(Segmenter(saved, "fp32").predict(images_BHW3), whole)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 8, 8, 3), "float32"), ((8, 8, 3), "uint8"), ((2, 3, 8, 8), "uint8"), ((0, 8, 8, 3), "uint8")],
)
def test_what_is_no_batch_of_images_is_refused(saved: Checkpoint, shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(DataError, match=r"give uint8 RGB of \(B, H, W, 3\)"):
        Segmenter(saved).predict(np.zeros(shape, dtype=dtype))


def test_the_model_says_what_it_is_and_needs(saved: Checkpoint, tmp_path: Path) -> None:
    write_model(tmp_path / "model", model_of(saved))
    about = mlflow.models.Model.load(str(tmp_path / "model"))
    assert about.signature is not None
    assert [spec.shape for spec in about.signature.inputs] == [(-1, -1, -1, 3)]
    assert [spec.shape for spec in about.signature.outputs] == [(-1, -1, -1)]
    assert about.metadata is not None and about.metadata["model_card"] == "# Card"
    assert about.metadata["data.digest"] == "d" * 64
    assert (tmp_path / "model" / "model_card.md").read_text() == "# Card"
    example: Any = about.load_input_example(str(tmp_path / "model"))
    assert example.dtype == np.uint8 and example.shape[3] == 3
    assert (tmp_path / "model" / "requirements.txt").read_text().split() == requirements()
    names = [requirement.partition("==")[0] for requirement in requirements()]
    assert names == ["distseg", "mlflow", "numpy", "torch", "torchvision"]
    assert not any(mark in requirement for requirement in requirements() for mark in ("@", "/", "+"))


def test_the_model_is_written_as_mlflow_writes_it(saved: Checkpoint, tmp_path: Path) -> None:
    write_model(tmp_path / "ours", model_of(saved))
    mlflow.pyfunc.save_model(
        path=str(tmp_path / "theirs"),
        loader_module="distseg.deployment.segmenter",
        data_path=str(tmp_path / "ours" / "data" / "model.pt"),
        signature=mlflow.models.Model.load(str(tmp_path / "ours")).signature,
        input_example=np.zeros((1, 2, 2, 3), dtype=np.uint8),
        pip_requirements=requirements(),
        model_config={"precision": "auto"},
    )
    ours, theirs = (yaml.safe_load((tmp_path / name / "MLmodel").read_text()) for name in ("ours", "theirs"))
    assert (
        ours["flavors"]["python_function"] | {"code": None, "streamable": False} == theirs["flavors"]["python_function"]
    )
    for name in ("saved_input_example_info", "signature", "mlflow_version"):
        assert ours[name] == theirs[name]
    assert set(theirs) - set(ours) <= {"metadata"}
    names = {str(path.relative_to(tmp_path / "theirs")) for path in (tmp_path / "theirs").rglob("*") if path.is_file()}
    assert names == {
        str(path.relative_to(tmp_path / "ours")) for path in (tmp_path / "ours").rglob("*") if path.is_file()
    } - {"model_card.md"}
    for name in ("conda.yaml", "python_env.yaml"):
        our_file, their_file = (yaml.safe_load((tmp_path / of / name).read_text()) for of in ("ours", "theirs"))
        assert our_file.keys() == their_file.keys()


def test_a_pickle_in_the_models_place_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"model": Trap()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt: cannot be loaded"):
        _load_pyfunc(str(tmp_path / "model.pt"))
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(CheckpointError, match=r"other\.pt: no such file"):
        _load_pyfunc(str(tmp_path / "other.pt"))


def test_the_file_holds_no_place_of_the_machine(saved: Checkpoint, tmp_path: Path) -> None:
    config = replace(saved.config, tracking=TrackingConfig(uri="http://secret.example", register="x"))
    (tmp_path / "m.pt").write_bytes(checkpoint.as_one_file(replace(saved, config=config)))
    assert checkpoint.resolve(str(tmp_path / "m.pt"))[1].config.tracking == TrackingConfig()
