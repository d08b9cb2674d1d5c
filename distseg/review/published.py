"""Scores that others published, for holding ours against: never a target to copy, and seldom the same protocol.

Fractions. Per condition only where the paper has it; "mean" is then the paper's mean of the conditions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from distseg.review.html import HtmlTable
from distseg.review.run_review import RunReview
from distseg.review.text import number

_ZHAO = "Zhao et al. 2017, Pyramid Scene Parsing Network"
_ZHAO_CODE = "the PSPNet authors' PyTorch code"
_SONG = "Song, Zhang, Park 2021, tables 4 and 5"
_SHEN = "Shen & Sun 2022"
_MUKHERJEE = "Mukherjee & Bhattacharjee"


@dataclass(frozen=True, kw_only=True)
class Published:
    dataset: str  # as `pack` calls it
    system: str
    source: str
    protocol: str
    miou: float
    site: str = ""  # "": the whole data set
    conditions: Mapping[str, float] = field(default_factory=dict)


def published(dataset: str, sites: Sequence[str] = ()) -> tuple[Published, ...]:
    """What is known of a data set; of one with sites, for those."""
    return tuple(p for p in PUBLISHED if p.dataset == dataset and (not p.site or p.site in sites))


_NINE = ("dawn", "fall", "fog", "night", "spring", "summer", "sunset", "winter-night", "winter")


def _synthia(site: str, system: str, percent: Sequence[float], mean: float) -> Published:
    return Published(
        dataset="synthia",
        site=site,
        system=system,
        source=_SONG,
        protocol=f"{site}, labels from dawn only",
        miou=mean / 100,
        conditions={name: value / 100 for name, value in zip(_NINE, percent, strict=True)},
    )


def _whole(dataset: str, system: str, source: str, protocol: str, percent: float) -> Published:
    return Published(dataset=dataset, system=system, source=source, protocol=protocol, miou=percent / 100)


_MS = "val, several scales and flips"
_CAMVID = "test split, 480x360, 11 classes, from scratch"

PUBLISHED = (
    _synthia("highway", "PSPNet", (67.3, 65.6, 65.8, 59.4, 69.7, 67.9, 68.4, 57.2, 60.6), 64.6),
    _synthia("highway", "improved PSPNet", (71.4, 69.6, 69.2, 66.9, 72.4, 70.9, 71.2, 64.7, 67.2), 69.2),
    _synthia("new-york", "PSPNet", (60.6, 52.7, 54.4, 49.2, 55.8, 56.7, 54.2, 39.2, 45.8), 52.0),
    _synthia("new-york", "improved PSPNet", (62.5, 57.2, 57.9, 56.7, 58.1, 58.9, 56.7, 47.4, 52.3), 56.4),
    _whole("cityscapes", "PSPNet-50", _ZHAO_CODE, "val, whole images", 77.30),
    _whole("cityscapes", "PSPNet-50", _ZHAO_CODE, _MS, 78.38),
    _whole("cityscapes", "PSPNet-101", _ZHAO_CODE, "val, whole images", 78.63),
    _whole("cityscapes", "PSPNet-101", _ZHAO_CODE, _MS, 79.29),
    _whole("cityscapes", "PSPNet-18", "OpenMMLab, 80k steps", "val, whole images", 74.87),
    _whole("cityscapes", "PSPNet-50", "OpenMMLab, 80k steps", "val, whole images", 78.55),
    _whole("cityscapes", "PSPNet-50", "OpenMMLab, 80k steps", _MS, 79.79),
    _whole("cityscapes", "PSPNet", _ZHAO, "test", 78.4),
    _whole("cityscapes", "PSPNet, with gtCoarse", _ZHAO, "test", 80.2),
    _whole("cityscapes", "FCN with attention", _SHEN, "as claimed", 82.9),
    _whole("cityscapes", "PSPNet-50", _MUKHERJEE, "val, resized centre crops", 66.1),
    _whole("cityscapes", "R2U-Net", _MUKHERJEE, "val, resized centre crops", 33.1),
    _whole("ade20k", "ResNet-50 dilated", f"{_ZHAO}, table 1", "val, whole images", 37.23),
    _whole("ade20k", "PSPNet-50", f"{_ZHAO}, table 1", "val, whole images", 41.68),
    _whole("ade20k", "PSPNet-101", f"{_ZHAO}, depth table", "val, whole images", 41.96),
    _whole("ade20k", "PSPNet-50", f"{_ZHAO}, depth table", "val, several scales", 42.78),
    _whole("ade20k", "PSPNet-50", _ZHAO_CODE, "val, whole images", 41.89),
    _whole("ade20k", "PSPNet-50", _ZHAO_CODE, _MS, 42.84),
    _whole("ade20k", "PSPNet-101", _ZHAO_CODE, "val, whole images", 43.10),
    _whole("ade20k", "PSPNet-101", _ZHAO_CODE, _MS, 44.15),
    _whole("voc", "PSPNet", _ZHAO, "test", 82.6),
    _whole("voc", "PSPNet, with COCO", _ZHAO, "test", 85.4),
    _whole("voc", "PSPNet-50", _ZHAO_CODE, "val, whole images", 77.05),
    _whole("voc", "PSPNet-50", _ZHAO_CODE, _MS, 78.02),
    _whole("voc", "PSPNet-101", _ZHAO_CODE, "val, whole images", 79.07),
    _whole("voc", "PSPNet-101", _ZHAO_CODE, _MS, 79.63),
    _whole("voc", "FCN with attention", _SHEN, "224 px, as claimed", 82.7),
    _whole("voc", "ENet", _MUKHERJEE, "val, resized centre crops", 27.2),
    _whole("camvid", "SegNet", "public implementation", _CAMVID, 46.3),
    _whole("camvid", "SegNet", "another public implementation", _CAMVID, 49.4),
    _whole("camvid", "ENet", "public implementation, 300 epochs", _CAMVID, 52.1),
)


def published_beside(names: Sequence[str], runs: Sequence[RunReview]) -> HtmlTable | None:
    """The papers' tables beside ours, for the data set of the first run; None if there are none."""
    first = runs[0]
    ours = [k for k, run in enumerate(runs) if run.dataset == first.dataset]
    theirs = published(first.dataset, list(first.table.get("sites", {})))
    if not theirs:
        return None
    conditions = list(dict.fromkeys(name for p in theirs for name in p.conditions))

    def their_row(p: Published) -> tuple[str, ...]:
        scores = [number(p.conditions.get(name)) for name in conditions]
        return (p.system, *scores, number(p.miou), f"{p.source}; {p.protocol}")

    def our_row(k: int) -> tuple[str, ...]:
        run, table = runs[k], runs[k].table
        entries = table["conditions"]
        scores = [number(entries[name]["mIoU"] if name in entries else None) for name in conditions]
        of_all = table["mIoU_mean_conditions"] if conditions else table["mIoU"]
        split = run.config.get("data", {}).get("val_split", "unknown split")
        trained = ", ".join(run.trained_on) or "all conditions"
        where = ", ".join(table.get("sites", {}))
        protocol = f"this run; {split}, {table['num_images']} images, {where}, trained on {trained}"
        return (names[k], *scores, number(of_all), protocol)

    header = ("system", *conditions, "mean" if conditions else "mIoU", "source and protocol")
    return HtmlTable(header, [*map(our_row, ours), *map(their_row, theirs)], strong=range(len(ours)))
