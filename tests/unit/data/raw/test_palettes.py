"""Palettes of label maps: what the indices mean where the colours say something else."""

from pathlib import Path

import pytest
from PIL import Image

from distseg.data import raw
from distseg.errors import DataError


@pytest.mark.parametrize(
    ("palette", "ids", "is_refused"),
    [
        ([9, 9, 9, 7, 7, 7], [0, 1], True),  # sorted anew
        ([7, 7, 7, 9, 9, 9], [0, 1], False),
        ([8, 8, 8], [0], True),  # id 1 alone, in another of its colours
        ([0, 0, 0, 9, 9, 9], [0, 1], False),  # not all of them are known
        ([9, 9, 9, 9, 9, 9], [0, 1], False),  # says nothing
        ([7, 7, 7, *[9] * 765], [0, 255], False),  # filled up with anything
        ([9, 9, 9], [0, 1], False),  # PIL's own: one entry, whatever the ids
        ([grey for i in range(256) for grey in (i, i, i)], [7, 255], False),  # PIL's own: a ramp
    ],
)
def test_a_palette_that_contradicts_its_indices_is_named(
    tmp_path: Path, palette: list[int], ids: list[int], is_refused: bool
) -> None:
    image = Image.new("P", (len(ids), 1))
    image.putpalette(palette)
    for x, i in enumerate(ids):
        image.putpixel((x, 0), i)
    image.save(tmp_path / "l.png")
    colours = (((7, 7, 7), 0), ((9, 9, 9), 1), ((8, 8, 8), 1))
    if is_refused:
        with pytest.raises(DataError, match=r"l\.png: its palette shows id 0 as .* save it as RGB if the colours"):
            raw.read_ids(str(tmp_path / "l.png"), colours)
    else:
        assert raw.read_ids(str(tmp_path / "l.png"), colours).tolist() == [ids]
    assert raw.read_ids(str(tmp_path / "l.png")).tolist() == [ids]
