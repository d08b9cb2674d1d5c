"""The group `model` has the options of the network that its name says, from the command line, JSON and Python alike."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from distseg import cli
from distseg.config import RunConfig, from_dict, model_config, recipes, to_dict, with_overrides
from distseg.errors import ConfigError

WITHOUT_AUX = ("--loss.aux_weight", "0")

OWN_NETWORK = '''
from dataclasses import dataclass

from distseg.models.networks.unet import Options as UNetOptions


@dataclass(frozen=True, kw_only=True)
class Wide(UNetOptions):
    """A U-Net that counts its levels in apples."""

    apples: int = 5
    """How many."""


class NoOptions:
    pass
'''


def parsed(config: RunConfig, *arguments: str) -> RunConfig:
    """As the programs read their command line."""
    return cli.override(config, arguments, prog="test")


@pytest.mark.parametrize(
    "arguments", [("--model.name", "fcn_attention", *WITHOUT_AUX), ("--model.name=fcn_attention", *WITHOUT_AUX)]
)
def test_another_network_keeps_the_options_that_it_has_too(arguments: Sequence[str]) -> None:
    config = with_overrides(recipes.town(), {"model.se_ratio": 16, "model.bins": (1, 2)})
    expected = model_config("fcn_attention", se_ratio=16, dropout=0.0, width=0.25)
    assert parsed(config, *arguments).model == expected
    assert with_overrides(config, {"model.name": "fcn_attention", "loss.aux_weight": 0.0}).model == expected


def test_options_of_the_named_network_may_be_given_with_it() -> None:
    config = parsed(recipes.town(), "--model.name", "unet", "--model.width", "0.25", *WITHOUT_AUX)
    assert config == with_overrides(
        recipes.town(), {"model.width": 0.25, "model.name": "unet", "loss.aux_weight": 0.0}
    ), "in any order"
    assert from_dict(to_dict(config)) == config
    assert parsed(config, "--model.name", "unet") == config


def test_tuples_and_none_are_read_from_the_command_line() -> None:
    config = parsed(recipes.town(), "--model.bins", "1", "2", "--model.se-ratio", "8", "--model.reduce", "False")
    assert config.model == model_config(
        backbone="resnet18", dropout=0.0, width=0.25, bins=(1, 2), se_ratio=8, reduce=False
    )
    assert parsed(config, "--model.se_ratio", "None", "--model.bins").model == model_config(
        backbone="resnet18", dropout=0.0, width=0.25, bins=(), reduce=False
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--model.name enet --model.bins 1 2", r"model\.bins = 1 2: enet has no such option; leave it out"),
        ("--model.name=enet --model.bins=1", r"model\.bins = 1: enet has no such option"),
        ("--model.recurrence 3", r"model\.recurrence = 3: pspnet has no such option"),
        ("--model.name enett", r"model\.name = 'enett': did you mean 'enet'\?; your own is given as module:class"),
        ("--model.name unet", r"loss\.aux_weight = 0\.4: unet has no auxiliary head; give 0"),
        ("--model.name", r"--model\.name"),
        ("--model.bons 1", r"Unrecognized options: --model\.bons"),
        ("--model.name adain --loss.aux_weight 0", r"style\.conditions = \(\): name the conditions to learn"),
        ("--model.name fcn --model.fcn_stride 16", r"fcn_stride = 16: fcn on resnet18 has no such option"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(arguments: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parsed(recipes.town(), *arguments.split())
    assert "\n" not in str(caught.value)


def test_an_override_of_another_network_is_an_error_whatever_its_value() -> None:
    with pytest.raises(ConfigError, match=r"model\.recurrence = 2: pspnet has no such option; leave it out"):
        with_overrides(RunConfig(), {"model.recurrence": 2})
    with pytest.raises(ConfigError, match=r"model\.bins = \(1,\): enet has no such option"):
        model_config("enet", bins=(1,))
    with pytest.raises(ConfigError, match=r"model\.bins = 'all': must be a list"):
        model_config(bins="all")


def test_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "networks_of_mine.py").write_text(OWN_NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = parsed(recipes.town(), "--model.name", "networks_of_mine:Wide", "--model.apples", "7", *WITHOUT_AUX)
    assert config.model == model_config("networks_of_mine:Wide", apples=7, dropout=0.0, width=0.25)
    assert type(config.model).__name__ == "Wide"
    assert from_dict(to_dict(config)) == config
    assert replace(config.model, name="") == config.model, "made directly it has the same name"
    with pytest.raises(ConfigError, match=r"has no class Wild; did you mean 'Wide'\?"):
        model_config("networks_of_mine:Wild")
    with pytest.raises(ConfigError, match=r"model.name = 'networks_of_mine:NoOptions': .* does not derive from"):
        model_config("networks_of_mine:NoOptions")


def test_options_are_not_mixed_up() -> None:
    with pytest.raises(ConfigError, match=r"model\.name = 'unet': these are the options of pspnet"):
        type(model_config())(name="unet")
