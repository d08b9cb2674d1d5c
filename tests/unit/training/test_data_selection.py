"""Training that has nothing to learn from says so before the first step; classes that nobody sees are named."""

import functools
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distseg.config import DataConfig, LossConfig, RunConfig, model_config, recipes, with_overrides
from distseg.data.sample import LabelledImage, Sample
from distseg.data.shards import pack
from distseg.errors import ConfigError, DataError
from distseg.training.data_selection import select_data, trained_conditions, unseen_classes
from tests.toy_data import LABELS


def sample(split: str, condition: str, train_id: int) -> Sample:
    return Sample(
        key=f"{split}-{condition}",
        condition=condition,
        site="all",
        sequence="all",
        split=split,
        source=f"{split}/{condition}.png",
        load=functools.partial(load, train_id),
    )


def load(train_id: int) -> LabelledImage:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, format="PNG")
    return LabelledImage(buffer.getvalue(), "png", np.full((40, 40), train_id, dtype=np.uint8))


def config_of(uri: Path, train: dict[str, int], val: int) -> RunConfig:
    """Packed data whose label maps hold one id each: that of a condition of train, and that of val."""
    samples = {
        "train": [sample("train", condition, train_id) for condition, train_id in train.items()],
        "val": [sample("val", "day", val)],
    }
    pack(samples, LABELS, str(uri), dataset="toy")
    model = model_config("unet", width=0.125)
    data = DataConfig(uri=str(uri), batch_size=4, crop_px=(32, 32))
    return RunConfig(model=model, data=data, loss=LossConfig(aux_weight=0.0))


@pytest.mark.parametrize(
    "overrides",
    [{}, {"loss.class_weights": "inverse_sqrt"}, {"loss.class_weights": "enet"}, {"data.sampling": "class"}],
    ids=str,
)
def test_training_on_nothing_but_void_is_refused_with_split_and_conditions(
    overrides: dict[str, object], tmp_path: Path
) -> None:
    config = with_overrides(config_of(tmp_path, {"day": 255, "night": 255}, 0), overrides)
    with pytest.raises(DataError, match=r"^data\.train_split = 'train': every pixel of condition day, night is void"):
        select_data(config)


def test_only_the_conditions_that_are_trained_on_count(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"day": 0, "night": 255}, 0)
    assert trained_conditions(select_data(config).parts) == ["day"]
    with pytest.raises(DataError, match="every pixel of condition night is void"):
        select_data(with_overrides(config, {"data.train_conditions": ["night"]}))


def test_the_condition_that_ranks_checkpoints_must_be_evaluated(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"night": 0}, 0)
    select_data(with_overrides(config, {"checkpoint.best_by": "val/mIoU/day"}))
    with pytest.raises(ConfigError, match=r"best_by = 'val/mIoU/night': night is not evaluated; choose from day$"):
        select_data(with_overrides(config, {"checkpoint.best_by": "val/mIoU/night"}))
    for unknown in ("val/mIoU/", "val/PA", "mIoU"):
        with pytest.raises(
            ConfigError, match=r"^checkpoint\.best_by = .*: choose from val/mIoU, .* and val/mIoU/CONDITION$"
        ):
            with_overrides(config, {"checkpoint.best_by": unknown})


def test_a_network_that_segments_nothing_is_not_ranked_by_a_condition() -> None:
    with pytest.raises(ConfigError, match=r"best_by = 'val/mIoU/fog': adain segments nothing; leave it out$"):
        with_overrides(recipes.adain_town(), {"checkpoint.best_by": "val/mIoU/fog"})


def test_nothing_to_be_scored_on_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.val_split = 'val': every pixel of condition day is void"):
        select_data(config_of(tmp_path, {"day": 0}, 255))


def test_classes_that_are_not_learnt_or_not_scored_are_named(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"day": 0, "night": 1, "fog": 255}, 2)
    assert unseen_classes(config, select_data(config)) == [
        "data.train_split = 'train': no pixel of car, which cannot be learnt",
        "data.val_split = 'val': no pixel of road, sky, which cannot be scored",
        "data.train_split = 'train': every pixel of condition fog is void",
    ]
