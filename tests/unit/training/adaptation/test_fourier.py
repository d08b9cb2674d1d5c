"""Fourier adaptation, by hand: what is exchanged are the amplitudes inside the window, and nothing else."""

import torch

from distseg.training.adaptation import with_low_amplitudes


def images(*rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)[:, None].repeat(1, 3, 1, 1)


def test_beta_0_exchanges_the_means_alone() -> None:
    source, other = images([[10, 30], [20, 40]]), images([[100, 80], [90, 130]])  # means 25 and 100
    torch.testing.assert_close(with_low_amplitudes(source, other, 0.0), source + 75)


def test_a_window_of_all_frequencies_keeps_only_the_phases() -> None:
    # A step along a row: frequency 0 has amplitude 4 · 15, frequency 1 has 4 · 5 with the sign of the step.
    source, other = images([[10, 20, 10, 20]] * 4), images([[70, 30, 70, 30]] * 4)
    relit = with_low_amplitudes(source, other, 0.49)  # 1 frequency of 2: the mean and the slow ones, not the fastest
    torch.testing.assert_close(relit, source + 35)
    # On 6 pixels a reach of 2 leaves out frequency 3 alone, the fastest, which the source keeps.
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(1, 3, 6, 6, generator=generator, dtype=torch.float64) * 20 + 100 for _ in range(2))
    found = torch.fft.fft2(with_low_amplitudes(first, second, 0.4))
    low = [0, 1, 2, 4, 5]
    amplitudes = torch.fft.fft2(second).abs()[:, :, low][..., low]
    torch.testing.assert_close(found.abs()[:, :, low][..., low], amplitudes)
    torch.testing.assert_close(found[..., 3], torch.fft.fft2(first)[..., 3])
    torch.testing.assert_close(found[:, :, 3], torch.fft.fft2(first)[:, :, 3])


def test_colours_stay_between_black_and_white() -> None:
    source, other = images([[0, 200], [0, 200]]), images([[240, 240], [240, 240]])  # means 100 and 240
    assert with_low_amplitudes(source, other, 0.0)[0, 0].tolist() == [[140, 255], [140, 255]]
