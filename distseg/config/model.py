"""The group `model`: what every network's options have, and how the options of one network are found by its name.

A network is one file of `distseg/models/networks`; the file's name is the network's. Its class `Options` derives from
`ModelConfig`: its fields are the flags `--model.…`, and `build` makes the network. A user's own class is named
`module:Class`, its module is looked for in the working directory. Finding one imports its file, and with it torch.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from distseg import plugins
from distseg.errors import ConfigError
from distseg.strict_json import build_group, no_such_field, require

if TYPE_CHECKING:
    from distseg.config.run import RunConfig

NETWORKS = "distseg.models.networks"
DEFAULT_NETWORK = "pspnet"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network. Each network derives from this and adds its own options, each with a default.

    What other code asks of a network before it is built is a property here, which a network overrides.
    """

    name: str = ""
    """A file of distseg/models/networks (`python -m distseg.models` lists them), or your own class as module:Class.
    `adain` is the style network of `distseg.stylize`, the others segment. The options below are those of the network
    that is shown as the default; name another one before --help to see its options."""
    pretrained: str | None = None
    """A checkpoint, run or weights file of distseg: all its weights are taken, except the last layers if it was trained
    on other classes. Or 'imagenet' (torchvision's weights of the backbone, or timm's), or a file or s3:// URI of such a
    state dict, or of a whole PSPNet in its authors' layout. None: random."""
    dropout: float = 0.1
    checkpointing: bool = False
    """Gradient checkpointing: in training keep the inputs of the network's blocks only, and compute the blocks again in
    the backward pass. A step takes about a third longer and learns the same with much less memory."""

    def __post_init__(self) -> None:
        if type(self) is ModelConfig:
            raise TypeError("ModelConfig belongs to no network; use distseg.config.model_config(name, …)")
        own = _name_of(type(self))
        if not self.name:
            object.__setattr__(self, "name", own)
        is_own = self.name == own or (":" in self.name and ":" in own)
        require(is_own, "model.name", self.name, f"these are the options of {own}; use distseg.config.model_config")
        require(
            not (self.checkpointing and self.is_style_network),
            "model.checkpointing",
            self.checkpointing,
            f"{self.name} has no blocks; leave it out",
        )
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "must be in [0, 1)")
        require(
            self.pretrained != "imagenet" or self.known_backbone is not None,
            "model.pretrained",
            self.pretrained,
            f"there are no ImageNet weights of {self.name}; give a checkpoint or run of distseg, or leave it out",
        )

    @classmethod
    def from_json(cls, value: Any, where: str = "model") -> "ModelConfig":
        """The options of the network that the object's `name` says. Raises ConfigError naming the field.

        An option of another network is passed over if it has that network's default: configurations written before
        each network had a class of its own held the fields of all networks.
        """
        require(isinstance(value, dict), where, value, "must be an object with named fields")
        name = value.get("name", DEFAULT_NETWORK)
        require(isinstance(name, str), f"{where}.name", name, "must be of type str")
        group = options_class(name)
        foreign = [
            option for option in value if option not in field_names(group) or not group.takes(option, value[option])
        ]
        for option in foreign:
            if value[option] not in list(defaults_elsewhere(option)):
                raise no_such_option(group, name, option, repr(value[option]))
        own = {option: item for option, item in value.items() if option not in foreign}
        return cast(ModelConfig, build_group(group, own | {"name": name}, where))

    @classmethod
    def takes(cls, option: str, value: Any) -> bool:
        """Whether an option may have a value that was meant for another network, which has this option too."""
        return True

    @classmethod
    def variants(cls) -> dict[str, "ModelConfig"]:
        """The rows of `python -m distseg.models`: published variants by the names they are shown under."""
        config = cls()
        return {config.name: config}

    def build(self, num_classes: int, *, aux: bool) -> Any:
        """The network, a `distseg.models.SegmentationModel` for so many classes, with an auxiliary head if `aux`.

        A style network, which has no classes, is given 0. Raises ValueError for numbers that do not fit each other.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method build")

    @property
    def has_aux_head(self) -> bool:
        """Whether the network can have an auxiliary head; `loss.aux_weight` must be 0 if it cannot."""
        return False

    @property
    def is_style_network(self) -> bool:
        """Whether the network restyles images instead of segmenting them."""
        return False

    @property
    def known_backbone(self) -> str | None:
        """torchvision's name of the backbone, or timm:NAME, if its ImageNet weights can be loaded into the network."""
        return None

    @property
    def foreign_weights(self) -> str | None:
        """What state dict that distseg did not make its `load_weights` takes, in words; None: it takes none."""
        return None

    def layout_on_cpu(self, precision: str) -> Literal["channels_last", "contiguous"]:
        """In which memory layout a training step is the faster one on CPUs, as `tests/benchmarks/bench_layout.py` says.

        Networks of bottlenecks are faster contiguous, in fp32. How wide the CPU's registers are decides nothing.
        """
        return "channels_last"

    def check_run(self, config: "RunConfig") -> None:
        """Called when a RunConfig is made. Raises ConfigError for fields of other groups that do not fit.

        A network has no defaults for other groups, such as `optim`: those are a recipe's.
        """

    def check_batch(self, micro_batch_size: int) -> None:
        """Raises ValueError if the network cannot train on so few samples per micro-batch, counted over all workers."""


def model_config(name: str = DEFAULT_NETWORK, **options: Any) -> ModelConfig:
    """The options of the named network; those that are not given keep their defaults.

        model_config("unet", width=0.25)

    Raises ConfigError if there is no such network or option, or if a value does not fit.
    """
    group = options_class(name)
    for option, value in options.items():
        if option not in field_names(group):
            raise no_such_option(group, name, option, repr(value))
    return cast(ModelConfig, build_group(group, {"name": name, **options}, "model"))


def options_class(name: str) -> type[ModelConfig]:
    """The class of the named network's options. Raises ConfigError, with the nearest name, if there is none."""
    found = plugins.find("model.name", NETWORKS, "Options", name, kind="class")
    if not (isinstance(found, type) and issubclass(found, ModelConfig)):
        raise ConfigError(f"model.name = {name!r}: {found!r} does not derive from distseg.config.ModelConfig")
    return found


def network_names() -> tuple[str, ...]:
    """The networks of distseg, sorted."""
    return plugins.names(NETWORKS)


def field_names(group: type[ModelConfig]) -> tuple[str, ...]:
    return tuple(spec.name for spec in dataclasses.fields(group))


def kept_options(model: ModelConfig, name: str) -> dict[str, Any]:
    """All fields of the named network: with the values of `model` where it has them too, else with their defaults."""
    group = options_class(name)
    has = field_names(type(model))
    kept = {
        spec.name: getattr(model, spec.name)
        if spec.name in has and group.takes(spec.name, getattr(model, spec.name))
        else _default(spec)
        for spec in dataclasses.fields(group)
    }
    return kept | {"name": name}


def no_such_option(group: type[ModelConfig], name: str, option: str, shown: str) -> ConfigError:
    """The error for an option that the network `name` does not have, but others perhaps do; its value as shown."""
    if is_option_elsewhere(option):
        return ConfigError(f"model.{option} = {shown}: {name} has no such option; leave it out")
    return no_such_field(option, field_names(group), f"model.{option}")


def is_option_elsewhere(option: str) -> bool:
    return any(True for _ in defaults_elsewhere(option))


def defaults_elsewhere(option: str) -> Iterator[Any]:
    """The defaults, as JSON, that the networks which have this option give it."""
    for network in network_names():
        for spec in dataclasses.fields(options_class(network)):
            if spec.name == option:
                default = _default(spec)
                yield list(default) if isinstance(default, tuple) else default


def _default(spec: dataclasses.Field[Any]) -> Any:
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    require(spec.default is not dataclasses.MISSING, "model." + spec.name, None, "every option needs a default")
    return spec.default


def _name_of(group: type[ModelConfig]) -> str:
    """'unet' for the options in networks/unet.py, 'module:Class' for a user's own."""
    package, _, module = group.__module__.rpartition(".")
    return module if package == NETWORKS else f"{group.__module__}:{group.__qualname__}"
