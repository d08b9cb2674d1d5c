"""Fourier domain adaptation (Yang & Soatto 2020): an image takes over the low frequencies' amplitudes of another one.

They hold light and colour; the phases, which hold the shapes, stay, and so do the labels.
"""

import torch
from torch import Tensor


def with_low_amplitudes(images_B3HW: Tensor, others_B3HW: Tensor, beta: float) -> Tensor:
    """`images` with the amplitudes of `others` inside the window of β (equation 4), clamped to [0, 255].

    Colours from 0 to 255, floating: the phase of the mean must be 0, so they must not be normalised. β = 0 exchanges
    the means alone. The window is that of the authors' code: floor(β · shorter side) frequencies in each direction.
    """
    height, width = images_B3HW.shape[2:]
    reach = int(beta * min(height, width))
    spectrum_B3Hw = torch.fft.rfft2(images_B3HW)
    others_B3Hw = torch.fft.rfft2(others_B3HW)
    rows = (slice(0, reach + 1), slice(height - reach, height))  # frequencies from 0 up, and the negative ones
    for row in rows:
        low_B3hw = spectrum_B3Hw[:, :, row, : reach + 1]
        amplitude_B3hw = others_B3Hw[:, :, row, : reach + 1].abs()
        spectrum_B3Hw[:, :, row, : reach + 1] = torch.polar(amplitude_B3hw, low_B3hw.angle())
    relit_B3HW: Tensor = torch.fft.irfft2(spectrum_B3Hw, s=(height, width))
    return relit_B3HW.clamp(0, 255)
