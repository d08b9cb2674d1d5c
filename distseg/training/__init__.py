"""TODO distseg.training."""

from distseg.training.fit import check, fit
from distseg.training.loop import Report
from distseg.training.restyling import (
    Place,
    Restyling,
    chosen,
    image_of,
    originals,
    restyle,
    restyled_samples,
    style_place,
)
from distseg.training.segmenter import Segmenter, _load_pyfunc, check_classes, load_model, load_segmenter
from distseg.training.style import TowardsSource, check_style, fit_style, load_network

__all__ = [
    "Place",
    "Report",
    "Restyling",
    "Segmenter",
    "TowardsSource",
    "_load_pyfunc",
    "check",
    "check_classes",
    "check_style",
    "chosen",
    "fit",
    "fit_style",
    "image_of",
    "load_model",
    "load_network",
    "load_segmenter",
    "originals",
    "restyle",
    "restyled_samples",
    "style_place",
]
