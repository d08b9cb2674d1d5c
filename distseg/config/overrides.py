"""A configuration to JSON and back, with fields replaced by dotted name, and as the default of a command line."""

import copy
import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from distseg.config.model import defaults_elsewhere, is_option_elsewhere, kept_options, no_such_option, options_class
from distseg.config.run import RunConfig
from distseg.strict_json import build, no_such_field

_log = logging.getLogger(__name__)

_MODEL_FLAG, _OPTIM_FLAG = "--model.", "--optim."
_T = TypeVar("_T")


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as JSON values (tuples become lists)."""
    return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def from_dict(data: object) -> RunConfig:
    """The inverse of `to_dict`; absent fields take their defaults. Raises ConfigError naming the dotted field."""
    return cast(RunConfig, build(RunConfig, data, ""))


def dotted_fields(config: RunConfig) -> dict[str, object]:
    """{'model.backbone': 'resnet50', …}, in order. Of the group `model` it has the fields of the run's network."""

    def walk(node: dict[str, Any], prefix: str) -> dict[str, object]:
        flat: dict[str, object] = {}
        for key, value in node.items():
            flat |= walk(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        return flat

    return walk(to_dict(config), "")


def with_overrides(config: RunConfig, overrides: Mapping[str, object]) -> RunConfig:
    """A copy with dotted fields replaced, e.g. {'loss.aux_weight': 0.4}. Raises ConfigError naming the field.

    Another `model.name` takes that network's options: values of options that both networks have are kept.
    """
    data = to_dict(config)
    name = overrides.get("model.name", config.model.name)
    if name != config.model.name:
        data["model"] = kept_options(config.model, str(name))
    for dotted, value in overrides.items():
        *groups, leaf = dotted.split(".")
        node = data
        for group in groups:
            if not isinstance(node.get(group), dict):
                raise no_such_field(group, node, dotted)
            node = node[group]
        if leaf not in node:
            if groups == ["model"]:
                raise no_such_option(options_class(node["name"]), node["name"], leaf, repr(value))
            raise no_such_field(leaf, node, dotted)
        node[leaf] = list(value) if isinstance(value, tuple) else value
    return from_dict(data)


def command_line_default(config: RunConfig, arguments: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """(the configuration that a command line's arguments override, the arguments that override it).

    The first is `config`, with the network that `--model.name` names: a parser takes the flags of the group `model`
    from its class. It is not checked as a whole, since the arguments may correct what does not fit yet (a network
    without an auxiliary head needs `--loss.aux_weight 0`). Left out of the arguments are options that only other
    networks have, if they have their default there. Raises ConfigError for any other value of such an option, and for
    an unknown network.
    """
    given = _group_arguments(arguments, _MODEL_FLAG)
    name = given.pop("name", config.model.name)
    options = kept_options(config.model, name)
    group = options_class(name)
    foreign = [option for option in given if option not in options and is_option_elsewhere(option)]
    for option in foreign:
        if given[option] not in map(_as_argument, defaults_elsewhere(option)):
            raise no_such_option(group, name, option, given[option])
    rest = _without_flags(arguments, [_MODEL_FLAG + option for option in foreign])
    config = _with_shorter_warmup(config, arguments)
    if name == config.model.name:
        return config, rest
    return _unchecked(config, model=_unchecked(object.__new__(group), **options)), rest


def _with_shorter_warmup(config: RunConfig, arguments: Sequence[str]) -> RunConfig:
    """With a warm-up below a given `--optim.max_steps`, of the same share of it, unless a warm-up is given too."""
    given = _group_arguments(arguments, _OPTIM_FLAG)
    optim, max_steps = config.optim, given.get("max_steps", "")
    if "warmup_steps" in given or not max_steps.isdecimal() or not 0 < int(max_steps) <= optim.warmup_steps:
        return config
    warmup_steps = optim.warmup_steps * int(max_steps) // optim.max_steps
    _log.warning(
        "optim.warmup_steps is %d instead of %d, since optim.max_steps is %s",
        warmup_steps,
        optim.warmup_steps,
        max_steps,
    )
    return _unchecked(config, optim=_unchecked(optim, warmup_steps=warmup_steps))


def _as_argument(value: Any) -> str:
    """[1, 2] as '1 2'."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _without_flags(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """All but these flags and what follows each of them up to the next flag."""
    kept, is_kept = [], True
    for argument in arguments:
        if argument.startswith("--"):
            is_kept = argument.partition("=")[0].replace("-", "_").replace("__", "--", 1) not in flags
        if is_kept:
            kept.append(argument)
    return kept


def _group_arguments(arguments: Sequence[str], group: str) -> dict[str, str]:
    """{'name': 'enet', 'bins': '1 2'} of `--model.name enet --model.bins 1 2`, for the group `--model.`."""
    given: dict[str, list[str]] = {}
    option = ""
    for argument in arguments:
        if argument.startswith("--"):
            flag, _, value = argument.partition("=")
            option = flag.removeprefix(group).replace("-", "_") if flag.startswith(group) else ""
            if option:
                given[option] = [value] if value else []
        elif option:
            given[option].append(argument)
    return {option: " ".join(values) for option, values in given.items() if values}


def _unchecked(instance: _T, **values: Any) -> _T:
    """A copy of a frozen dataclass with other values, without its checks."""
    copied = copy.copy(instance)
    for name, value in values.items():
        object.__setattr__(copied, name, value)
    return copied
