import numpy as np
import pytest

from distseg.data.sample import LabelSpace
from distseg.errors import DataError

SPACE = LabelSpace(
    name="three",
    classes=("a", "b", "c"),
    palette=((1, 1, 1), (2, 2, 2), (3, 3, 3)),
    id_map={7: 0, 11: 2, 300: 1, 0: 255},
)


def test_raw_ids_become_train_ids() -> None:
    raw_HW = np.array([[7, 11], [300, 0]], dtype=np.int32)
    train_HW = SPACE.to_train_ids(raw_HW, "x.png")
    assert train_HW.dtype == np.uint8
    assert train_HW.tolist() == [[0, 2], [1, 255]]


@pytest.mark.parametrize("bad_id", [1, 255, 301, 65535, -1])
def test_an_id_outside_the_map_is_named_with_its_file(bad_id: int) -> None:
    with pytest.raises(DataError, match=rf"x\.png: label ids \[{bad_id}\] are outside the label space three"):
        SPACE.to_train_ids(np.array([[7, bad_id]], dtype=np.int32), "x.png")


def test_without_a_map_ids_are_train_ids() -> None:
    plain = LabelSpace(name="plain", classes=("a", "b"), palette=((1, 1, 1), (2, 2, 2)))
    assert plain.num_classes == 2
    assert plain.to_train_ids(np.array([[0, 1, 255]], dtype=np.uint8), "x.png").tolist() == [[0, 1, 255]]
    with pytest.raises(DataError, match=r"\[2, 254\]"):
        plain.to_train_ids(np.array([[0, 2, 254]], dtype=np.uint8), "x.png")


def test_an_empty_map_of_ids_stays_empty() -> None:
    assert SPACE.to_train_ids(np.zeros((0, 4), dtype=np.uint8), "x.png").shape == (0, 4)


def test_as_many_colours_as_classes() -> None:
    with pytest.raises(ValueError, match="2 classes, 1 colours"):
        LabelSpace(name="odd", classes=("a", "b"), palette=((1, 1, 1),))
