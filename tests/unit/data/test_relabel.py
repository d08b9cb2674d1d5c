import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distseg.data import relabel
from distseg.data.datasets import acdc, ade20k, camvid, cityscapes, synthia, town, voc
from distseg.data.relabel import relabelling
from distseg.data.sample import LabelSpace
from distseg.errors import ConfigError, DataError
from tests.toy_data import LABELS, toy_samples


def becomes(source: LabelSpace, target: str) -> dict[str, str | None]:
    new = relabelling(source, target)
    ids = {name: new.table[i] for i, name in enumerate(source.classes)}
    return {name: None if i == 255 else new.labels.classes[i] for name, i in ids.items()}


def test_synthia_and_town_in_cityscapes_classes() -> None:
    assert (
        becomes(synthia.SEQS_LABELS, "cityscapes")
        == becomes(town.LABELS, "cityscapes")
        == {
            **{name: name for name in ("sky", "building", "road", "sidewalk", "fence", "vegetation", "pole", "car")},
            **{"sign": "traffic-sign", "pedestrian": "person", "bicycle": "bicycle", "lane-marking": "road"},
            "traffic-light": "traffic-light",
        }
    )
    assert becomes(synthia.SEQS_LABELS, "cityscapes-13")["fence"] is None


def test_the_same_classes_stay() -> None:
    for source in (cityscapes.LABELS, acdc.LABELS):
        assert becomes(source, "cityscapes") == {name: name for name in cityscapes.LABELS.classes}
    sixteen = becomes(acdc.LABELS, "cityscapes-16")
    assert {name for name, new in sixteen.items() if new is None} == {"terrain", "truck", "train"}
    assert becomes(synthia.RAND_LABELS, "cityscapes") == {name: name for name in cityscapes.LABELS_16.classes}


def test_what_has_no_counterpart_is_void() -> None:
    assert becomes(camvid.LABELS, "cityscapes")["bicyclist"] is None
    assert becomes(camvid.LABELS, "cityscapes")["pavement"] == "sidewalk"
    of_voc = becomes(voc.LABELS, "cityscapes")
    assert {name for name, new in of_voc.items() if new} == {"bicycle", "bus", "car", "motorbike", "person", "train"}
    assert becomes(ade20k.LABELS, "cityscapes")["wall"] is None
    assert becomes(ade20k.LABELS, "cityscapes")["minibike"] == "motorcycle"


@pytest.mark.parametrize("name", relabel.to_cityscapes())
def test_built_in_names_are_names_of_classes(name: str) -> None:
    spaces = (synthia.SEQS_LABELS, camvid.LABELS, ade20k.LABELS, voc.LABELS, *relabel.targets().values())
    (source,) = (space for space in spaces if space.name == name)
    assert relabel.to_cityscapes()[name].keys() <= set(source.classes)
    assert set(relabel.to_cityscapes()[name].values()) <= set(cityscapes.LABELS.classes)


def test_the_table_is_void_elsewhere_and_labels_have_no_raw_ids() -> None:
    new = relabelling(town.LABELS, "cityscapes")
    assert set(new.table[town.LABELS.num_classes :]) == {255}
    assert len(new.table) == 256
    assert new.labels.id_map == {}


def write(path: Path, **fields: Any) -> str:
    body = {"name": "two", "classes": ["ground", "thing"], "map": {"road": "ground", "sky": None, "car": "thing"}}
    path.write_text(json.dumps({**body, **fields}))
    return str(path)


def test_a_file_decides_pixel_for_pixel(tmp_path: Path) -> None:
    new = relabelling(LABELS, write(tmp_path / "map.json"))
    assert (new.labels.name, new.labels.classes) == ("two", ("ground", "thing"))
    before = toy_samples(3)
    after = pickle.loads(pickle.dumps(list(new.apply(before))))
    assert after == before  # but for what they load
    for old, sample in zip(before, after, strict=True):
        expected = np.select([old.load().label_HW == 0, old.load().label_HW == 2], [0, 1], 255)
        assert np.array_equal(sample.load().label_HW, expected)
        assert sample.load().label_HW.dtype == np.uint8
        assert sample.load().image == old.load().image


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"map": {"road": "ground", "sky": None}}, "map: 'car' of toy is not in it; map it to a class, or to null"),
        ({"map": {"road": "ground", "sky": None, "car": "cars"}}, "map['car'] = 'cars': must be null or one of ground"),
        (
            {"map": {"road": "ground", "sky": None, "car": None, "tram": None}},
            "map: 'tram' is not a class of toy; it has road, sky, car",
        ),
        ({"map": []}, "must be an object with name, classes and map"),
        ({"more": 1}, "must be an object with name, classes and map"),
        ({"name": ""}, "name = '': must be a word"),
        ({"name": "x" * 2000}, "name = 'xxx"),  # no manifest could hold it
        ({"classes": []}, "classes: must be a list of 1 to 255 classes"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    uri = write(tmp_path / "map.json", **fields)
    with pytest.raises(DataError, match=re.escape(f"{uri}: {message}")):
        relabelling(LABELS, uri)


def test_what_is_neither_built_in_nor_a_file_is_named() -> None:
    with pytest.raises(ConfigError, match="relabel 'kitti': must be cityscapes, cityscapes-16, cityscapes-13 or"):
        relabelling(LABELS, "kitti")
    with pytest.raises(ConfigError, match=r"label space 'toy' is none of .*; give a \.json file"):
        relabelling(LABELS, "cityscapes")
    with pytest.raises(ConfigError, match="label space 'voc' is none of"):  # of the name alone
        relabelling(LabelSpace(name="voc", classes=("x",), palette=((0, 0, 0),)), "cityscapes")
