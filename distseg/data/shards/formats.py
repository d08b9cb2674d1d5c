"""What manifest, index and receipt files hold, and what must be true of each value before anything uses it.

Names become the names of files: of shards below a data set's place, and in the cache of a node. So all are of an
alphabet without '.' and '/', and a shard's own name is of such names. Offsets and sizes become reads: they lie within
the shard, and a sample has at most MAX_SAMPLE_BYTES. Errors are ConfigErrors that name the field.
"""

import functools
import re
import sys
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from distseg.data import LabelSpace
from distseg.strict_json import AtLeast1, Check, Count, Line, Name, Sha256, Size, build_group, require

VERSION = 2
INDEX_FORMAT = "distseg-index"
MAX_BYTES = 1 << 30  # of a manifest: that of a million shards
MAX_SAMPLE_BYTES = 1 << 30

_TarName = Annotated[
    str,
    Check(
        re.compile(r"([A-Za-z0-9_-]{1,200}/){0,8}[A-Za-z0-9_-]{1,200}\.tar").fullmatch,
        "must be folders and a .tar, named with letters, digits, '-' and '_'",
    ),
]
_Extension = Annotated[str, Check(("jpg", "png", "label.png", "json").__contains__, "is none of a sample's files")]
_Crc = Annotated[int, Check(lambda value: 0 <= value < 2**32, "must be from 0 to 2^32 - 1")]


_same_number = functools.lru_cache(maxsize=65536)(int)  # one object per number, of which most are below 65,536


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One tar file, whose samples share split, condition and site. Each rank holds all Shards, 0.6 kB each."""

    name: _TarName  # relative to the manifest: "train/day-cambridge-00000.tar"
    split: Name
    condition: Name
    site: Name
    num_samples: AtLeast1
    num_bytes: AtLeast1
    sha256: Sha256
    index_sha256: Sha256
    class_samples: tuple[int, ...]  # for each class, how many of the samples show it

    @classmethod
    def from_json(cls, value: Any, where: str = "shards") -> "Shard":
        """For distseg.strict_json. Strings and numbers that many shards share are kept in memory once."""
        if isinstance(value, Shard):  # made while the manifest was parsed
            return value
        shard: Shard = build_group(cls, value, where)
        counts, most = shard.class_samples, shard.num_samples
        is_counted = not counts or 0 <= min(counts) <= max(counts) <= most
        require(is_counted, f"{where}.class_samples", counts, f"each must be from 0 to num_samples = {most}")
        for name in ("split", "condition", "site"):
            object.__setattr__(shard, name, sys.intern(getattr(shard, name)))
        object.__setattr__(shard, "class_samples", tuple(map(_same_number, counts)))
        return shard

    @property
    def index_name(self) -> str:
        return self.name.removesuffix(".tar") + ".index.json"


class SizeRange(NamedTuple):
    """Smallest and largest height, and smallest and largest width, of a split's images."""

    min_hw: tuple[Size, Size]
    max_hw: tuple[Size, Size]


class Member(NamedTuple):
    """One file in a shard: offset and size of its content in the tar, in bytes."""

    extension: _Extension
    offset: Count
    size: Count
    crc32: _Crc


class IndexEntry(NamedTuple):
    key: Name
    image: Member
    label: Member
    meta: Member
    class_pixels: tuple[int, ...]  # of each class (void left out)


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """manifest.json without its digest."""

    format: str
    version: int
    dataset: Line
    label_space: LabelSpace
    class_pixels: dict[Name, dict[Name, tuple[int, ...]]]
    image_sizes: dict[Name, SizeRange]
    shards: tuple[Shard, ...]

    def __post_init__(self) -> None:
        num_classes = self.label_space.num_classes
        for shard in self.shards:
            shown = f"class_samples of {shard.name}"
            require(len(shard.class_samples) == num_classes, shown, shard.class_samples, f"must be {num_classes}")
        names = {shard.name for shard in self.shards}
        require(len(names) == len(self.shards) > 0, "shards", len(self.shards), "must be some, of different names")
        for split, of_split in self.class_pixels.items():
            for condition, pixels in of_split.items():
                is_counted = len(pixels) == num_classes and min(pixels) >= 0
                require(is_counted, f"class_pixels.{split}.{condition}", pixels, f"must be {num_classes} counts")
        parts = {(shard.split, shard.condition) for shard in self.shards}
        counted = {(split, condition) for split, of_split in self.class_pixels.items() for condition in of_split}
        require(counted == parts, "class_pixels", sorted(counted ^ parts), "must be those of the shards")
        splits = {split for split, _ in parts}
        require(self.image_sizes.keys() == splits, "image_sizes", sorted(self.image_sizes), f"must be {sorted(splits)}")


@dataclass(frozen=True, kw_only=True)
class IndexFile:
    """KEY.index.json of a shard."""

    format: str
    version: int
    shard: str
    samples: tuple[IndexEntry, ...]

    def check(self, shard: Shard, num_classes: int) -> None:
        """Raises ConfigError unless it can be an index of this shard."""
        require(self.shard == shard.name, "shard", self.shard, f"must be {shard.name}")
        keys = {entry.key for entry in self.samples}
        is_whole = len(keys) == len(self.samples) == shard.num_samples
        require(is_whole, "samples", len(self.samples), f"must be {shard.num_samples} of different keys")
        for entry in self.samples:
            members = (entry.image, entry.label, entry.meta)
            start = min(member.offset for member in members)
            stop = max(member.offset + member.size for member in members)
            is_inside = stop <= shard.num_bytes and stop - start <= MAX_SAMPLE_BYTES
            require(is_inside, f"samples: {entry.key}", (start, stop), "must be a place in the shard, of at most 1 GiB")
            pixels = entry.class_pixels
            is_counted = len(pixels) == num_classes and 0 <= min(pixels) <= max(pixels) < 2**32
            require(is_counted, f"samples: class_pixels of {entry.key}", pixels, f"must be {num_classes} counts")


class ReceiptRow(NamedTuple):
    """A shard that is finished, see writer.py."""

    shard: Shard
    class_pixels: tuple[int, ...]
    sizes: SizeRange
    void_pixels: Count = 0
    sources: str = ""


def shard_or_dict(value: dict[str, Any]) -> Shard | dict[str, Any]:
    """For each object of a manifest while it is parsed, so that its rows never are in memory as dictionaries."""
    return Shard.from_json(value) if "index_sha256" in value else value
