"""What every data set is turned into: samples with a condition and a site, in a label space.

A `Sample` is cheap: it says where its files are. Its `load` reads and decodes them, perhaps in another process.
Label maps are uint8 (H, W) arrays of *train ids*: 0 … num_classes - 1, and `IGNORE_INDEX` (255) for void.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from distseg.errors import DataError
from distseg.label_maps import IGNORE_INDEX
from distseg.strict_json import Check, Line, build_group, require

# ImageNet's channel statistics on a 0–255 scale, which torchvision's weights expect.
MEAN_RGB = (123.675, 116.28, 103.53)
STD_RGB = (58.395, 57.12, 57.375)
NO_SEQUENCE = ("", "all", "rand-cityscapes")  # as `Sample.sequence`: no drive is known, or there was none
MANIFEST_NAME, MANIFEST_FORMAT = "manifest.json", "distseg-shards"  # the file that tells a packed data set
RECEIPTS = ".packing"  # the folder that tells one that is being packed, or was not finished
MAX_KEY_LENGTH = 90  # a USTAR name has 100 bytes, ".label.png" takes 10


class LabelledImage(NamedTuple):
    """The content of one sample, ready to be written to a shard."""

    image: bytes  # an encoded 8-bit RGB image, as it will stand in the shard
    image_format: Literal["jpg", "png"]
    label_HW: npt.NDArray[np.uint8]  # train ids, 255 = void


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled photograph. `load` must be picklable (a `functools.partial` of a module's function)."""

    key: str  # unique in its split; letters, digits, '-' and '_', MAX_KEY_LENGTH at most, since it names tar members
    condition: str
    site: str
    sequence: str  # the drive that it is a frame of; or one of NO_SEQUENCE
    split: str
    source: str  # where the image came from, relative to the data set's root
    load: Callable[[], LabelledImage] = field(repr=False, compare=False)
    files: tuple[str, ...] = field(default=(), repr=False, compare=False)  # URIs of what it reads: were they changed?


@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """Class names in train-id order, their colours, and how a data set's raw ids map to train ids."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    id_map: dict[int, int] = field(default_factory=dict)  # raw id -> train id or 255; empty: ids are train ids
    remedy: str = field(default="", compare=False, repr=False)  # what a user does about an id that is not known

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.palette):
            raise ValueError(f"label space {self.name}: {len(self.classes)} classes, {len(self.palette)} colours")

    @classmethod
    def from_json(cls, value: Any, where: str = "label_space") -> "LabelSpace":
        """What a manifest or a checkpoint holds of it, for distseg.strict_json. Raises ConfigError naming the field."""
        found: _LabelSpaceJson = build_group(_LabelSpaceJson, value, where)
        classes, palette = found.classes, found.palette
        require(1 <= len(classes) <= IGNORE_INDEX, f"{where}.classes", classes, f"must be 1 to {IGNORE_INDEX} names")
        require(len(set(classes)) == len(classes), f"{where}.classes", classes, "each class needs a name of its own")
        require(len(palette) == len(classes), f"{where}.palette", palette, f"must be {len(classes)} colours")
        return cls(name=found.name, classes=classes, palette=palette)

    def as_json(self) -> dict[str, Any]:
        """The inverse of `from_json`; the map of raw ids is left out, since nothing holds raw ids any more."""
        return {"name": self.name, "classes": list(self.classes), "palette": [list(colour) for colour in self.palette]}

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to_train_ids(self, raw_HW: npt.NDArray[np.integer[Any]], source: str) -> npt.NDArray[np.uint8]:
        """Raw ids (H, W) -> train ids uint8 (H, W). Raises DataError with file and ids for an id outside the map."""
        id_map = self.id_map or {**{i: i for i in range(self.num_classes)}, IGNORE_INDEX: IGNORE_INDEX}
        table = np.full(max(256, max(id_map) + 1), -1, dtype=np.int16)
        for raw_id, train_id in id_map.items():
            table[raw_id] = train_id
        if raw_HW.size and (int(raw_HW.min()) < 0 or int(raw_HW.max()) >= len(table)):
            outside = sorted(int(i) for i in np.unique(raw_HW) if not 0 <= i < len(table))
            raise self._unknown(outside, source)
        train_HW: npt.NDArray[np.int16] = table[raw_HW]
        if (train_HW < 0).any():
            outside = sorted(int(i) for i in np.unique(raw_HW[train_HW < 0]))
            raise self._unknown(outside, source)
        return train_HW.astype(np.uint8)

    def _unknown(self, ids: list[int], source: str) -> DataError:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return DataError(f"{source}: label ids {ids[:8]} are outside the label space {self.name}{remedy}")


_Channel = Annotated[int, Check(lambda value: 0 <= value <= 255, "must be from 0 to 255")]


@dataclass(frozen=True, kw_only=True)
class _LabelSpaceJson:
    name: Line
    classes: tuple[Line, ...]
    palette: tuple[tuple[_Channel, _Channel, _Channel], ...]
