"""ADE20K as in the scene parsing challenge: `images|annotations/training|validation`, JPEG and PNG of one name.

150 classes in the challenge's order, each by its first name (objectInfo150); raw id i is class i - 1, and 0 is void
(Zhou et al. 2017). The palette is ours. Root is ADEChallengeData2016, or the folder that has it.
"""

from collections.abc import Iterator

from distseg import storage
from distseg.data import IGNORE_INDEX, LabelSpace, Sample, raw
from distseg.data.datasets import DataSet, same
from distseg.errors import DataError

_NAMES = """
wall building sky floor tree ceiling road bed windowpane grass cabinet sidewalk person earth door table mountain
plant curtain chair car water painting sofa shelf house sea mirror rug field armchair seat fence desk rock
wardrobe lamp bathtub railing cushion base box column signboard chest-of-drawers counter sand sink skyscraper
fireplace refrigerator grandstand path stairs runway case pool-table pillow screen-door stairway river bridge
bookcase blind coffee-table toilet flower book hill bench countertop stove palm kitchen-island computer
swivel-chair boat bar arcade-machine hovel bus towel light truck tower chandelier awning streetlight booth
television-receiver airplane dirt-track apparel pole land bannister escalator ottoman bottle buffet poster stage
van ship fountain conveyer-belt canopy washer plaything swimming-pool stool barrel basket waterfall tent bag
minibike cradle oven ball food step tank trade-name microwave pot animal bicycle lake dishwasher screen blanket
sculpture hood sconce vase traffic-light tray ashcan fan pier crt-screen plate monitor bulletin-board shower
radiator glass clock flag
"""
LABELS = LabelSpace(
    name="ade20k",
    classes=tuple(_NAMES.split()),
    palette=raw.bit_palette(150, first=1),
    id_map={0: IGNORE_INDEX, **{raw_id: raw_id - 1 for raw_id in range(1, 151)}},
)

_FOLDERS = {"train": "training", "val": "validation", "training": "training", "validation": "validation"}
_PLACES = ("ADEChallengeData2016",)
_LAYOUT = "ADE20K's root has images/ and annotations/, each with training/ and validation/"


def samples(root: str, split: str) -> Iterator[Sample]:
    """The images of a split, sorted by name. Raises DataError for a split that is not ADE20K's."""
    if split not in _FOLDERS:
        raise DataError(f"ADE20K has no annotations of {split!r}; choose from {', '.join(_FOLDERS)}")
    if raw.place(root, "annotations", _PLACES) is None:
        _refuse_full(root)
    root = raw.home(root, "annotations", _PLACES, _LAYOUT)
    folder = _FOLDERS[split]
    images = raw.Files(f"images/{folder}", (".jpg",))
    for pair in raw.pairs(root, images, raw.Files(f"annotations/{folder}", (".png",)), _LAYOUT):
        yield raw.sample(root, pair, LABELS, split=split, sequence="all")


def _refuse_full(root: str) -> None:
    releases = tuple(name for name in storage.list_folders(root) if name.startswith("ADE20K"))
    for place in raw.places(root, releases):
        if any(entry.uri.endswith("_seg.png") for entry in storage.list_files(storage.join(place, "images"))):
            raise DataError(f"{place}: this is the full ADE20K; the challenge release ADEChallengeData2016 is needed")


DATASET = DataSet(
    name="ade20k",
    layout=__doc__,
    labels=lambda root: LABELS,
    recipe="pspnet_ade20k",
    samples=samples,
    are_frames=False,
    # Not wall, which is mostly indoors, nor signboard, which is mostly advertising. Its person includes riders.
    to_cityscapes={
        "ade20k": {
            **same("building sky road sidewalk person car fence pole truck bus bicycle traffic-light"),
            **dict.fromkeys(("house", "skyscraper"), "building"),
            **dict.fromkeys(("tree", "palm", "plant"), "vegetation"),
            **dict.fromkeys(("grass", "earth", "field", "sand"), "terrain"),
            **{"minibike": "motorcycle", "van": "car"},
        }
    },
)
