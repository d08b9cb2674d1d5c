"""TODO distseg.data."""

from distseg.data.deflate import crc32, decompress
from distseg.data.processes import Runner, in_processes
from distseg.data.sample import MEAN_RGB, STD_RGB, LabelledImage, LabelSpace, Sample
from distseg.label_maps import IGNORE_INDEX

__all__ = [
    "IGNORE_INDEX",
    "MEAN_RGB",
    "STD_RGB",
    "LabelSpace",
    "LabelledImage",
    "Runner",
    "Sample",
    "crc32",
    "decompress",
    "in_processes",
]
