"""`train auto --data.uri URI`: a run sized by what was packed."""

from pathlib import Path

import pytest

from distseg.cli import named_recipe, override
from distseg.config import RunConfig, recipes
from distseg.data.shards import pack
from distseg.errors import ConfigError
from tests.toy_data import LABELS, toy_samples


@pytest.fixture
def packed(tmp_path: Path) -> str:
    samples = {split: toy_samples(n, split, size_hw=(40, 56)) for split, n in (("train", 5), ("val", 2))}
    pack(samples, LABELS, str(tmp_path), dataset="my town")
    return str(tmp_path)


def auto(*arguments: str) -> RunConfig:
    return override(named_recipe("auto", arguments), arguments, prog="train")


def test_a_small_set_makes_a_small_run(packed: str) -> None:
    config = auto("--data.uri", packed)
    assert (config.data.uri, config.name) == (packed, "my-town")
    assert (config.data.crop_px, config.data.batch_size) == ((40, 56), 4)
    assert (config.optim.max_steps, config.optim.warmup_steps, config.evaluate.every_steps) == (120, 12, 30)


def test_what_is_given_counts(packed: str) -> None:
    config = auto(f"--data.uri={packed}", "--model.name", "unet", "--data.batch-size", "6", "--optim.max_steps", "7")
    assert (config.model.name, config.loss.aux_weight, config.data.batch_size) == ("unet", 0.0, 6)
    assert (config.optim.max_steps, config.optim.warmup_steps) == (7, 0)


@pytest.mark.parametrize(
    ("image_hw", "crop"),
    [((10, 500), (32, 496)), ((3000, 4000), (240, 320)), ((1080, 1920), (200, 368)), ((240, 320), (240, 320))],
)
def test_a_crop_has_the_images_shape_and_a_limited_area(image_hw: tuple[int, int], crop: tuple[int, int]) -> None:
    data = recipes.PackedData(name="x", splits=("train", "val"), num_train=500, image_hw=image_hw)
    assert recipes.sizes(data, "uri")["data.crop_px"] == crop


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [
        (("train", "val", "test"), ("train", "val")),
        (("test", "train"), ("train", "test")),
        (("a", "b"), ("a", "b")),
    ],
)
def test_splits_are_those_that_are_there(splits: tuple[str, ...], chosen: tuple[str, str]) -> None:
    sizes = recipes.sizes(recipes.PackedData(name="x", splits=splits, num_train=500, image_hw=(64, 64)), "uri")
    assert (sizes["data.train_split"], sizes["data.val_split"]) == chosen


def test_one_split_is_not_enough() -> None:
    with pytest.raises(ConfigError, match=r"^uri: one split only, all: .* images/train and images/val"):
        recipes.sizes(recipes.PackedData(name="x", splits=("all",), num_train=500, image_hw=(64, 64)), "uri")


def test_without_data_it_asks_for_them() -> None:
    with pytest.raises(ConfigError, match=r"recipe auto: give --data\.uri"):
        named_recipe("auto", [])


def test_help_needs_no_data() -> None:
    assert named_recipe("auto", ["--help"]).name == "auto"


def test_the_name_of_a_network_is_no_recipe_but_nearly() -> None:
    with pytest.raises(ConfigError, match=r"recipe 'unet' does not exist; it is a network: .*--model\.name unet"):
        named_recipe("unet", [])
