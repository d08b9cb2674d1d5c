"""Dropout whose masks belong to the samples, so that a network learns the same on any number of ranks.

    masks = drop_by_sample(model, seed)      once, after the network is built
    masks.begin(positions, device)           before each forward pass in training mode

PyTorch's dropout draws from one generator per process: its masks depend on how a batch is shared out over processes.
Here a mask is a pure function of (seed, position of the sample in the training stream, layer). Integers are hashed on
the device of the images: nothing is drawn one after the other, and there is no state to save. In evaluation mode
nothing is dropped, as in PyTorch. State dicts keep their keys, since dropout has no weights.

A layer that is applied several times in one forward pass has another mask each time. What a network drops by
`torch.nn.functional` is not seen here.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_WHOLE_CHANNELS: dict[type[nn.Module], bool] = {
    nn.Dropout: False,
    nn.Dropout1d: True,
    nn.Dropout2d: True,
    nn.Dropout3d: True,
}
_32_BITS = 0xFFFFFFFF
# Both are odd and below 2^31, so that products with numbers of 32 bits never leave int64.
_MULTIPLIER = 0x45D9F3B
_STRIDE = 0x1E3779B1


class SampleMasks:
    """The dropout layers of one network, and which samples they are given now."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.layers: list[SampleDropout] = []
        self.keys_B = torch.zeros(0, dtype=torch.int64)  # a number of 32 bits for each sample of the forward pass

    def begin(self, positions: Sequence[int], device: torch.device, *, num_copies: int = 1) -> None:
        """The next forward pass is given the samples of these positions of the stream, in this order.

        With `num_copies` it is given all of them so many times, one after the other, and each copy has its own masks.
        """
        if not self.layers:
            return
        keys = [_hashed(self.seed, copy, position) for copy in range(num_copies) for position in positions]
        pinned = device.type == "cuda"  # else the GPU and the host would wait for each other
        self.keys_B = torch.tensor(keys, dtype=torch.int64, pin_memory=pinned).to(device, non_blocking=True)
        for layer in self.layers:
            layer.num_uses = 0


class SampleDropout(nn.Module):
    """Zeros with probability p, whole channels or single values; the others are scaled by 1 / (1 - p)."""

    def __init__(self, p: float, number: int, masks: SampleMasks, *, is_of_channels: bool) -> None:
        super().__init__()
        self.p, self.masks, self.is_of_channels = p, masks, is_of_channels
        self.salt = _hashed(number)
        self.num_uses = 0  # in this forward pass

    def forward(self, x_BCN: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x_BCN
        salt = (self.salt + self.num_uses * _STRIDE) & _32_BITS
        self.num_uses += 1
        keys_B = self.masks.keys_B
        if len(keys_B) != len(x_BCN):
            raise ValueError(
                f"a dropout layer is given {len(x_BCN)} rows for {len(keys_B)} samples: masks belong to samples, so a "
                "network has to keep one row for each"
            )
        shape = x_BCN.shape[:2] if self.is_of_channels else x_BCN.shape
        kept_BN = random_32_bits(keys_B ^ salt, shape[1:].numel()) >= int(self.p * 2**32)
        scale = 1 / (1 - self.p) if self.p < 1 else 0.0
        mask = kept_BN.to(x_BCN.dtype).mul(scale).view(*shape, *(1,) * (x_BCN.ndim - len(shape)))
        return x_BCN * mask

    def extra_repr(self) -> str:
        return f"p={self.p}"


def drop_by_sample(model: nn.Module, seed: int) -> SampleMasks:
    """Exchanges each nn.Dropout, Dropout1d, Dropout2d and Dropout3d of the network, in place, by a `SampleDropout`."""
    masks = SampleMasks(seed)
    exchanged: dict[int, SampleDropout] = {}  # a module that has several names stays one module
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) not in _WHOLE_CHANNELS:
            continue
        if id(module) not in exchanged:
            of_channels = _WHOLE_CHANNELS[type(module)]
            layer = SampleDropout(module.p, len(masks.layers), masks, is_of_channels=of_channels)
            exchanged[id(module)] = layer.train(module.training)
            masks.layers.append(layer)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, exchanged[id(module)])
    return masks


def random_32_bits(keys_B: Tensor, length: int) -> Tensor:
    """(B, length): numbers from 0 to 2^32 - 1 that look random, of each key its own sequence."""
    counter_N = torch.arange(length, device=keys_B.device) * _STRIDE
    return _mixed((_mixed(keys_B)[:, None] + counter_N) & _32_BITS)


def _mixed(x: Tensor) -> Tensor:
    """Each bit of the result depends on every bit of x: two rounds of a 32-bit integer hash, in int64."""
    x = ((x ^ (x >> 16)) * _MULTIPLIER) & _32_BITS
    x = ((x ^ (x >> 16)) * _MULTIPLIER) & _32_BITS
    return x ^ (x >> 16)


def _hashed(*numbers: int) -> int:
    """32 bits of a tuple of numbers."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=4).digest(), "little")
