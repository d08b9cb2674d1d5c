"""Dropout by sample: masks follow from seed, position and layer, and are as random as they should be."""

import pytest
import torch
from torch import Tensor, nn

from distseg.config import network_names, options_class
from distseg.models import build_model, build_style_network, drop_by_sample
from distseg.models.dropout import SampleDropout, random_32_bits

CPU = torch.device("cpu")
P = 0.3
OF_TORCH = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class Net(nn.Module):
    """Two layers, of which the second is applied twice and has two names."""

    def __init__(self, kind: type[nn.Dropout] | type[nn.Dropout2d] = nn.Dropout2d) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Identity(), kind(P))
        self.second = kind(P)
        self.alias = self.second

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.first(x), self.second(x), self.alias(x)


def dropped(net: nn.Module, positions: list[int], *, seed: int = 0, size: tuple[int, int] = (2, 2), **options: int):  # type: ignore[no-untyped-def]
    """Which channels of ones each application drops, (B, 4096) bool."""
    masks = drop_by_sample(net, seed)
    masks.begin(positions, CPU, **options)
    outs = net(torch.ones(len(positions) * options.get("num_copies", 1), 4096, *size))
    return [(out == 0).flatten(2).any(2) for out in outs]


def agreement(one: Tensor, other: Tensor) -> float:
    return (one == other).float().mean().item()


INDEPENDENT = P * P + (1 - P) ** 2


def test_a_mask_belongs_to_its_sample_however_the_batch_is_shared() -> None:
    whole = dropped(Net(), [7, 8, 9, 10])
    halves = zip(dropped(Net(), [7, 8]), dropped(Net(), [9, 10]), strict=True)
    for of_four, parts in zip(whole, halves, strict=True):
        assert torch.equal(of_four, torch.cat(parts))
    assert all(map(torch.equal, dropped(Net(), [7, 8]), dropped(Net(), [7, 8]))), "and is the same again"


def test_as_many_are_dropped_as_asked_for_and_the_mean_stays() -> None:
    net = Net()
    for mask in dropped(net, list(range(64))):
        assert abs(mask.float().mean().item() - P) < 0.003  # 262,144 draws: three deviations
    masks = drop_by_sample(net := Net(), 0)
    masks.begin(list(range(64)), CPU)
    kept = net(torch.ones(64, 4096, 1, 1))[0]
    assert sorted(kept.unique().tolist()) == [0.0, pytest.approx(1 / (1 - P))]
    assert abs(kept.mean().item() - 1) < 0.005


def test_masks_of_other_samples_layers_uses_copies_and_seeds_are_independent() -> None:
    first, second, again = dropped(Net(), [0, 1])
    copied = dropped(Net(), [0, 1], num_copies=2)[0]
    pairs = [
        (first[0], first[1]),
        (first[0, 1:], first[0, :-1]),
        (first, second),
        (second, again),
        (copied[:2], copied[2:]),
        (first, dropped(Net(), [0, 1], seed=1)[0]),
        (first, dropped(Net(), [2**32, 2**32 + 1])[0]),
    ]
    assert torch.equal(copied[:2], first)
    for one, other in pairs:
        assert abs(agreement(one, other) - INDEPENDENT) < 0.03


def test_hashes_are_uniform_in_each_bit_and_between_neighbours() -> None:
    numbers = random_32_bits(torch.arange(256), 1024)
    assert numbers.min() >= 0 and numbers.max() < 2**32
    bits = (numbers[..., None] >> torch.arange(32)) & 1
    assert (bits.float().mean((0, 1)) - 0.5).abs().max() < 0.005
    assert (bits.float().mean((1, 2)) - 0.5).abs().max() < 0.02  # of each key
    assert len(numbers.unique()) > 0.9999 * numbers.numel() - 16


def test_single_values_are_dropped_by_plain_dropout() -> None:
    masks = drop_by_sample(net := Net(nn.Dropout), 0)
    masks.begin([3, 4], CPU)
    out = net(torch.ones(2, 8, 32, 32))[0]
    assert abs((out == 0).float().mean().item() - P) < 0.02
    masks.begin([4], CPU)
    assert torch.equal(net(torch.ones(1, 8, 32, 32))[0], out[1:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_masks_do_not_depend_on_precision_or_memory_format(dtype: torch.dtype) -> None:
    masks = drop_by_sample(net := Net(), 0)
    masks.begin([5, 6], CPU)
    plain = net(torch.ones(2, 64, 3, 3))[0]
    masks.begin([5, 6], CPU)
    other = net(torch.ones(2, 64, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last))[0]
    assert other.dtype == dtype and other.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(other == 0, plain == 0)


def test_the_gradient_is_dropped_with_the_value() -> None:
    masks = drop_by_sample(net := Net(), 0)
    masks.begin([0], CPU)
    x = torch.ones(1, 64, 2, 2, requires_grad=True)
    out = net(x)[0]
    out.sum().backward()
    torch.testing.assert_close(x.grad, out.detach())


def test_nothing_is_dropped_in_evaluation_or_with_probability_0() -> None:
    net = Net().eval()
    drop_by_sample(net, 0)
    x = torch.randn(3, 8, 2, 2)
    assert all(out is x for out in net(x))
    drop_by_sample(idle := nn.Sequential(nn.Dropout2d(0.0)), 0)
    assert idle(x) is x


def test_a_network_that_gives_rows_of_its_own_is_told_so() -> None:
    masks = drop_by_sample(net := Net(), 0)
    masks.begin([0, 1], CPU)
    with pytest.raises(ValueError, match="a dropout layer is given 4 rows for 2 samples"):
        net(torch.ones(4, 8, 2, 2))


@pytest.mark.parametrize("name", network_names())
def test_every_networks_dropout_is_by_sample_and_its_state_is_as_before(name: str) -> None:
    options = options_class(name)()
    with torch.device("meta"):
        model = build_style_network(options) if options.is_style_network else build_model(options, 3)
    before = {key: value.shape for key, value in model.state_dict().items()}
    num_before = sum(isinstance(module, OF_TORCH) for module in model.modules())
    masks = drop_by_sample(model, 0)
    assert not any(isinstance(module, OF_TORCH) for module in model.modules())
    assert num_before == len(masks.layers) == sum(isinstance(module, SampleDropout) for module in model.modules())
    assert num_before > 0 or options.is_style_network
    assert {key: value.shape for key, value in model.state_dict().items()} == before
