"""The files beside the shards, their formats and how they are read: one manifest, and one index for each shard.

    <uri>/manifest.json                          written last: without it there is no data set
    <uri>/<split>/<condition>-<site>-00000.tar   plain USTAR WebDataset: KEY.jpg|png, KEY.label.png, KEY.json
    <uri>/<split>/….index.json                   the place of each member in its shard, and its CRC-32

Everything that is read is checked: the manifest by its own digest, each index by the SHA-256 in the manifest, each
member by the CRC-32 in the index. Label maps in shards hold train ids (0 … num_classes - 1, void 255).
"""

import dataclasses
import functools
import hashlib
import json
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from distseg import storage
from distseg.data import LabelSpace, crc32
from distseg.errors import DataError

MANIFEST_NAME = "manifest.json"
VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One tar file, whose samples share split, condition and site. Each rank holds all Shards, 0.6 kB each."""

    name: str  # relative to the manifest: "train/day-cambridge-00000.tar"
    split: str
    condition: str
    site: str
    num_samples: int
    num_bytes: int
    sha256: str
    index_sha256: str
    class_samples: tuple[int, ...]  # for each class, how many of the samples show it

    @property
    def index_name(self) -> str:
        return self.name.removesuffix(".tar") + ".index.json"


class SizeRange(NamedTuple):
    """Smallest and largest height, and smallest and largest width, of a split's images."""

    min_hw: tuple[int, int]
    max_hw: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    uri: str
    dataset: str
    label_space: LabelSpace
    shards: tuple[Shard, ...]
    class_pixels: dict[str, dict[str, tuple[int, ...]]]  # split -> condition -> pixels of each class (void left out)
    image_sizes: dict[str, SizeRange]  # by split
    digest: str  # of all fields above except the uri: equal data sets have equal digests, wherever they are
    void_pixels: dict[str, int] = field(default_factory=dict, compare=False)  # by split, where `pack` has just counted

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(shard.split for shard in self.shards))

    def conditions(self, split: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(shard.condition for shard in self._of_split(split)))

    def select(self, split: str, conditions: Sequence[str] = ()) -> tuple[Shard, ...]:
        """The shards of a split, in the manifest's order; only those of `conditions`, if any are named."""
        shards = self._of_split(split)
        for condition in conditions:
            if condition not in self.conditions(split):
                known = ", ".join(self.conditions(split))
                raise DataError(f"{self.uri}: no condition {condition!r} in split {split!r}; it has {known}")
        return tuple(shard for shard in shards if not conditions or shard.condition in conditions)

    def _of_split(self, split: str) -> tuple[Shard, ...]:
        if split not in self.splits:
            raise DataError(f"{self.uri}: no split {split!r}; it has {', '.join(self.splits)}")
        return tuple(shard for shard in self.shards if shard.split == split)


class Member(NamedTuple):
    """One file in a shard: offset and size of its content in the tar, in bytes."""

    extension: str
    offset: int
    size: int
    crc32: int


class IndexEntry(NamedTuple):
    key: str
    image: Member
    label: Member
    meta: Member
    class_pixels: tuple[int, ...]  # of each class (void left out)


class SampleFiles(NamedTuple):
    """The content of the members of one sample, as packed."""

    image: bytes
    label: bytes
    meta: bytes


class SampleViews(NamedTuple):
    """As `SampleFiles`, without copying: views of the one range that was read."""

    image: memoryview
    label: memoryview
    meta: memoryview


class Entries:
    """A sequence of IndexEntry in a fifth of their memory, since a rank holds many; each is made on demand."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        members = [[row[part] for part in _PARTS] for row in rows]
        self.keys: tuple[str, ...] = tuple(row["key"] for row in rows)
        self.class_pixels_NK: npt.NDArray[np.uint32] = np.array([row["class_pixels"] for row in rows], dtype=np.uint32)
        self._extensions = [tuple(sys.intern(extension) for extension, *_ in parts) for parts in members]
        self._places_N9 = np.array([[n for _, *place in parts for n in place] for parts in members], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> IndexEntry:
        image, label, meta = self._extensions[i]
        at = self._places_N9[i].tolist()  # written out, not a loop: this runs for each sample
        return IndexEntry(
            self.keys[i],
            Member(image, at[0], at[1], at[2]),
            Member(label, at[3], at[4], at[5]),
            Member(meta, at[6], at[7], at[8]),
            tuple(self.class_pixels_NK[i].tolist()),
        )

    def __iter__(self) -> Iterator[IndexEntry]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True)
class Index:
    """The places of a shard's samples, in the order of the shard."""

    entries: Entries

    @property
    def keys(self) -> tuple[str, ...]:
        return self.entries.keys


def load_manifest(uri: str, *, deadline_s: float = storage.DEADLINE_S) -> Manifest:
    """The manifest of a packed data set. Raises DataError if there is none, or it is damaged or of another version."""
    manifest_uri = storage.join(uri, MANIFEST_NAME)
    if not storage.exists(manifest_uri, deadline_s=deadline_s):
        raise DataError(f"no {MANIFEST_NAME} under {uri}: pack it first with python -m distseg.pack")
    data = storage.read_bytes(manifest_uri, deadline_s=deadline_s)
    try:
        body = _parse(data, manifest_uri, "distseg-shards", _shard_or_dict)
        digest = body.pop("digest", None)
        if digest != _digest(body):
            raise DataError(f"{manifest_uri}: edited or damaged (its digest does not fit); pack the data set again")
        return _manifest_from(uri, body, digest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{manifest_uri}: malformed ({error!r}); pack the data set again") from error


def read_index(manifest: Manifest, shard: Shard, *, deadline_s: float = storage.DEADLINE_S) -> Index:
    """The index of a shard. Raises DataError naming the shard if it is not the one that was packed."""
    index_uri = storage.join(manifest.uri, shard.index_name)
    data = storage.read_bytes(index_uri, deadline_s=deadline_s)
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise DataError(f"{index_uri}: the index is not the one packed for {shard.name}; pack the data set again")
    rows = _parse(data, index_uri, "distseg-index")["samples"]
    return Index(Entries(rows))


class ReadRange(Protocol):
    def __call__(self, uri: str, start: int, length: int, *, deadline_s: float) -> bytes: ...


def read_sample(
    manifest: Manifest, shard: Shard, entry: IndexEntry, *, deadline_s: float = storage.DEADLINE_S
) -> SampleFiles:
    """The files of one sample, by one read. Raises DataError naming shard and key if they are not as packed."""
    return SampleFiles(*map(bytes, view_sample(manifest, shard, entry, deadline_s=deadline_s)))


def view_sample(
    manifest: Manifest,
    shard: Shard,
    entry: IndexEntry,
    *,
    deadline_s: float = storage.DEADLINE_S,
    read: ReadRange | None = None,
) -> SampleViews:
    """Zero-copy `read_sample`. `read` reads a range of a file, by default `storage.read_bytes`."""
    members = image, label, meta = entry.image, entry.label, entry.meta
    start = min(image.offset, label.offset, meta.offset)
    stop = max(image.offset + image.size, label.offset + label.size, meta.offset + meta.size)
    read = read or storage.read_bytes
    data = memoryview(read(storage.join(manifest.uri, shard.name), start, stop - start, deadline_s=deadline_s))
    if len(data) < stop - start:
        raise DataError(f"{shard.name}: truncated before the end of sample {entry.key}")
    views = SampleViews(*[data[member.offset - start : member.offset - start + member.size] for member in members])
    for member, view in zip(members, views, strict=True):
        if crc32(view) != member.crc32:
            raise DataError(f"{shard.name}: {entry.key}.{member.extension} is not as packed (its CRC differs)")
    return views


_PARTS = SampleFiles._fields


def index_json(shard_name: str, entries: Sequence[IndexEntry]) -> bytes:
    """The index file of a shard; `read_index` reads it."""
    rows = [entry._asdict() for entry in entries]
    return _canonical({"format": "distseg-index", "version": VERSION, "shard": shard_name, "samples": rows})


def seal(manifest: Manifest) -> tuple[Manifest, bytes]:
    """The manifest with its digest, and its file; `load_manifest` reads it."""
    labels = manifest.label_space
    body = {
        "format": "distseg-shards",
        "version": VERSION,
        "dataset": manifest.dataset,
        "label_space": {"name": labels.name, "classes": labels.classes, "palette": labels.palette},
        "class_pixels": manifest.class_pixels,
        "image_sizes": {split: sizes._asdict() for split, sizes in manifest.image_sizes.items()},
        "shards": manifest.shards,
    }
    digest = _digest(body)
    rows = [_row_of(shard) for shard in manifest.shards]
    text = json.dumps({**body, "shards": rows, "digest": digest}, indent=1, ensure_ascii=False)
    return dataclasses.replace(manifest, digest=digest), text.encode() + b"\n"


def combined_digest(manifests: Sequence[Manifest]) -> str:
    """The digest of a mixture of data sets, in this order; of a single one, its own digest."""
    if len(manifests) == 1:
        return manifests[0].digest
    return hashlib.sha256(" ".join(manifest.digest for manifest in manifests).encode()).hexdigest()


def shard_from(row: dict[str, Any]) -> Shard:
    """A Shard from JSON. Strings and numbers that many shards share are kept in memory once."""
    shared = {name: sys.intern(row[name]) for name in ("split", "condition", "site")}
    return Shard(**{**row, **shared, "class_samples": tuple(map(_same_number, row["class_samples"]))})


_same_number = functools.lru_cache(maxsize=65536)(int)  # one object per number, of which most are below 65,536


def _shard_or_dict(value: dict[str, Any]) -> Shard | dict[str, Any]:
    return shard_from(value) if "index_sha256" in value else value


def _row_of(shard: Shard) -> dict[str, Any]:
    return dict(zip(_SHARD_FIELDS, _shard_values(shard), strict=True))


_SHARD_FIELDS = tuple(each.name for each in dataclasses.fields(Shard))
_shard_values = operator.attrgetter(*_SHARD_FIELDS)


def _manifest_from(uri: str, body: dict[str, Any], digest: str) -> Manifest:
    labels = body["label_space"]
    palette = tuple((int(r), int(g), int(b)) for r, g, b in labels["palette"])
    return Manifest(
        uri=uri,
        dataset=body["dataset"],
        label_space=LabelSpace(name=labels["name"], classes=tuple(labels["classes"]), palette=palette),
        shards=tuple(body["shards"]),
        class_pixels={
            split: {condition: tuple(pixels) for condition, pixels in of_split.items()}
            for split, of_split in body["class_pixels"].items()
        },
        image_sizes={
            split: SizeRange(tuple(sizes["min_hw"]), tuple(sizes["max_hw"]))
            for split, sizes in body["image_sizes"].items()
        },
        digest=digest,
    )


def _parse(
    data: bytes, uri: str, expected_format: str, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> dict[str, Any]:
    try:
        body = json.loads(data, object_hook=object_hook)
    except ValueError as error:
        raise DataError(f"{uri}: not JSON ({error}); pack the data set again") from error
    if not isinstance(body, dict) or body.get("format") != expected_format:
        raise DataError(f"{uri}: not written by distseg.pack (no format {expected_format!r}); pack the data set again")
    if body.get("version") != VERSION:
        raise DataError(f"{uri}: format version {body.get('version')!r}, this distseg reads {VERSION}; pack it again")
    return body


def _digest(body: dict[str, Any]) -> str:
    """SHA-256 of the body's canonical JSON. The JSON of its shards is made one shard at a time, to save memory."""
    before, after = _canonical({**body, "shards": []}).rsplit(b"[]", 1)
    digest = hashlib.sha256(before + b"[")
    for i, shard in enumerate(body["shards"]):
        digest.update(b"," * (i > 0) + _canonical(_row_of(shard)))
    digest.update(b"]" + after)
    return digest.hexdigest()


_to_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _canonical(body: dict[str, Any]) -> bytes:
    return _to_json(body).encode()
