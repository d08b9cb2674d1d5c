"""The files beside the shards, their formats and how they are read: one manifest, and one index for each shard.

    <uri>/manifest.json                          written last: without it there is no data set
    <uri>/<split>/<condition>-<site>-00000.tar   plain USTAR WebDataset: KEY.jpg|png, KEY.label.png, KEY.json
    <uri>/<split>/….index.json                   the place of each member in its shard, and its CRC-32

Everything that is read is checked: the manifest by its own digest, each index by the SHA-256 in the manifest, each
member by the CRC-32 in the index. Label maps in shards hold train ids (0 … num_classes - 1, void 255).
"""

import dataclasses
import hashlib
import json
import operator
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from distseg import storage, strict_json
from distseg.data import MANIFEST_FORMAT, MANIFEST_NAME, LabelSpace, crc32
from distseg.data.shards.formats import (
    INDEX_FORMAT,
    MAX_BYTES,
    VERSION,
    IndexEntry,
    IndexFile,
    ManifestFile,
    Member,
    Shard,
    SizeRange,
    shard_or_dict,
)
from distseg.errors import ConfigError, DataError


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

    def __init__(self, rows: Sequence[IndexEntry]) -> None:
        members = [(row.image, row.label, row.meta) for row in rows]
        self.keys: tuple[str, ...] = tuple(row.key for row in rows)
        self.class_pixels_NK: npt.NDArray[np.uint32] = np.array([row.class_pixels for row in rows], dtype=np.uint32)
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
    data = storage.read_bytes(manifest_uri, length=MAX_BYTES + 1, deadline_s=deadline_s)
    body = _parse(data, manifest_uri, MANIFEST_FORMAT)
    digest = body.pop("digest", None)
    shards = body.get("shards")
    is_whole = isinstance(shards, list) and all(isinstance(shard, Shard) for shard in shards)
    if not is_whole or digest != _digest(body):
        raise DataError(f"{manifest_uri}: edited or damaged (its digest does not fit); pack the data set again")
    try:
        file: ManifestFile = strict_json.build(ManifestFile, body, "")
    except ConfigError as error:
        raise DataError(f"{manifest_uri}: malformed ({error}); pack the data set again") from None
    return Manifest(
        uri=uri,
        dataset=file.dataset,
        label_space=file.label_space,
        shards=file.shards,
        class_pixels=file.class_pixels,
        image_sizes=file.image_sizes,
        digest=digest,
    )


def read_index(manifest: Manifest, shard: Shard, *, deadline_s: float = storage.DEADLINE_S) -> Index:
    """The index of a shard. Raises DataError naming the shard if it is not the one that was packed."""
    index_uri = storage.join(manifest.uri, shard.index_name)
    data = storage.read_bytes(index_uri, length=strict_json.MAX_BYTES + 1, deadline_s=deadline_s)
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise DataError(f"{index_uri}: the index is not the one packed for {shard.name}; pack the data set again")
    try:
        file: IndexFile = strict_json.build(IndexFile, _parse(data, index_uri, INDEX_FORMAT), "")
        file.check(shard, manifest.label_space.num_classes)
    except ConfigError as error:
        raise DataError(f"{index_uri}: malformed ({error}); pack the data set again") from None
    return Index(Entries(file.samples))


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


def index_json(shard_name: str, entries: Sequence[IndexEntry]) -> bytes:
    """The index file of a shard; `read_index` reads it."""
    rows = [entry._asdict() for entry in entries]
    return _canonical({"format": INDEX_FORMAT, "version": VERSION, "shard": shard_name, "samples": rows})


def seal(manifest: Manifest) -> tuple[Manifest, bytes]:
    """The manifest with its digest, and its file; `load_manifest` reads it."""
    body = {
        "format": MANIFEST_FORMAT,
        "version": VERSION,
        "dataset": manifest.dataset,
        "label_space": manifest.label_space.as_json(),
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


def _row_of(shard: Shard) -> dict[str, Any]:
    return dict(zip(_SHARD_FIELDS, _shard_values(shard), strict=True))


_SHARD_FIELDS = tuple(each.name for each in dataclasses.fields(Shard))
_shard_values = operator.attrgetter(*_SHARD_FIELDS)


def _parse(data: bytes, uri: str, expected_format: str) -> dict[str, Any]:
    try:
        body = strict_json.loads(data, max_bytes=MAX_BYTES, hook=shard_or_dict)
    except ValueError as error:
        raise DataError(f"{uri}: not JSON ({error}); pack the data set again") from None
    except ConfigError as error:
        raise DataError(f"{uri}: edited or damaged ({error}); pack the data set again") from None
    if not isinstance(body, dict) or body.get("format") != expected_format:
        raise DataError(f"{uri}: not written by distseg.pack (no format {expected_format!r}); pack the data set again")
    if body.get("version") != VERSION:
        version = str(body.get("version"))[:20]
        raise DataError(f"{uri}: format version {version}, this distseg reads {VERSION}; pack it again")
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
