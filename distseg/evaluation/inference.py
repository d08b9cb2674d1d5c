"""From whole images to confusion matrices: the one way that training, `evaluate` and `predict` score and segment.

Images are uint8 (3, H, W) RGB; logits are brought to the image's own size (bilinear, align_corners=False) before
argmax, so a label map has the size of its image. Void (255) is never predicted.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.config import Precision
from distseg.data import LabelSpace
from distseg.data.loading import EvalSample
from distseg.data.shards import Manifest, Shard
from distseg.errors import ConfigError, DataError
from distseg.evaluation.bootstrap import ImageCounts, class_counts
from distseg.evaluation.metrics import Scores, Summary, confusion_matrix, scores, summarise

# ImageNet's channel statistics on a 0–255 scale, which torchvision's weights expect.
MEAN_RGB = (123.675, 116.28, 103.53)
STD_RGB = (58.395, 57.12, 57.375)

MAX_BATCH_PIXELS = 1 << 19  # images of one size are scored together up to this many pixels: bounded memory, busy cores


def resolve_precision(precision: Precision, device: torch.device) -> Literal["bf16", "fp32", "fp64"]:
    """'auto' is bf16 where the device computes in it faster than in fp32. Raises ConfigError for bf16 it cannot do."""
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if precision == "auto":
        return "bf16" if has_bf16 else "fp32"
    if precision == "bf16" and device.type == "cuda" and not has_bf16:
        raise ConfigError("precision = 'bf16': this GPU has no bf16; use fp32 or auto")
    return precision


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def normalize(images_B3HW: Tensor, precision: str) -> Tensor:
    """uint8 RGB -> floats with ImageNet's mean and deviation, channels_last, in fp32 (fp64 for precision fp64)."""
    dtype = torch.float64 if precision == "fp64" else torch.float32
    mean = torch.tensor(MEAN_RGB, dtype=dtype, device=images_B3HW.device).view(1, 3, 1, 1)
    std = torch.tensor(STD_RGB, dtype=dtype, device=images_B3HW.device).view(1, 3, 1, 1)
    return ((images_B3HW.to(dtype) - mean) / std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How an image is segmented. The default is the whole image once, at its own size.

    Otherwise the softmax is averaged over windows, mirrored images and scales, and brought to the image's own size
    before argmax (Zhao et al. 2017, section 5.1: scales 0.5 to 1.75 and flips; their code for the windows).
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window_px: tuple[int, int] | None = None  # height and width; windows step by two thirds of it, rounded up

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ConfigError(f"scales = {self.scales}: give at least one, all positive")
        if self.window_px is not None and min(self.window_px) < 32:
            raise ConfigError(f"window = {self.window_px}: both sides must be at least 32")

    @property
    def is_plain(self) -> bool:
        return self == Protocol()


PLAIN = Protocol()


@torch.inference_mode()
def predict(model: nn.Module, images_B3HW: Tensor, precision: str, protocol: Protocol = PLAIN) -> Tensor:
    """Class ids (B, H, W), int64, of uint8 images. The model must be in eval mode."""
    if protocol.is_plain:
        return whole_image_logits(model, images_B3HW, precision).argmax(1)
    return probabilities(model, images_B3HW, precision, protocol).argmax(1)


@torch.inference_mode()
def whole_image_logits(model: nn.Module, images_B3HW: Tensor, precision: str) -> Tensor:
    """Logits (B, K, H, W) in fp32 (fp64) at the images' size. The model must be in eval mode."""
    with autocast(precision, images_B3HW.device):
        logits_BKhw: Tensor = model(normalize(images_B3HW, precision)).main_BKhw
    full_dtype = torch.float64 if precision == "fp64" else torch.float32
    return _resize(logits_BKhw.to(full_dtype), (images_B3HW.shape[2], images_B3HW.shape[3]))


def latency_ms(
    model: nn.Module, size_hw: tuple[int, int], precision: str, device: torch.device, runs: int = 5
) -> float:
    """Median milliseconds of a forward pass of one image, resizing included, after one to warm up."""
    dtype = torch.float64 if precision == "fp64" else torch.float32
    model = model.to(device, dtype).to(memory_format=torch.channels_last).eval()
    image_B3HW = torch.zeros(1, 3, *size_hw, dtype=torch.uint8, device=device)
    times_s = []
    for _ in range(runs + 1):
        start_s = time.perf_counter()
        whole_image_logits(model, image_B3HW, precision)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times_s.append(time.perf_counter() - start_s)
    return 1000 * statistics.median(times_s[1:])


@torch.inference_mode()
def probabilities(model: nn.Module, images_B3HW: Tensor, precision: str, protocol: Protocol) -> Tensor:
    """The protocol's mean softmax (B, K, H, W) in fp32 (fp64) at the images' size. The model must be in eval mode."""
    height, width = images_B3HW.shape[2:]
    dtype = torch.float64 if precision == "fp64" else torch.float32
    total_BKHW: Tensor | None = None
    for scale in protocol.scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        scaled_B3hw = _resize(images_B3HW.to(dtype), size)
        if protocol.window_px is None:
            mean_BKhw = _mirrored_mean(model, scaled_B3hw, precision, protocol.flip)
        else:
            mean_BKhw = _window_mean(model, scaled_B3hw, precision, protocol.flip, protocol.window_px)
        mean_BKHW = _resize(mean_BKhw, (height, width))
        total_BKHW = mean_BKHW if total_BKHW is None else total_BKHW + mean_BKHW
    assert total_BKHW is not None
    return total_BKHW / len(protocol.scales)


def _mirrored_mean(model: nn.Module, images_B3HW: Tensor, precision: str, flip: bool) -> Tensor:
    softmax_BKHW = whole_image_logits(model, images_B3HW, precision).softmax(1)
    if not flip:
        return softmax_BKHW
    mirrored_BKHW = whole_image_logits(model, images_B3HW.flip(3), precision).softmax(1).flip(3)
    return (softmax_BKHW + mirrored_BKHW) / 2


def _window_mean(
    model: nn.Module, images_B3HW: Tensor, precision: str, flip: bool, window_px: tuple[int, int]
) -> Tensor:
    """Each pixel's mean over the windows that cover it; what is smaller than a window is filled up with mean colour."""
    height, width = images_B3HW.shape[2:]
    rows, columns = (max(w - n, 0) for w, n in zip(window_px, (height, width), strict=True))
    mean_131 = torch.tensor(MEAN_RGB, dtype=images_B3HW.dtype, device=images_B3HW.device).view(1, 3, 1, 1)
    filled_B3HW = F.pad(images_B3HW - mean_131, (0, columns, 0, rows)) + mean_131
    total_BKHW: Tensor | None = None
    count_HW = torch.zeros(filled_B3HW.shape[2:], dtype=images_B3HW.dtype, device=images_B3HW.device)
    for top in window_starts(filled_B3HW.shape[2], window_px[0]):
        for left in window_starts(filled_B3HW.shape[3], window_px[1]):
            place = (slice(top, top + window_px[0]), slice(left, left + window_px[1]))
            mean_BKhw = _mirrored_mean(model, filled_B3HW[:, :, place[0], place[1]], precision, flip)
            if total_BKHW is None:
                total_BKHW = mean_BKhw.new_zeros(*mean_BKhw.shape[:2], *filled_B3HW.shape[2:])
            total_BKHW[:, :, place[0], place[1]] += mean_BKhw
            count_HW[place] += 1
    assert total_BKHW is not None
    return (total_BKHW / count_HW)[:, :, :height, :width]


def window_starts(num_pixels: int, window_px: int) -> list[int]:
    """Where windows begin along a side of at least one window: every ceil(2/3 window), the last one flush."""
    stride_px = math.ceil(window_px * 2 / 3)
    num_windows = math.ceil((num_pixels - window_px) / stride_px) + 1
    return [min(i * stride_px, num_pixels - window_px) for i in range(num_windows)]


def _resize(x_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    if x_BCHW.shape[2:] == size:
        return x_BCHW
    return F.interpolate(x_BCHW, size=size, mode="bilinear", align_corners=False)


Group = tuple[str, str]  # condition, site


@dataclass
class Tally:
    """What scoring adds up: per condition and site an int64 confusion matrix (truth x prediction), and the images."""

    groups: tuple[Group, ...]
    matrices_GKK: Tensor
    num_images_G: Tensor
    images: list[tuple[str, str, Tensor]] = field(default_factory=list)  # (key, condition, class_counts of its matrix)

    @classmethod
    def empty(cls, groups: Sequence[Group], num_classes: int) -> "Tally":
        num = len(groups)
        return cls(
            tuple(groups),
            torch.zeros(num, num_classes, num_classes, dtype=torch.int64),
            torch.zeros(num, dtype=torch.int64),
        )

    def image_counts(self) -> ImageCounts:
        """Image by image, for intervals and for comparing runs. Raises DataError if nothing was scored."""
        keys, conditions, counts = zip(*self.images, strict=True) if self.images else ((), (), ())
        return ImageCounts.of(keys, conditions, torch.stack(counts) if counts else torch.empty(0))

    def by_condition(self) -> dict[str, tuple[Tensor, int]]:
        """condition -> (matrix, number of images)"""
        return self._added_up(0)

    def by_site(self) -> dict[str, tuple[Tensor, int]]:
        """site -> (matrix, number of images)"""
        return self._added_up(1)

    def _added_up(self, part: int) -> dict[str, tuple[Tensor, int]]:
        found: dict[str, tuple[Tensor, int]] = {}
        for group, matrix_KK, num_images in zip(self.groups, self.matrices_GKK, self.num_images_G, strict=True):
            before, num_before = found.get(group[part], (torch.zeros_like(matrix_KK), 0))
            found[group[part]] = before + matrix_KK, num_before + int(num_images)
        return found

    def summary(self) -> Summary:
        return summarise({name: matrix_KK for name, (matrix_KK, _) in self.by_condition().items()})


def score(
    model: nn.Module,
    samples: Iterable[EvalSample],
    tally: Tally,
    *,
    precision: str,
    device: torch.device,
    protocol: Protocol = PLAIN,
    progress: Callable[[int], None] | None = None,
    see: Callable[[EvalSample, Tensor, Tensor], None] | None = None,
) -> None:
    """Adds the model's predictions on `samples` to `tally`. Leaves the model in the mode it was in.

    `progress` is told how many images are done; `see` is given each image with its prediction (H, W), int64, and its
    `class_counts` (3, K).
    """
    was_training = model.training
    num_done = 0
    model.eval()
    try:
        # Averaged predictions take several times the memory.
        for group in _by_size(samples, MAX_BATCH_PIXELS if protocol.is_plain else 1):
            images_B3HW = torch.stack([s.image_3HW for s in group]).to(device, non_blocking=True)
            prediction_BHW = predict(model, images_B3HW, precision, protocol).cpu()
            for sample, prediction_HW in zip(group, prediction_BHW, strict=True):
                g = tally.groups.index((sample.condition, sample.site))
                num_classes = tally.matrices_GKK.shape[-1]
                matrix_KK = confusion_matrix(prediction_HW, sample.label_HW, num_classes)
                tally.matrices_GKK[g] += matrix_KK
                tally.num_images_G[g] += 1
                counts_3K = class_counts(matrix_KK)
                tally.images.append((sample.key, sample.condition, counts_3K))
                if see is not None:
                    see(sample, prediction_HW, counts_3K)
            num_done += len(group)
            if progress is not None:
                progress(num_done)
    finally:
        model.train(was_training)


def _by_size(samples: Iterable[EvalSample], max_pixels: int) -> Iterator[list[EvalSample]]:
    """Consecutive images of one size, at most `max_pixels` together, or a single one."""
    group: list[EvalSample] = []
    for sample in samples:
        shape = sample.image_3HW.shape
        num_pixels = shape[-1] * shape[-2]
        if group and (group[0].image_3HW.shape != shape or (len(group) + 1) * num_pixels > max_pixels):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def evaluation_shards(manifest: Manifest, split: str, conditions: Sequence[str] = ()) -> tuple[Shard, ...]:
    """The shards to evaluate on: `conditions` of `split` (all if empty); 'SPLIT/CONDITION' takes one of another split.

    Raises DataError for a split or condition that is not there.
    """
    if not conditions:
        return manifest.select(split)
    chosen: list[Shard] = []
    for name in conditions:
        named_split, _, condition = name.rpartition("/")
        chosen += [s for s in manifest.select(named_split or split, (condition,)) if s not in chosen]
    return tuple(chosen)


def check_disjoint(train: Sequence[Shard], evaluated: Sequence[Shard]) -> None:
    """Raises ConfigError if a shard is both trained and evaluated on."""
    both = sorted({s.name for s in train} & {s.name for s in evaluated})
    if both:
        raise ConfigError(
            f"data.val_conditions: {both[0]} would be both trained and evaluated on; choose other conditions or splits"
        )


def check_complete(tally: Tally, shards: Sequence[Shard]) -> None:
    """Raises DataError unless every sample of `shards` was counted exactly once (DESIGN: evaluation is exact)."""
    for (condition, site), num_seen in zip(tally.groups, tally.num_images_G.tolist(), strict=True):
        num_expected = sum(s.num_samples for s in shards if (s.condition, s.site) == (condition, site))
        if num_seen != num_expected:
            raise DataError(
                f"evaluation of {condition} at {site} counted {num_seen} images of {num_expected}; nothing is reported"
            )


def groups_of(shards: Sequence[Shard]) -> tuple[Group, ...]:
    return tuple(sorted({(s.condition, s.site) for s in shards}))


def as_table(tally: Tally, summary: Summary, labels: LabelSpace) -> dict[str, Any]:
    """The evaluation as JSON: fractions (None where undefined), pooled, per condition and site (`--json`)."""

    def entry(of: Scores, num_images: int) -> dict[str, Any]:
        names = ("mIoU", "PA", "MPA", "dice", "f1", "sensitivity", "fwIoU")
        return {
            "num_images": num_images,
            **{name: getattr(of, name) for name in names},
            "classes": dict(zip(labels.classes, of.iou, strict=True)),
            "support": dict(zip(labels.classes, of.support, strict=True)),
        }

    per_condition = {name: num_images for name, (_, num_images) in tally.by_condition().items()}
    pooled = entry(summary.pooled, sum(per_condition.values()))
    return {
        "num_images": pooled.pop("num_images"),
        "mIoU": pooled.pop("mIoU"),
        "mIoU_mean_conditions": summary.mIoU_mean_conditions,
        "mIoU_worst": summary.mIoU_worst,
        "mIoU_gap": summary.mIoU_gap,
        **pooled,
        "conditions": {name: entry(of, per_condition[name]) for name, of in summary.conditions.items()},
        "sites": {name: entry(scores(matrix_KK), num) for name, (matrix_KK, num) in tally.by_site().items()},
        "worst_condition": summary.worst_condition,
    }


def as_metrics(table: Mapping[str, Any]) -> dict[str, float]:
    """The evaluation under its MLflow names (val/mIoU, val/mIoU/<condition>, val/IoU/<class> …); undefined left out."""
    metrics = {f"val/{name}": table[name] for name in ("mIoU", "mIoU_mean_conditions", "mIoU_worst", "mIoU_gap")}
    metrics |= {"val/PA": table["PA"], "val/MPA": table["MPA"]}
    metrics |= {f"val/mIoU/{name}": entry["mIoU"] for name, entry in table["conditions"].items()}
    metrics |= {f"val/IoU/{name}": iou for name, iou in table["classes"].items()}
    return {name: float(value) for name, value in metrics.items() if value is not None}
