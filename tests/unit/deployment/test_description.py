"""What an exported file says of itself."""

import json

import torch

from distseg.config import RunConfig
from distseg.data import LabelSpace
from distseg.deployment import describe_network
from distseg.training.checkpoint import Checkpoint


def test_all_that_a_user_of_the_file_must_know_is_text() -> None:
    saved = Checkpoint(
        step=7,
        config=RunConfig(name="mine"),
        label_space=LabelSpace(name="two", classes=("road", "sky"), palette=((1, 2, 3), (4, 5, 6))),
        model={"weight": torch.zeros(1)},
        optimizer={},
        manifest_digest="abc",
        run_id="r1",
        metrics={"val/mIoU": 0.5},
    )
    about = describe_network(saved, multiple=16)
    assert all(isinstance(text, str) for text in about.values())
    assert "float32 (N, 3, H, W), RGB, 0 to 255" in about.pop("images")
    assert "the index of the largest" in about.pop("logits")
    read = {name: json.loads(text) for name, text in about.items()}
    assert read["classes"] == ["road", "sky"] and read["palette"] == [[1, 2, 3], [4, 5, 6]] and read["void"] == 255
    assert (read["least_px"], read["multiple_px"]) == (48, 16)
    assert read["normalisation"]["is_inside"] and len(read["normalisation"]["mean_rgb"]) == 3
    assert (read["run"], read["mlflow_run_id"], read["step"], read["data_digest"]) == ("mine", "r1", 7, "abc")
    assert read["metrics"] == {"val/mIoU": 0.5}
    assert json.loads(describe_network(saved, multiple=1)["least_px"]) == 33
