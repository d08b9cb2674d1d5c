"""What a run is: one frozen value, `RunConfig`, of one group per concern.

    recipes.find("town") ─▶ RunConfig ─▶ with_overrides(config, {"loss.aux_weight": 0.2}) ─▶ to_dict ─▶ JSON
                                                                                      JSON ─▶ from_dict

A configuration checks itself when it is made: every error is a ConfigError of one line, with the dotted field, its
value and a remedy. None means off. `to_dict` and `from_dict` are exact inverses; an absent field takes its default, so
that runs made before a field existed can be read. Importing this package does not load torch. Calling `model_config`
does, and so does making a RunConfig, since a network's options are in the network's own file.
`distseg.config.recipes` holds the named runs.
"""

from distseg.config.adaptation import AdaptConfig
from distseg.config.model import ModelConfig, model_config, network_names, options_class
from distseg.config.overrides import command_line_default, dotted_fields, from_dict, to_dict, with_overrides
from distseg.config.run import RunConfig, check_divides
from distseg.config.schema import (
    MAX_MEGAPIXELS,
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    EvaluateConfig,
    Layout,
    LossConfig,
    OptimConfig,
    Precision,
    Sampling,
    ScalingConfig,
    StyleConfig,
    TrackingConfig,
)
from distseg.strict_json import require

__all__ = [
    "MAX_MEGAPIXELS",
    "AdaptConfig",
    "AugmentConfig",
    "CheckpointConfig",
    "DataConfig",
    "EvaluateConfig",
    "Layout",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "Precision",
    "RunConfig",
    "Sampling",
    "ScalingConfig",
    "StyleConfig",
    "TrackingConfig",
    "check_divides",
    "command_line_default",
    "dotted_fields",
    "from_dict",
    "model_config",
    "network_names",
    "options_class",
    "require",
    "to_dict",
    "with_overrides",
]
