"""My city: `photos/<split>/<weather>_<number>.jpg` and `masks/<split>/<weather>_<number>.png`, grey PNG of ids.

0 is void, 1 road, 2 sky, 3 everything else. Splits: train and val.

Saved as my_data.py in the working directory, it is packed by

    python -m distseg.pack my_data:DATASET --root DIR --out URI [--only_weather fog]
"""

from collections.abc import Iterator
from dataclasses import dataclass

from distseg.data import IGNORE_INDEX, LabelSpace, Sample, raw
from distseg.data.datasets import DataSet
from distseg.errors import DataError

LABELS = LabelSpace(
    name="my-city",
    classes=("road", "sky", "other"),
    palette=((128, 64, 128), (70, 130, 180), (90, 90, 90)),
    id_map={0: IGNORE_INDEX, 1: 0, 2: 1, 3: 2},  # an id that is not here is an error that names the file
)
LAYOUT = "my city's root has photos/<split>/ and masks/<split>/"
WEATHERS = ("clear", "fog", "night")


@dataclass(frozen=True, kw_only=True)
class Options:
    only_weather: str = ""
    """Pack the photographs of this weather alone."""


def samples(root: str, split: str, options: Options) -> Iterator[Sample]:
    """Lists the pairs of a split. Files are read later, and in other processes, by `Sample.load`."""
    photos, masks = raw.Files(f"photos/{split}", (".jpg", ".png")), raw.Files(f"masks/{split}", (".png",))
    for pair in raw.pairs(root, photos, masks, LAYOUT):  # a photograph without a mask is an error
        weather = pair.stem.partition("_")[0]
        if weather not in WEATHERS:
            raise DataError(f"{pair.image}: {weather!r} is no weather; its name must begin with one of {WEATHERS}")
        if options.only_weather in ("", weather):
            yield raw.sample(root, pair, LABELS, split=split, condition=weather, site="my-city", sequence="all")


DATASET = DataSet(
    name="my-city",
    layout=__doc__,  # shown by --help
    labels=lambda root: LABELS,
    samples=samples,
    options=Options,  # its fields become flags
    conditions=WEATHERS,
    to_cityscapes={"my-city": {"road": "road", "sky": "sky"}},  # for --relabel cityscapes; "other" becomes void
)
