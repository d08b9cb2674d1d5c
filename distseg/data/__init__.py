"""Data, from raw files to batches. This face has what all of it shares; the packages below are the stations.

    raw         tools for reading raw data sets: find, pair and read photographs and label maps
    datasets    one file per data set, which describes itself and lists its samples
    relabel     samples in the classes of another label space
    shards      samples -> WebDataset shards with a manifest; reading, verifying and inspecting them
    loading     shards -> batches for training, single samples for evaluation
    embedded    `town`, packed when a training first needs it

A `Sample` is one photograph with its label map, a condition ("fog"), a site ("highway") and a sequence (one drive). Its
label map is uint8 (H, W) of train ids 0 … num_classes - 1 of a `LabelSpace`, and `IGNORE_INDEX` (255) for void.
A `Runner` applies one function to many tasks: `in_processes` does so on this machine. Damaged data are a DataError that
names the file, or the shard and the key.
"""

from distseg.data.deflate import crc32, decompress
from distseg.data.processes import Progress, Runner, in_processes, num_cores
from distseg.data.sample import (
    MANIFEST_FORMAT,
    MANIFEST_NAME,
    MAX_KEY_LENGTH,
    MEAN_RGB,
    NO_SEQUENCE,
    RECEIPTS,
    STD_RGB,
    LabelledImage,
    LabelSpace,
    Sample,
)
from distseg.label_maps import IGNORE_INDEX

__all__ = [
    "IGNORE_INDEX",
    "MANIFEST_FORMAT",
    "MANIFEST_NAME",
    "MAX_KEY_LENGTH",
    "MEAN_RGB",
    "NO_SEQUENCE",
    "RECEIPTS",
    "STD_RGB",
    "LabelSpace",
    "LabelledImage",
    "Progress",
    "Runner",
    "Sample",
    "crc32",
    "decompress",
    "in_processes",
    "num_cores",
]
