"""Arguments of programs that segment whole images: scales, mirrored images, sliding windows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distseg.config import MAX_MEGAPIXELS, RunConfig
from distseg.errors import ConfigError

if TYPE_CHECKING:
    from distseg.evaluation import InferenceConfig


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """How images are segmented."""

    scales: tuple[float, ...] = (1.0,)
    """Sizes of the image to average over; the papers: 0.5 0.75 1 1.25 1.5 1.75."""
    flip: bool = False
    """Also average over the mirrored image."""
    sliding: bool = False
    """Windows of the training crop's size, or of --window, instead of the whole image."""
    window: tuple[int, int] | None = None
    """Height and width of the sliding window."""
    max_megapixels: float = MAX_MEGAPIXELS
    """Larger images are refused by their header, before they are decoded."""

    def __post_init__(self) -> None:
        if not self.max_megapixels > 0:
            raise ConfigError(f"--max_megapixels {self.max_megapixels}: must be positive")

    def inference(self, config: RunConfig) -> "InferenceConfig":
        """With the training crop of `config` for windows of no given size. Raises ConfigError."""
        if self.window is not None and not self.sliding:
            raise ConfigError(f"--window {self.window}: it is the size of --sliding's windows; add --sliding")
        from distseg.evaluation import InferenceConfig  # here, since it imports torch

        window_px = (self.window or config.data.crop_px) if self.sliding else None
        return InferenceConfig(scales=self.scales, flip=self.flip, window_px=window_px)
