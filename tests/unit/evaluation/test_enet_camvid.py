"""The ENet that comes with the repository: what it is, and how well it segments a handful of CamVid's frames.

The frames are not ours to ship: give the folder of CamVid in SegNet's layout as CAMVID_ROOT.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distseg.data.datasets import camvid
from distseg.deployment import load_model
from distseg.evaluation.inference import predict
from distseg.evaluation.metrics import confusion_matrix, scores
from distseg.training import checkpoint
from tests.conftest import REPOSITORY

WEIGHTS = REPOSITORY / "tests/data/enet_camvid.pt"
EVERY = 10  # one frame in so many of the val split


def test_it_is_a_small_file_that_says_what_it_is() -> None:
    _, saved = checkpoint.resolve(str(WEIGHTS))
    assert WEIGHTS.stat().st_size < 2_000_000
    assert (saved.config.model.name, saved.label_space.classes) == ("enet", camvid.LABELS.classes)
    assert saved.tables["num_images"] == 101  # the whole val split
    model = load_model(saved, torch.device("cpu"), "fp32")
    assert sum(parameter.numel() for parameter in model.parameters()) < 365_000


@pytest.mark.parametrize("name", ["day", "dusk"])
def test_those_of_day_and_of_dusk_say_what_they_were_trained_on(name: str) -> None:
    file = WEIGHTS.with_name(f"enet_camvid_{name}.pt")
    _, saved = checkpoint.resolve(str(file))
    assert file.stat().st_size < 2_000_000 and saved.label_space.classes == camvid.LABELS.classes
    assert saved.config.data.train_conditions == ("day",)
    assert saved.config.adapt.conditions == (("dusk",) if name == "dusk" else ())
    load_model(saved, torch.device("cpu"), "fp32")


def test_it_segments_camvid() -> None:
    root = os.environ.get("CAMVID_ROOT")
    if root is None or not Path(root, "val").is_dir():
        pytest.skip("CAMVID_ROOT is not set to a folder of CamVid in SegNet's layout")
    _, saved = checkpoint.resolve(str(WEIGHTS))
    model = load_model(saved, torch.device("cpu"), "fp32")
    matrix = torch.zeros(11, 11, dtype=torch.int64)
    for sample in list(camvid.samples(root, "val"))[::EVERY]:
        loaded = sample.load()
        with Image.open(Path(root, sample.source)) as image:
            image_3HW = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        predicted_1HW = predict(model, image_3HW[None], "fp32")
        matrix += confusion_matrix(predicted_1HW, torch.from_numpy(loaded.label_HW)[None], 11)
    found = scores(matrix)["mIoU"]
    assert found is not None and found > saved.tables["mIoU"] - 0.05
