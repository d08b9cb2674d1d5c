"""Configurations written before each network had its own class of options: these held the fields of all networks."""

import json
from dataclasses import replace
from typing import Any

import pytest

from distseg.config import dotted_fields, from_dict, recipes
from distseg.errors import ConfigError
from tests.conftest import REPOSITORY

BEFORE: dict[str, Any] = json.loads((REPOSITORY / "tests/data/before/config.json").read_text())


@pytest.mark.parametrize("name", BEFORE)
def test_a_recipe_as_it_was_written_is_the_recipe_as_it_is(name: str) -> None:
    assert "recurrence" in BEFORE[name]["model"], "a field of another network"
    recipe = recipes.find("pspnet_town" if name == "town" else name)  # `town` is narrower now
    assert from_dict(BEFORE[name]) == replace(recipe, name=BEFORE[name]["name"])


def test_only_the_fields_of_the_network_are_left() -> None:
    of_enet = [name for name in dotted_fields(from_dict(BEFORE["enet_camvid"])) if name.startswith("model.")]
    assert of_enet == ["model.name", "model.pretrained", "model.dropout", "model.checkpointing"]


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("bins", [1], r"model\.bins = \[1\]: enet has no such option; leave it out"),
        ("width", 0.5, r"model\.width = 0\.5: enet has no such option; leave it out"),
        ("widht", 1.0, r"model\.widht: no such field"),
    ],
)
def test_what_another_network_was_told_is_an_error(option: str, value: object, says: str) -> None:
    before = BEFORE["enet_camvid"]
    with pytest.raises(ConfigError, match=says):
        from_dict(before | {"model": before["model"] | {option: value}})
