"""The configuration: exact JSON round trip, and one clear line for each kind of mistake."""

import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distseg.config import (
    RunConfig,
    check_divides,
    command_line_default,
    dotted_fields,
    from_dict,
    model_config,
    recipes,
    to_dict,
    with_overrides,
)
from distseg.errors import ConfigError


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    config = recipes.find(name)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 4))
def test_a_batch_is_refused_exactly_when_it_cannot_be_shared(batch: int, workers: int, accumulate: int) -> None:
    overrides = {
        "data.batch_size": batch,
        "scaling.num_workers": workers,
        "optim.accumulate_steps": accumulate,
    }
    if batch % (workers * accumulate) == 0:
        config = with_overrides(RunConfig(), overrides)
        assert config.micro_batch_size * accumulate == batch
    else:
        with pytest.raises(ConfigError, match=r"data.batch_size = \d+: cannot be shared by .*; the nearest sizes"):
            with_overrides(RunConfig(), overrides)


@pytest.mark.parametrize(
    ("workers", "accumulate", "says"),
    [
        (
            3,
            1,
            "cannot be shared by 3 workers; the nearest sizes that can are 6 or 9, "
            "and 8 by 2 or 4 (scaling.num_workers)",
        ),
        (9, 1, "cannot be shared by 9 workers; the nearest sizes that can are 9, and 8 by 8 (scaling.num_workers)"),
        (1, 3, "cannot be shared by 1 workers x 3 accumulated steps; the nearest sizes that can are 6 or 9"),
    ],
)
def test_what_a_batch_can_be_shared_by_is_told(workers: int, accumulate: int, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^data.batch_size = 8: {re.escape(says)}$"):
        check_divides(8, [workers], accumulate)


def test_a_batch_must_be_shared_by_any_number_of_workers_that_may_be_left() -> None:
    elastic = {"scaling.num_workers": 4, "scaling.min_workers": 2}
    with pytest.raises(ConfigError, match=r"data.batch_size = 16: cannot be shared by 2 to 4 workers; .* are 12 or 24"):
        with_overrides(RunConfig(), elastic)
    assert with_overrides(RunConfig(), elastic | {"data.batch_size": 24}).scaling.min_workers == 2


def test_dotted_fields_are_what_overrides_take() -> None:
    config = RunConfig()
    assert with_overrides(config, dotted_fields(config)) == config
    assert with_overrides(config, {"model.bins": (1,)}).model == model_config(bins=(1,))
    assert dotted_fields(config)["model.backbone"] == "resnet50"


def test_integers_are_taken_where_fractions_are_asked_but_not_the_other_way() -> None:
    assert with_overrides(RunConfig(), {"optim.lr": 1}).optim.lr == 1.0
    with pytest.raises(ConfigError, match=r"data\.batch_size = 1\.5: must be of type int"):
        with_overrides(RunConfig(), {"data.batch_size": 1.5})


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("model.backbon", "resnet50", "model.backbon: no such field; did you mean 'backbone'?"),
        ("modle.backbone", "resnet50", "modle.backbone: no such field; did you mean 'model'?"),
        ("model.backbone", "resnet5", "choose from resnet18.*did you mean 'resnet50'?"),
        ("model.bins", [1, 2, 3], "3 bins do not divide"),
        ("model.bins", [1, 1], "bins must differ"),
        ("model.se_ratio", 3, "must divide the 512 channels"),
        ("model.recurrence", 3, "pspnet has no such option; leave it out"),
        ("model.backbone", "vgg16", "pspnet needs a ResNet"),
        ("model.name", "unet", "loss.aux_weight = 0.4: unet has no auxiliary head; give 0"),
        ("model.dilations", [1, 2], "model.dilations = .*: must have 3 values"),
        ("loss.aux_weight", -0.1, "must not be negative"),
        ("optim.lr", 0.0, "must be positive"),
        ("optim.warmup_steps", 30_000, "must be below max_steps"),
        ("data.augment", "yes", "must be of type bool"),
        ("data.crop_px", [16, 16], "at least 32"),
        ("data.sampling", "clas", "choose from each, condition, class; did you mean 'class'?"),
        ("data.mix", [""], "data.mix = .*: give directories or s3:// prefixes"),
        ("data.mix", ["a", "a"], "data.mix = .*: name each data set once"),
        ("data.mix_weights", [1, 2], "data.mix_weights = .*: give 1 weights"),
        ("data.mix_weights", [-1], "data.mix_weights = .*: each must be positive and finite"),
        ("data.mix_weights", [math.inf], "data.mix_weights = .*: must be a finite number"),
        ("scaling.min_workers", 2, "scaling.min_workers = 2: must be from 1 to scaling.num_workers = 1"),
        ("scaling.min_workers", 0, "scaling.min_workers = 0: must be from 1"),
        ("seed", True, "must be of type int"),
        ("name", "a/b", "use letters, digits"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_a_remedy(field: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        with_overrides(RunConfig(), {field: value})
    assert "\n" not in str(caught.value)


def test_a_run_from_before_a_field_existed_has_its_default() -> None:
    """So that a run which was stopped under an earlier version can be gone on with."""
    config = recipes.find("enet_camvid")
    earlier = to_dict(config)
    for name in ("sampling", "mix", "mix_weights"):
        del earlier["data"][name]
    assert from_dict(earlier) == config


def test_pyramid_may_be_left_out() -> None:
    assert with_overrides(RunConfig(), {"model.bins": []}).model == model_config(bins=())


def test_variants_differ_from_their_base_only_where_they_say() -> None:
    base, variant = recipes.pspnet_camvid(), recipes.pspnet_camvid_day()
    assert replace(variant, name=base.name, data=base.data) == base


def test_an_option_of_another_network_is_passed_over_only_at_its_default() -> None:
    base = recipes.find("enet_camvid")
    given = [
        "--model.backbone",
        "resnet50",
        "--optim.lr",
        "1",
        "--model.bins",
        "1",
        "2",
        "3",
        "6",
        "--model.dropout",
        "0",
    ]
    assert command_line_default(base, given) == (base, ["--optim.lr", "1", "--model.dropout", "0"])
    with pytest.raises(ConfigError, match=r"model\.bins = 1 2: enet has no such option; leave it out"):
        command_line_default(base, ["--model.bins", "1", "2"])


@pytest.mark.parametrize(("max_steps", "warmup_steps"), [("6", 0), ("100", 0), ("101", 100), ("11000", 100)])
def test_a_shorter_run_has_a_shorter_warmup_and_says_so(
    max_steps: str, warmup_steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    config, _ = command_line_default(recipes.enet_camvid(), ["--optim.max_steps", max_steps])
    assert config.optim.warmup_steps == warmup_steps
    said = [f"optim.warmup_steps is 0 instead of 100, since optim.max_steps is {max_steps}"]
    assert caplog.messages == said * (warmup_steps == 0)


def test_a_warmup_that_is_given_is_kept() -> None:
    config, _ = command_line_default(recipes.enet_camvid(), ["--optim.max_steps=6", "--optim.warmup-steps", "100"])
    assert config.optim.warmup_steps == 100
