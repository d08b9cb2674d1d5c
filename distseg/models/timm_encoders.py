"""Encoders of timm, the optional extra `timm`: `--model.backbone timm:NAME`, with or without a tag of its weights.

Any of timm's networks of stages, each at half the resolution of the one before, from 1/4 on: ResNets and what came
after, EfficientNets, MobileNets, RegNets, ConvNeXts … Nothing is loaded here: weights are random
until `pspnet` and the others are given a state dict, whose names are timm's own.

What keeps a training the same on any number of ranks holds for them too: batch norm that timm fused with an activation
is taken apart, so that it can be synchronised, and stochastic depth is ours. timm is imported when one is built, since
that takes seconds. Errors are ValueErrors of one line.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distseg import plugins
from distseg.models.layers import StochasticDepth

PREFIX = "timm:"
MULTIPLE_PX = 32
"""Images are padded to multiples of it, by zeros; the maps are cut to sizes that round up."""
_NUM_STAGES = 4  # at 1/4, 1/8, 1/16, 1/32, or less where dilation replaces strides


def is_timm(backbone: str) -> bool:
    return backbone.startswith(PREFIX)


class TimmEncoder(nn.Module):
    """images_B3HW -> the maps of its stages, the last four (`stages`) or one for each resolution (`resolutions`).

    `stage_channels` and `strides_px` (pixels per cell) are theirs.
    """

    mean_131: Tensor
    std_131: Tensor

    def __init__(
        self, backbone: str, output_stride: int = 32, takes: Literal["stages", "resolutions"] = "stages"
    ) -> None:
        super().__init__()
        timm = _timm(backbone)
        net = _created(timm, backbone, output_stride)
        self.names = set(net.state_dict())
        info: Any = getattr(net.feature_info, "info", net.feature_info)
        strides = [int(each["reduction"]) for each in info]
        if len(strides) < _NUM_STAGES or strides[-_NUM_STAGES] != 4 or sorted(strides) != strides:
            raise ValueError(
                f"model.backbone = {backbone!r}: its maps have strides of {', '.join(map(str, strides))}; name a "
                "network of stages with one at 4 and three behind it, such as timm:convnext_tiny"
            )
        if strides[-1] != output_stride:
            raise _cannot_dilate(backbone, output_stride, f"it has {strides[-1]}")
        chosen = list(range(len(strides)))[-_NUM_STAGES:] if takes == "stages" else _last_of_each(strides)
        self.indices, self.takes = chosen, takes
        self.stage_channels = tuple(int(info[i]["num_chs"]) for i in chosen)
        self.strides_px = tuple(strides[i] for i in chosen)
        self.output_stride = output_stride
        net.prune_intermediate_layers(chosen, prune_norm=True, prune_head=True)
        self.fused = _take_apart(net, timm)
        _check_norms(net, backbone)
        self.net = net
        own, here = _normalisations(timm, net)
        self.is_renormalised = own != here
        self.register_buffer("mean_131", _difference_of_means(own, here), persistent=False)
        self.register_buffer("std_131", _column(own[1]) / _column(here[1]), persistent=False)
        self._check_all_learn(backbone)

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        height, width = images_B3HW.shape[2:]
        if self.is_renormalised:  # from ImageNet's mean and deviation to those that timm trained it with
            images_B3HW = (images_B3HW - self.mean_131) / self.std_131
        below, right = -height % MULTIPLE_PX, -width % MULTIPLE_PX
        if below or right:  # some networks round sizes down, or take no odd ones
            images_B3HW = F.pad(images_B3HW, (0, right, 0, below))
        maps = self.net.forward_intermediates(images_B3HW, indices=self.indices, intermediates_only=True)
        return [
            map_BChw[:, :, : -(-height // stride), : -(-width // stride)]
            for map_BChw, stride in zip(maps, self.strides_px, strict=True)
        ]

    def _check_all_learn(self, backbone: str) -> None:
        """Raises ValueError if a parameter has no part in the maps: the ranks would wait for its gradient in vain.

        Of four stages not every network uses all: the last one has to come of all. On the meta device, where shapes are
        worked out and no numbers.
        """
        with torch.inference_mode(False), torch.enable_grad():
            learnt = {
                name: torch.empty_like(each, device="meta").requires_grad_() for name, each in self.named_parameters()
            }
            constants = {name: torch.empty_like(each, device="meta") for name, each in self.named_buffers()}
            images = torch.empty(2, 3, 2 * MULTIPLE_PX, 2 * MULTIPLE_PX, device="meta")
            maps = torch.func.functional_call(self, constants | learnt, images)
            used = maps if self.takes == "resolutions" else maps[-1:]
            total = torch.stack([map_BChw.sum() for map_BChw in used]).sum()
            gradients = torch.autograd.grad(total, list(learnt.values()), allow_unused=True)
        idle = [name for name, gradient in zip(learnt, gradients, strict=True) if gradient is None]
        if idle:
            raise ValueError(
                f"model.backbone = {backbone!r}: {len(idle)} of its weights, the first {idle[0]}, have no part in its "
                "maps, so that it cannot be trained on several workers; name another network"
            )

    def own_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """timm's state dict under the names here; what belongs to parts that segmentation does not use is left out.

        Keys that timm's network does not have either stay as they are, for the caller to name.
        """
        renamed, here = {}, self.state_dict()
        for key, value in state.items():
            module, _, parameter = key.rpartition(".")
            own = f"net.{module}.norm.{parameter}" if module in self.fused else f"net.{key}"
            if own in here or key not in self.names:
                renamed[own] = value
        return renamed


def imagenet_state(backbone: str) -> dict[str, Tensor]:
    """timm's weights, from the cache of the Hugging Face hub or, where there is a network, downloaded into it.

    Raises OSError if they cannot be had, ValueError if there are none.
    """
    timm, name = _timm(backbone), backbone.removeprefix(PREFIX)
    _check_name(timm, backbone)
    try:
        state: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except RuntimeError as error:  # timm has none, or what came is damaged
        raise ValueError(str(error)) from None
    except Exception as error:  # noqa: BLE001 — whatever the hub's client makes of no network
        raise OSError(f"neither in the cache nor from the network: {error}") from None
    return state


def _timm(backbone: str) -> Any:
    try:
        import timm
    except ImportError:
        raise ValueError(f"model.backbone = {backbone!r} needs timm: pip install 'distseg[timm]'") from None
    return timm


def _check_name(timm: Any, backbone: str) -> None:
    name = backbone.removeprefix(PREFIX)
    if not timm.is_model(name):
        known = plugins.suggestion(name, timm.list_models())
        hint = known if known.startswith("did you mean") else "timm.list_models() lists them"
        raise ValueError(f"model.backbone = {backbone!r}: timm {timm.__version__} has no such network; {hint}")


def _created(timm: Any, backbone: str, output_stride: int) -> Any:
    """timm's network with random weights. A stride of 32 is what networks have of themselves."""
    _check_name(timm, backbone)
    options = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        net = timm.create_model(backbone.removeprefix(PREFIX), pretrained=False, **options)
    except (TypeError, AssertionError, NotImplementedError, ValueError, RuntimeError) as error:
        if not options:
            raise ValueError(f"model.backbone = {backbone!r}: timm cannot make it: {error}") from None
        raise _cannot_dilate(backbone, output_stride, "timm cannot give it that") from None
    if net.pretrained_cfg.get("fixed_input_size"):
        raise ValueError(f"model.backbone = {backbone!r}: it takes images of one size only; name another network")
    if not hasattr(net, "forward_intermediates") or not getattr(net, "feature_info", None):
        raise ValueError(f"model.backbone = {backbone!r}: timm gives no maps of its stages; name another network")
    return net


def _cannot_dilate(backbone: str, output_stride: int, why: str) -> ValueError:
    return ValueError(
        f"model.backbone = {backbone!r}: no output stride of {output_stride}, {why}; give model.dilations 1 1 1, which "
        "is a stride of 32, or an encoder that can be dilated, such as timm:resnet50d"
    )


def _last_of_each(strides: Sequence[int]) -> list[int]:
    """The deepest map of each resolution, from 1/2 on."""
    return [i for i, stride in enumerate(strides) if stride > 1 and stride not in strides[i + 1 :]]


def _take_apart(net: nn.Module, timm: Any) -> set[str]:
    """Exchanges, in place, what cannot be synchronised. Returns the names of the batch norms that were fused."""
    fused = set()
    for name, module in list(net.named_modules()):
        if isinstance(module, timm.layers.BatchNormAct2d):
            parts = OrderedDict(norm=_plain(module), drop=module.drop, act=module.act)
            _exchange(net, name, nn.Sequential(parts))
            fused.add(name)
        elif isinstance(module, timm.layers.DropPath):
            _exchange(net, name, StochasticDepth(module.drop_prob))
    return fused


def _plain(fused: nn.BatchNorm2d) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(fused.num_features, fused.eps, fused.momentum, device="meta")
    norm.weight, norm.bias = fused.weight, fused.bias
    norm.running_mean, norm.running_var = fused.running_mean, fused.running_var
    norm.num_batches_tracked = fused.num_batches_tracked
    return norm


def _exchange(net: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, new)


def _check_norms(net: nn.Module, backbone: str) -> None:
    for name, module in net.named_modules():
        if isinstance(module, _BatchNorm) and type(module) is not nn.BatchNorm2d:
            raise ValueError(
                f"model.backbone = {backbone!r}: {name} is a {type(module).__name__}, which cannot be synchronised "
                "over ranks; name another network"
            )


def _normalisations(timm: Any, net: Any) -> tuple[Any, Any]:
    """(mean, deviation) of RGB that timm trained the network with, and ImageNet's, by which images come."""
    data, config = timm.data, net.pretrained_cfg
    here = (tuple(data.IMAGENET_DEFAULT_MEAN), tuple(data.IMAGENET_DEFAULT_STD))
    own = (tuple(config.get("mean") or here[0]), tuple(config.get("std") or here[1]))
    return own, here


def _difference_of_means(own: Any, here: Any) -> Tensor:
    return (_column(own[0]) - _column(here[0])) / _column(here[1])


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)
