"""Shards that others wrote with plain webdataset: tars of KEY.jpg (or .png) and KEY.label.png, and no manifest.

    train/000000.tar  val/000000.tar     or train-000000.tar, city-val-000000.tar: folder or name say the split
    classes.json                         as for `folder`: which ids, or colours, are which classes

Label maps may also end in seg.png, mask.png and the like, or as --label says. Where a KEY.json has strings "condition",
"site" and "sequence", these are the sample's.

With --out the samples are copied into new shards. Without it, nothing is copied: an index beside each tar and the
manifest are all that is written, below --root. That needs tars as `pack` would write them: of one condition and site
each, photographs that are JPEG or 8-bit RGB PNG and upright, label maps of 8-bit grey with 0, 1, 2 … for the classes
and 255 for void, and names of letters, digits, '-' and '_'.
"""

import functools
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distseg import storage
from distseg.data import MANIFEST_FORMAT, MANIFEST_NAME, RECEIPTS, LabelledImage, LabelSpace, Sample, raw
from distseg.data.datasets import DataSet, folder
from distseg.errors import DataError

_log = logging.getLogger(__name__)

_SPLIT_WORDS = ("train", "training", "val", "valid", "validation", "test", "testing")
_COMPRESSED = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4", ".tgz", ".tbz2", ".txz")
_LAYOUT = "the root has tars in train/ and val/, or train-000000.tar and val-000000.tar, and classes.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    label: str = ""
    """What the names of label maps end in, such as seg.png; by default any of the usual endings."""


_DEFAULTS = Options()


def tars(root: str) -> dict[str, list[str]]:
    """The URIs of the tars of each split. Raises DataError if there is none, or one that is compressed.

    A data set that was packed into a folder below the root, to its end or not, is left out, which is said.
    """
    found: dict[str, list[str]] = {}
    entries = {entry.uri.removeprefix(root.rstrip("/") + "/"): entry for entry in storage.list_files(root)}
    packed = _packed_below(root, list(entries))
    for folder_name in packed:
        _log.warning("%s: %s was packed by distseg, and is left out", root, folder_name)
    for name, entry in entries.items():
        if raw.is_left_behind(name) or name.startswith(packed):
            continue
        if name.lower().endswith(_COMPRESSED):
            raise DataError(f"{entry.uri}: compressed, so that no sample of it can be read by itself; decompress it")
        if name.lower().endswith(".tar"):
            found.setdefault(_split_of(name, entry.uri), []).append(entry.uri)
    if not found:
        raise DataError(f"{root}: no file in it ends in .tar; {_LAYOUT}")
    usual = [split for split in ("train", "val", "test") if split in found]
    return {split: found[split] for split in (*usual, *sorted(found.keys() - set(usual)))}


def _packed_below(root: str, names: Sequence[str]) -> tuple[str, ...]:
    """The folders of packed data sets, each with a slash at its end."""
    found: dict[str, None] = {}
    for name in names:
        above, _, file = name.rpartition("/")
        if above.rpartition("/")[2] == RECEIPTS:
            found[above.removesuffix(RECEIPTS)] = None
        elif above and file == MANIFEST_NAME and _is_manifest(storage.join(root, name)):
            found[f"{above}/"] = None
    return tuple(each for each in found if each)


def _is_manifest(uri: str) -> bool:
    """Others have files of that name, too."""
    try:
        content = json.loads(storage.read_bytes(uri))
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("format") == MANIFEST_FORMAT


def _split_of(name: str, uri: str) -> str:
    """What the first folder or word says, unless another word is a split's: city-val-000000.tar is of val."""
    above, _, file = name.partition("/")
    words = re.findall(r"[A-Za-z]+", name.removesuffix(".tar"))
    first = above if file else words[0] if words else "all"
    if first.lower() in _SPLIT_WORDS:
        return first
    said = list(dict.fromkeys(word for word in words if word.lower() in _SPLIT_WORDS))
    if len(said) > 1:
        raise DataError(f"{uri}: is it of {' or of '.join(said)}? Put the tars into a folder for each split")
    return said[0] if said else first


def splits(root: str, options: Options = _DEFAULTS) -> tuple[str, ...]:
    return tuple(tars(root))


def labels(root: str) -> LabelSpace:
    return folder.labels(root)


def samples(root: str, split: str, options: Options = _DEFAULTS) -> Iterator[Sample]:
    """In the order of the tars."""
    space, colours = folder.read_classes(storage.join(root, "classes.json"))
    of_split = tars(root)
    if split not in of_split:
        raise DataError(f"{root}: no split {split!r}; its tars are of {', '.join(of_split)}")
    found = [(uri, sample) for uri in of_split[split] for sample in raw.tar_samples(uri, options.label)]
    times = Counter(raw.plain_key(sample.key) for _, sample in found)
    for uri, sample in found:
        key = raw.plain_key(sample.key)
        if times[key] > 1:  # numbered anew in each tar
            below = uri.removeprefix(root.rstrip("/") + "/").removeprefix(f"{split}/").removesuffix(".tar")
            key = raw.plain_key(f"{below.replace('/', '-')}-{key}")
        source = f"{uri.removeprefix(root.rstrip('/') + '/')}/{sample.image.name}"
        yield Sample(
            key=key,
            condition=raw.plain_key(sample.said.get("condition") or "all"),
            site=raw.plain_key(sample.said.get("site") or "all"),
            sequence=sample.said.get("sequence", "all"),
            split=split,
            source=source,
            load=functools.partial(load, uri, sample.image, sample.label, space, colours),
            files=(uri,),
        )


def load(uri: str, image: raw.Place, label: raw.Place, labels: LabelSpace, colours: raw.Colours) -> LabelledImage:
    photograph = raw.read_photograph(storage.read_bytes(uri, image.offset, image.size), f"{uri}/{image.name}")
    label_source = f"{uri}/{label.name}"
    ids_HW = raw.ids_of(storage.read_bytes(uri, label.offset, label.size), label_source, colours)
    return raw.labelled(photograph, ids_HW, labels, label_source)


DATASET = DataSet(
    name="webdataset",
    layout=__doc__,
    labels=labels,
    samples=samples,
    options=Options,
    splits=splits,
    splits_help="Those to pack; by default all that the tars' folders or names say.",
    conditions=(),
    is_named_by_labels=True,
    tars=tars,
)
