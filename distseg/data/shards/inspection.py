"""Looks at a packed data set: is it as it was packed (`verify`), what is in it (`inspect`, `contact_sheet`)?

Memory is bounded: shards are streamed, and single samples are read by ranges.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from distseg import storage
from distseg.config import MAX_MEGAPIXELS
from distseg.data import LabelSpace, images
from distseg.data.shards.formats import IndexEntry, Shard, SizeRange
from distseg.data.shards.manifest import Index, Manifest, SampleFiles, load_manifest, read_index, read_sample
from distseg.errors import DataError, StorageError

_CHUNK_BYTES = 1 << 20
_NUM_THREADS = 4  # hashing and reading release the GIL
_NEARLY_ALL = 0.98  # of the labelled pixels
_ARE_IDS_RIGHT = "are the ids in the label maps those of the classes?"


def verify(uri: str, *, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Compares every shard and index with the manifest. Returns one line for each problem, none if all is as packed."""
    try:
        manifest = load_manifest(uri)
    except DataError as error:
        return [str(error)]
    problems: list[str] = []
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for number, found in enumerate(pool.map(lambda shard: _check_shard(manifest, shard), manifest.shards), 1):
            problems += found
            if progress:
                progress(number, len(manifest.shards))
    return problems + list(_strangers(manifest))


def _check_shard(manifest: Manifest, shard: Shard) -> list[str]:
    try:
        index = read_index(manifest, shard)
    except (DataError, StorageError) as error:
        return [f"{shard.name}: its index cannot be used: {error}", *_check_tar(manifest, shard, None)]
    return _check_tar(manifest, shard, index)


def _check_tar(manifest: Manifest, shard: Shard, index: Index | None) -> list[str]:
    try:
        num_bytes, sha256 = size_and_sha256(storage.join(manifest.uri, shard.name))
    except StorageError as error:
        return [f"{shard.name}: cannot be read: {error}"]
    if num_bytes == shard.num_bytes and sha256 == shard.sha256:
        return []
    if num_bytes != shard.num_bytes:
        problem = (
            f"{'truncated' if num_bytes < shard.num_bytes else 'too long'}, {num_bytes} of {shard.num_bytes} bytes"
        )
    else:
        problem = "changed since it was packed (SHA-256 differs)"
    return [f"{shard.name}: {problem}{_damaged_keys(manifest, shard, index)}"]


def _damaged_keys(manifest: Manifest, shard: Shard, index: Index | None) -> str:
    keys = []
    for entry in index.entries if index else ():
        try:
            read_sample(manifest, shard, entry)
        except DataError:
            keys.append(entry.key)
    more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
    return f"; damaged: {', '.join(keys[:8])}{more}" if keys else ""


def size_and_sha256(uri: str) -> tuple[int, str]:
    """Of a file, read in chunks."""
    digest = hashlib.sha256()
    num_bytes = 0
    with storage.open_read(uri) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
    return num_bytes, digest.hexdigest()


def _strangers(manifest: Manifest) -> Iterator[str]:
    """Shards beside those of the manifest. Tars in other folders are none: they may be splits that nobody packed."""
    known = {name for shard in manifest.shards for name in (shard.name, shard.index_name)}
    folders = {name.rpartition("/")[0] for name in known}
    root = storage.join(manifest.uri, "")
    for entry in storage.list_files(manifest.uri):
        name = entry.uri.removeprefix(root).lstrip("/")
        is_shard = name.endswith((".tar", ".index.json")) and name.rpartition("/")[0] in folders
        if is_shard and name not in known:
            yield f"{name}: is not in the manifest; remove it, or pack again"


# ---- what is in it


class SummaryRow(NamedTuple):
    split: str
    condition: str
    site: str
    num_samples: int
    num_shards: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class ShardSummary:
    uri: str
    dataset: str
    digest: str
    rows: tuple[SummaryRow, ...]
    class_shares: dict[str, dict[str, float]]  # split -> class -> share of the labelled pixels
    image_sizes: dict[str, SizeRange]

    def doubts(self) -> list[str]:
        """One line for each thing that often comes of mixed-up class ids; none of them must be a fault."""
        splits = self.class_shares
        names = list(next(iter(splits.values())))
        seen = [name for name in names if any(shares[name] for shares in splits.values())]
        never = ", ".join(name for name in names if name not in seen)
        found = [f"never labelled: {never}; {_ARE_IDS_RIGHT}"] if never else []
        for split, shares in splits.items():
            if only_elsewhere := ", ".join(name for name in seen if not shares[name]):
                follows = "no network can learn them" if split == "train" else "its mIoU says nothing about them"
                found.append(f"labelled, but never in {split}: {only_elsewhere}; {follows}")
            name, share = max(shares.items(), key=lambda item: item[1])
            if share > _NEARLY_ALL and len(names) > 1:
                found.append(f"{100 * share:.1f} % of {split} is {name}; {_ARE_IDS_RIGHT}")
        return found


def inspect(uri: str) -> ShardSummary:
    """Numbers from the manifest, added up by split, condition and site."""
    manifest = load_manifest(uri)
    groups: dict[tuple[str, str, str], list[Shard]] = {}
    for shard in manifest.shards:
        groups.setdefault((shard.split, shard.condition, shard.site), []).append(shard)
    return ShardSummary(
        uri=uri,
        dataset=manifest.dataset,
        digest=manifest.digest,
        rows=tuple(
            SummaryRow(*group, sum(s.num_samples for s in shards), len(shards), sum(s.num_bytes for s in shards))
            for group, shards in groups.items()
        ),
        class_shares={split: _class_shares(manifest, split) for split in manifest.splits},
        image_sizes=manifest.image_sizes,
    )


def _class_shares(manifest: Manifest, split: str) -> dict[str, float]:
    pixels = np.sum(list(manifest.class_pixels[split].values()), axis=0)
    shares = pixels / max(1, int(pixels.sum()))
    return dict(zip(manifest.label_space.classes, shares.tolist(), strict=True))


def contact_sheet(
    uri: str, *, columns: int = 4, cell_width_px: int = 240, max_megapixels: float = MAX_MEGAPIXELS
) -> Image.Image:
    """One row for each (split, condition): its name, and `columns` photographs with their coloured labels. A legend of
    the classes follows."""
    with images.limited(max_megapixels):
        return _sheet(uri, columns, cell_width_px)


def _sheet(uri: str, columns: int, cell_width_px: int) -> Image.Image:
    manifest = load_manifest(uri)
    rows = [(split, condition) for split in manifest.splits for condition in manifest.conditions(split)]
    strips = [_strip(manifest, split, condition, columns, cell_width_px) for split, condition in rows]
    strips.append(_legend(manifest.label_space, columns * cell_width_px))
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


_CAPTION_PX = 18


def _strip(manifest: Manifest, split: str, condition: str, columns: int, cell_width_px: int) -> Image.Image:
    pairs = [
        _pair(read_sample(manifest, shard, entry), manifest.label_space, cell_width_px, f"{shard.name}/{entry.key}")
        for shard, entry in _spread(manifest, manifest.select(split, [condition]), columns)
    ]
    height = _CAPTION_PX + max(pair.height for pair in pairs)
    strip = Image.new("RGB", (columns * cell_width_px, height), "white")
    num_samples = sum(shard.num_samples for shard in manifest.select(split, [condition]))
    ImageDraw.Draw(strip).text((4, 3), f"{split} / {condition}  ({num_samples})", fill="black")
    for column, pair in enumerate(pairs):
        strip.paste(pair, (column * cell_width_px, _CAPTION_PX))
    return strip


def _legend(labels: LabelSpace, width_px: int) -> Image.Image:
    """The classes beside their colours, in as many lines as they need, and void."""
    gap_px, swatch_px = 4, 12
    legend = Image.new("RGB", (width_px, (len(labels.classes) + 1) * _CAPTION_PX), "white")
    draw = ImageDraw.Draw(legend)
    left = top = 0
    for name, colour in [*zip(labels.classes, labels.palette, strict=True), ("void", (0, 0, 0))]:
        item_px = swatch_px + 4 * gap_px + round(draw.textlength(name))
        if left and left + item_px > width_px:
            left, top = 0, top + _CAPTION_PX
        corner = left + gap_px, top + 3
        draw.rectangle((*corner, corner[0] + swatch_px - 1, corner[1] + swatch_px - 1), fill=colour, outline="grey")
        draw.text((corner[0] + swatch_px + gap_px, top + 3), name, fill="black")
        left += item_px
    return legend.crop((0, 0, width_px, top + _CAPTION_PX))


def _spread(manifest: Manifest, shards: tuple[Shard, ...], count: int) -> Iterator[tuple[Shard, IndexEntry]]:
    """Up to `count` samples, evenly spread over the shards."""
    ends = np.cumsum([shard.num_samples for shard in shards])
    total = int(ends[-1])
    for number in range(min(count, total)):
        offset = number * total // min(count, total)
        j = int(np.searchsorted(ends, offset, side="right"))
        index = read_index(manifest, shards[j])
        yield shards[j], index.entries[offset - int(ends[j]) + shards[j].num_samples]


def _pair(files: SampleFiles, labels: LabelSpace, width_px: int, source: str) -> Image.Image:
    """The photograph above its label map in the label space's colours (void black)."""
    image = images.as_rgb(images.decode(files.image, source, is_packed=True), source)
    ids = images.decode(files.label, source, is_packed=True)
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: labels.num_classes] = labels.palette
    colours = Image.fromarray(palette[np.asarray(ids)])
    height_px = max(1, round(image.height * width_px / image.width))
    pair = Image.new("RGB", (width_px, 2 * height_px))
    pair.paste(image.resize((width_px, height_px), Image.Resampling.BILINEAR), (0, 0))
    pair.paste(colours.resize((width_px, height_px), Image.Resampling.NEAREST), (0, height_px))
    return pair
