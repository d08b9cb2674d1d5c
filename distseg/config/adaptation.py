"""The group `adapt`: what a training makes of unlabelled images of other conditions."""

from dataclasses import dataclass
from typing import Literal

from distseg.strict_json import require


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptConfig:
    """Unlabelled images of target conditions: Fourier adaptation and self-training, each switched on by its own field.

    Self-training: the moving average of the network, the teacher, labels target images; the network learns from images
    into which labelled objects are pasted, and from images with parts masked out. `optim.ema_decay` is the teacher's.
    """

    conditions: tuple[str, ...] = ()
    """Target conditions, of data.train_split. Their labels are never used."""
    uri: str = ""
    """Packed data set of the target conditions; empty: data.uri."""
    fourier: float | None = None
    """Half the side of the window of low frequencies whose amplitudes a labelled image takes over from a target image,
    as a share of the image's shorter side (β of Yang & Soatto 2020: 0.01 to 0.09); None: off."""
    fourier_probability: float = 0.5
    """Share of the labelled images that do."""
    weight: float | None = None
    """Weight of the loss on mixed images, beside the labelled images' loss (DACS, Tranheden et al. 2021: 1); None: no
    self-training."""
    start_step: int = 0
    """The first step with self-training: before it the teacher knows too little."""
    threshold: float = 0.968
    """The pixels of a target image count as much as the share of them of which the teacher is surer than this."""
    teacher_statistics: Literal["batch", "running"] = "batch"
    """What the teacher's batch norm normalises target images by: their batch, as in DACS; or its average of the
    network's statistics, to which labelled images contribute."""
    mix: bool = True
    """Paste half of the classes of a labelled image into the target image (ClassMix, Olsson et al. 2021)."""
    jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation of what the network learns from; the teacher sees
    the image as it is."""
    masked_weight: float = 0.0
    """Weight of the loss on masked target images (MIC, Hoyer et al. 2023: 1); 0: none."""
    mask_share: float = 0.7
    """Of the image, in squares of mask_px."""
    mask_px: int = 32

    def __post_init__(self) -> None:
        is_on = self.fourier is not None or self.weight is not None
        if is_on:
            require(bool(self.conditions), "adapt.conditions", self.conditions, "name the conditions to adapt to")
        else:
            needs = "adapt.weight (self-training) or adapt.fourier"
            require(not self.conditions, "adapt.conditions", self.conditions, f"needs {needs}")
            require(not self.uri, "adapt.uri", self.uri, f"needs {needs}")
        is_window = self.fourier is None or 0 <= self.fourier < 0.5
        require(is_window, "adapt.fourier", self.fourier, "must be in [0, 0.5)")
        require(self.weight is None or self.weight >= 0, "adapt.weight", self.weight, "must not be negative")
        require(self.start_step >= 0, "adapt.start_step", self.start_step, "must not be negative")
        for name in ("fourier_probability", "threshold", "mask_share"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"adapt.{name}", value, "must be in [0, 1]")
        require(0 <= self.jitter < 1, "adapt.jitter", self.jitter, "must be in [0, 1)")
        require(self.masked_weight >= 0, "adapt.masked_weight", self.masked_weight, "must not be negative")
        needs_teacher = self.masked_weight == 0 or self.weight is not None
        require(needs_teacher, "adapt.masked_weight", self.masked_weight, "needs adapt.weight (0 is enough)")
        require(self.mask_px >= 1, "adapt.mask_px", self.mask_px, "must be at least 1")
