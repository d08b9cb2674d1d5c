"""Reads the images of the target conditions, and gives their light to labelled images."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from distseg.config import RunConfig
from distseg.data.loading import DatasetPart
from distseg.evaluation import World
from distseg.training.adaptation.fourier import with_low_amplitudes
from distseg.training.data_selection import open_reader
from distseg.training.process import from_host

_TARGET_SEED = 6007  # target images come in another order than the labelled images they meet
_CHOICE = 104_723  # beside the seed: the stream of random numbers that says which images take over amplitudes


class Targets:
    """Beside each batch of labelled images as many target images; each batch shows all target conditions alike."""

    def __init__(self, config: RunConfig, part: DatasetPart, world: World, step: int) -> None:
        self.adapt, self.seed, self.device = config.adapt, config.seed, world.device
        other_order = replace(config, seed=config.seed + _TARGET_SEED)
        geometry = replace(config.augment, blur=0.0, jitter=0.0, gamma=0.0, temperature=0.0, noise=0.0)
        geometry = replace(geometry, fog=0.0, rain=0.0)  # the teacher sees colours as they are
        self.reader = open_reader(other_order, [part], world, step, geometry, sampling="condition")

    def images(self) -> Tensor:
        """The next batch's, uint8."""
        return next(self.reader).images_B3HW.to(self.device, non_blocking=True)

    def relit(self, images_B3HW: Tensor, targets_B3HW: Tensor, positions: Sequence[int], dtype: torch.dtype) -> Tensor:
        """uint8 images, some of them with the low frequencies of the target images: colours from 0 to 255, floating."""
        assert self.adapt.fourier is not None
        images_B3HW, targets_B3HW = images_B3HW.to(dtype), targets_B3HW.to(dtype)
        drawn = [np.random.default_rng([self.seed, _CHOICE, p]).random() for p in positions]
        chosen_B = from_host(torch.tensor([each < self.adapt.fourier_probability for each in drawn]), self.device)
        relit_B3HW = with_low_amplitudes(images_B3HW, targets_B3HW, self.adapt.fourier)
        return torch.where(chosen_B[:, None, None, None], relit_B3HW, images_B3HW)

    def close(self) -> None:
        self.reader.close()
