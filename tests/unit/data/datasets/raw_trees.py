"""Each data set as its owners publish it, in a few small files."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distseg import storage
from distseg.data import datasets
from distseg.data.datasets import cityscapes, synthia, voc
from distseg.data.sample import LabelSpace, Sample
from tests.raw_files import (
    Ids,
    write_deep_grey,
    write_grey,
    write_mat,
    write_palette,
    write_photograph,
    write_synthia,
)

SIZE_HW = (6, 8)


@dataclass(frozen=True, kw_only=True)
class Frame:
    image: str
    label: str
    condition: str = "all"
    site: str = "all"
    sequence: str = "all"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tiny copy of a data set. `ids`: some raw ids and their train ids, by hand. `others`: files there, besides."""

    name: str  # of the data set
    options: Callable[[str], Any] | None = None  # of a root
    split: str
    frames: tuple[Frame, ...]
    ids: dict[int, int]
    bad_id: int
    write_label: Callable[[Path, Ids], None] = write_grey
    others: dict[str, str] | None = None
    by_list: bool = False  # annotations that no list names are passed over

    @property
    def described(self) -> datasets.DataSet:
        return datasets.find(self.name)

    def labels(self, root: str) -> LabelSpace:
        return self.described.labels(root)

    def samples(self, root: str, split: str) -> Iterable[Sample]:
        return self.described.samples_of(root, split, self.options(root) if self.options else None)

    def write(self, root: Path) -> None:
        for number, frame in enumerate(self.frames):
            write_photograph(root / frame.image, SIZE_HW, seed=number)
            self.write_label(root / frame.label, self.raw_ids(number))
        for name, text in (self.others or {}).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    def raw_ids(self, number: int) -> Ids:
        return np.resize(np.roll(np.array(list(self.ids), dtype=np.uint16), number), SIZE_HW)


def city_frames(split: str, kind: str) -> tuple[Frame, ...]:
    names = (("aachen", "000000", "000019"), ("aachen", "000001", "000019"), ("bremen", "000000", "000019"))
    return tuple(
        Frame(
            image=f"leftImg8bit/{split}/{city}/{city}_{sequence}_{frame}_leftImg8bit.png",
            label=f"{kind}/{split}/{city}/{city}_{sequence}_{frame}_{kind}_labelIds.png",
            site=city,
            sequence=f"{city}_{sequence}",
        )
        for city, sequence, frame in names
    )


def acdc_frame(condition: str, split: str, sequence: str, ref: str = "") -> Frame:
    stem = f"{condition}/{split}/{sequence}/{sequence}_frame_000041"
    return Frame(
        image=f"rgb_anon/{stem}_rgb{ref}_anon.png",
        label=f"gt/{stem}_gt{ref}_labelTrainIds.png",
        condition="clear" if ref else condition,
        site="switzerland",
        sequence=sequence,
    )


def synthia_frame(sequence: str, condition: str, site: str, number: int) -> Frame:
    end = f"Stereo_Left/Omni_F/{number:06d}.png"
    name = f"SYNTHIA-SEQS-{sequence}"
    return Frame(
        image=f"{name}/RGB/{end}", label=f"{name}/GT/LABELS/{end}", condition=condition, site=site, sequence=name
    )


SYNTHIA_DRIVES = ("01-DAWN", "02-RAINNIGHT", "04-DAWN", "05-WINTERNIGHT", "06-SOFTRAIN")


CITY_IDS = {0: 255, 3: 255, 7: 0, 8: 1, 11: 2, 17: 5, 18: 255, 21: 8, 24: 11, 28: 15, 30: 255, 31: 16, 33: 18, 255: 255}


CITYSCAPES = Case(
    name="cityscapes",
    split="train",
    frames=city_frames("train", "gtFine"),
    ids=CITY_IDS,
    bad_id=34,
    others={"gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json": "{}"},
)


VOC_FRAMES = tuple(
    Frame(
        image=f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg",
        label=f"VOCdevkit/VOC2012/SegmentationClass/{name}.png",
        sequence=name[:4],
    )
    for name in ("2007_000032", "2007_000039", "2008_000008")
)


VOC_LISTS = "VOCdevkit/VOC2012/ImageSets/Segmentation"


DATA_SETS = {
    "camvid": Case(
        name="camvid",
        split="val",
        frames=tuple(
            Frame(
                image=f"val/{name}.png",
                label=f"valannot/{name}.png",
                condition=condition,
                site="cambridge",
                sequence=name.split("_")[0],
            )
            for name, condition in (("0001TP_006690", "dusk"), ("0016E5_07959", "day"))
        ),
        ids={0: 0, 3: 3, 10: 10, 11: 255},
        bad_id=12,
    ),
    "cityscapes": CITYSCAPES,
    "cityscapes-coarse": Case(
        name="cityscapes",
        options=lambda root: cityscapes.Options(annotations="coarse"),
        split="train_extra",
        frames=city_frames("train_extra", "gtCoarse"),
        ids=CITY_IDS,
        bad_id=254,
    ),
    "acdc": Case(
        name="acdc",
        split="train",
        frames=(
            acdc_frame("fog", "train", "GOPR0475"),
            acdc_frame("night", "train", "GOPR0351"),
            acdc_frame("rain", "train", "GP010400"),
            acdc_frame("snow", "train", "GOPR0122"),
        ),
        ids={0: 0, 13: 13, 18: 18, 255: 255},
        bad_id=19,
    ),
    "acdc-ref": Case(
        name="acdc",
        split="val_ref",
        frames=(acdc_frame("snow", "val_ref", "GOPR0122", "_ref"),),
        ids={0: 0, 18: 18, 255: 255},
        bad_id=33,
    ),
    "synthia": Case(
        name="synthia",
        options=lambda root: synthia.Options(val_sequences=("04",)),
        split="train",
        frames=(
            synthia_frame("01-DAWN", "dawn", "highway", 0),
            synthia_frame("01-DAWN", "dawn", "highway", 1),
            synthia_frame("02-RAINNIGHT", "rain-night", "new-york", 0),
            synthia_frame("05-WINTERNIGHT", "winter-night", "new-york", 0),
            synthia_frame("06-SOFTRAIN", "soft-rain", "highway", 7),
        ),
        ids={0: 255, 1: 0, 3: 2, 12: 11, 13: 255, 14: 255, 15: 12},
        bad_id=16,
        write_label=write_synthia,
        others={
            "SYNTHIA-SEQS-04-DAWN/RGB/Stereo_Left/Omni_F/000000.png": "not read",
            "SYNTHIA-SEQS-01-DAWN/GT/COLOR/Stereo_Left/Omni_F/000000.png": "not read",
        },
    ),
    "synthia-rand": Case(
        name="synthia",
        options=lambda root: synthia.Options(gap_frames=1, val_share=0.25),
        split="train",
        # Five frames: one at the end is val, one is the gap.
        frames=tuple(
            Frame(image=f"RGB/{i:07d}.png", label=f"GT/LABELS/{i:07d}.png", sequence="rand-cityscapes")
            for i in range(3)
        ),
        ids={0: 255, 1: 9, 3: 0, 12: 14, 17: 11, 21: 3, 11: 15, 22: 255, 19: 13},
        bad_id=23 + 256,  # the high byte counts
        write_label=write_synthia,
        others={f"{part}/{i:07d}.png": "not read" for i in (3, 4) for part in ("RGB", "GT/LABELS")},
    ),
    "voc": Case(
        name="voc",
        split="train",
        frames=VOC_FRAMES[:2],
        ids={0: 0, 1: 1, 15: 15, 20: 20, 255: 255},
        bad_id=21,
        write_label=write_palette,
        others={f"{VOC_LISTS}/train.txt": "2007_000032\n2007_000039\n", VOC_FRAMES[2].image: "of another split"},
        by_list=True,
    ),
    "voc-aug": Case(
        name="voc",
        split="train_aug",
        frames=tuple(
            Frame(image=f.image, label=f.label.replace("Class", "ClassAug"), sequence=f.sequence) for f in VOC_FRAMES
        ),
        ids={0: 0, 7: 7, 255: 255},
        bad_id=30,
        others={
            f"{VOC_LISTS}/trainaug.txt": "".join(
                f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png\n" for n in (Path(f.image).stem for f in VOC_FRAMES)
            )
        },
        by_list=True,
    ),
    "voc-sbd": Case(
        name="voc",
        options=lambda root: voc.Options(sbd=storage.join(root, "sbd")),
        split="train_aug",
        frames=tuple(
            Frame(
                image=f.image, label=f"sbd/benchmark_RELEASE/dataset/cls/{Path(f.image).stem}.mat", sequence=f.sequence
            )
            for f in VOC_FRAMES
        ),
        ids={0: 0, 7: 7, 20: 20},
        bad_id=21,
        write_label=write_mat,
        others={
            f"{VOC_LISTS}/train.txt": "",
            f"{VOC_LISTS}/val.txt": "2007_000033\n",
            "sbd/benchmark_RELEASE/dataset/train.txt": "2007_000032\n2007_000033\n",
            "sbd/benchmark_RELEASE/dataset/val.txt": "2007_000039\n2008_000008\n",
            "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png": "not read",
        },
        by_list=True,
    ),
    "ade20k": Case(
        name="ade20k",
        split="val",
        frames=tuple(
            Frame(
                image=f"ADEChallengeData2016/images/validation/ADE_val_{i:08d}.jpg",
                label=f"ADEChallengeData2016/annotations/validation/ADE_val_{i:08d}.png",
            )
            for i in (1, 2)
        ),
        ids={0: 255, 1: 0, 13: 12, 150: 149},
        bad_id=151,
    ),
    "folder": Case(
        name="folder",
        split="train",
        frames=(
            Frame(image="images/train/a.JPG", label="labels/train/a.png", condition="rain", site="kyoto", sequence="1"),
            Frame(image="images/train/b.png", label="labels/train/b.png", condition="fog", site="kyoto", sequence="2"),
        ),
        ids={7: 0, 8: 0, 300: 1, 0: 255},
        bad_id=255,
        write_label=write_deep_grey,
        others={
            "classes.json": json.dumps(
                {"classes": ["road", "sky"], "ids": {"7": "road", "8": "road", "300": "sky"}, "ignore": [0]}
            ),
            "conditions.csv": "file,condition,site,sequence\ntrain/a.JPG,rain,kyoto,1\ntrain/b.png,fog,kyoto,2\n",
        },
    ),
}
