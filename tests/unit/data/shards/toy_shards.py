"""Small packed data sets."""

from pathlib import Path
from typing import Any

from distseg.data.shards import (
    Manifest,
    pack,
)
from tests.toy_data import LABELS, toy_samples

GROUPS = [("day", "town"), ("night", "town"), ("day", "coast")]


def pack_toy(out: Path | str, **options: Any) -> Manifest:
    samples = {"train": toy_samples(30, "train", GROUPS), "val": toy_samples(7, "val")}
    return pack(samples, LABELS, str(out), dataset="toy", **{"max_samples_per_shard": 4, **options})


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
