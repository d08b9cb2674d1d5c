"""Which files a raw data set has: what a folder holds, and photographs paired with their label maps.

Nothing is left out in silence: a photograph without a label map, a label map without a photograph and a file that
cannot be packed are DataErrors that name it. Only files that operating systems leave behind are passed over (.DS_Store,
._x, Thumbs.db, __MACOSX). Some systems write letters with accents in composed form, some in decomposed form: names are
compared, and keys are made, in composed form (Unicode's NFC).
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from distseg import storage
from distseg.errors import DataError

_LEFT_BEHIND = re.compile(  # as any part of a path
    r"\..*|__MACOSX|Thumbs\.db|desktop\.ini|@eaDir|\$RECYCLE\.BIN|System Volume Information", re.IGNORECASE
)


class Files(NamedTuple):
    """The files below `folder` whose names end in one of `endings`, in upper or lower case."""

    folder: str
    endings: tuple[str, ...]
    refused: tuple[str, ...] = ()  # endings of files that are an error; files with other endings are passed over
    remedy: str = ""  # what the error tells the user to do


class Pair(NamedTuple):
    name: str  # the path below the photographs' folder, without the ending: "aachen/aachen_000000_000019"
    image: str  # uri
    label: str  # uri

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2]


def find(root: str, files: Files, layout: str) -> dict[str, str]:
    """{path below the folder, without the ending: uri}, sorted. `layout`, for the error: what should be there."""
    folder = storage.join(root, files.folder)
    names = names_in(folder)
    if not names:
        raise DataError(f"{folder}: no such folder, or an empty one; {layout}")
    found = _by_stem(folder, names, files)
    if not found:
        raise DataError(f"{folder}: no file in it ends in {' or '.join(files.endings)}; {layout}")
    return found


def pairs(root: str, images: Files, labels: Files, layout: str, *, labels_root: str = "") -> list[Pair]:
    """Each photograph with the annotation of the same name. Raises DataError if either is missing.

    `labels_root`: the annotations' root, if not `root`.
    """
    image_uris = find(root, images, layout)
    folder = storage.join(labels_root or root, labels.folder)
    label_uris = _by_stem(folder, names_in(folder), labels)
    for name, image in image_uris.items():
        if name not in label_uris:
            why = "" if label_uris else f", as is every other of its folder; {layout}"
            raise DataError(f"{image}: its annotation {folder}/{name}{labels.endings[0]} is missing{why}")
    for name, label in label_uris.items():
        if name not in image_uris:
            expected = storage.join(root, images.folder, name + " or ".join(images.endings))
            raise DataError(f"{label}: its photograph {expected} is missing; remove the annotation if that is meant")
    return [Pair(name, image, label_uris[name]) for name, image in image_uris.items()]


def folders(uri: str) -> list[str]:
    """The names of the folders directly in a folder, sorted."""
    return [name for name in storage.list_folders(uri) if not _LEFT_BEHIND.fullmatch(name)]


def is_left_behind(name: str) -> bool:
    """Is the file one that an operating system left behind, or in a folder of such files? `name`: its path."""
    return any(_LEFT_BEHIND.fullmatch(part) for part in name.split("/"))


def names_in(folder: str) -> list[str]:
    """The paths of the files below a folder, sorted, without what operating systems left behind."""
    names = [entry.uri.removeprefix(f"{folder}/") for entry in storage.list_files(folder)]
    return [name for name in names if not is_left_behind(name)]


def _by_stem(folder: str, names: list[str], files: Files) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        if name.lower().endswith(files.refused):
            raise DataError(f"{folder}/{name}: cannot be packed; {files.remedy}")
        ending = next((ending for ending in files.endings if name.lower().endswith(ending.lower())), "")
        stem = unicodedata.normalize("NFC", name[: -len(ending)])
        if ending and stem in found:
            raise DataError(f"{folder}/{name}: {found[stem]} has the same name; remove one of them")
        if ending:
            found[stem] = f"{folder}/{name}"
    return found


def places(root: str, candidates: tuple[str, ...]) -> Iterator[str]:
    """`root`, then `candidates` below it."""
    yield root
    yield from (storage.join(root, candidate) for candidate in candidates)


def place(root: str, folder: str, candidates: tuple[str, ...]) -> str | None:
    """The first of `root` and `candidates` below it that contains `folder`, a name or a path; None if none does."""
    above, _, name = folder.rpartition("/")
    found = (here for here in places(root, candidates) if name in storage.list_folders(storage.join(here, above)))
    return next(found, None)


def home(root: str, folder: str, candidates: tuple[str, ...], layout: str) -> str:
    """As `place`, but raises DataError if there is none."""
    found = place(root, folder, candidates)
    if found is None:
        raise DataError(f"{root}: no {folder}/ here or in {', '.join(candidates)}; {layout}")
    return found
