"""Recipes by name; `auto` is sized by the packed data that the command line names."""

from collections.abc import Sequence

from distseg.config import RunConfig, model_config, network_names, recipes, with_overrides
from distseg.errors import ConfigError

_URI, _NETWORK = "--data.uri", "--model.name"


def named_recipe(name: str, arguments: Sequence[str]) -> RunConfig:
    """The recipe's configuration. `arguments`: what will override it. Raises ConfigError, or DataError for the data."""
    if name != "auto" or {"-h", "--help"} & set(arguments):
        return recipes.find(name)
    uri = _value(arguments, _URI)
    if not uri:
        raise ConfigError("recipe auto: give --data.uri, the directory or s3:// prefix that distseg.pack wrote")
    from distseg.data.shards import load_manifest  # a while that other recipes need not wait

    manifest = load_manifest(uri)
    split = recipes.train_split(manifest.splits)
    facts = recipes.PackedData(
        name=manifest.dataset,
        splits=manifest.splits,
        num_train=sum(shard.num_samples for shard in manifest.select(split)),
        image_hw=(manifest.image_sizes[split].max_hw[0], manifest.image_sizes[split].max_hw[1]),
    )
    network = _value(arguments, _NETWORK)
    without_aux = network in network_names() and not model_config(network).has_aux_head
    return with_overrides(
        recipes.find(name), recipes.sizes(facts, uri) | ({"loss.aux_weight": 0.0} if without_aux else {})
    )


def _value(arguments: Sequence[str], flag: str) -> str:
    """What a flag is given, as `--flag VALUE` or `--flag=VALUE`; the last one counts."""
    found = ""
    for i, argument in enumerate(arguments):
        name, is_joined, value = argument.partition("=")
        if name.replace("-", "_").replace("__", "--", 1) == flag:
            found = value if is_joined else next(iter(arguments[i + 1 : i + 2]), "")
    return found
