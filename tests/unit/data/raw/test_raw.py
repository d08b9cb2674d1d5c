import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from distseg.data import raw
from distseg.data.sample import LabelledImage, LabelSpace
from distseg.errors import DataError
from tests.raw_files import pixels_of, png, write_grey, write_photograph

SPACE = LabelSpace(
    name="wide", classes=("a", "b"), palette=((1, 1, 1), (2, 2, 2)), id_map={**dict.fromkeys(range(700), 0), 700: 1}
)
RNG = np.random.default_rng(1)
PIXELS = RNG.integers(0, 256, (4, 8, 4), dtype=np.uint8)
DEEP = RNG.integers(0, 2**16, (4, 8, 3), dtype=np.uint16)


def load(tmp_path: Path, image: bytes, name: str = "x.png") -> LabelledImage:
    (tmp_path / name).write_bytes(image)
    Image.fromarray(np.zeros((4, 8), dtype=np.uint8)).save(tmp_path / "label.png")
    return raw.load_pair(str(tmp_path / name), str(tmp_path / "label.png"), SPACE, raw.read_ids)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


# ---- photographs


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_plain_photographs_stay_as_they_are(tmp_path: Path, image_format: str) -> None:
    """Whatever their names end in."""
    data = encoded(Image.fromarray(PIXELS[..., :3]), image_format)
    loaded = load(tmp_path, data, "x.jpeg")
    assert loaded.image == data
    assert loaded.image_format == {"PNG": "png", "JPEG": "jpg"}[image_format]


def palette_image() -> Image.Image:
    image = Image.fromarray(PIXELS[..., :3]).quantize(16)
    image.info["transparency"] = bytes(range(16))
    return image


GREY = PIXELS[..., 0]
KINDS: dict[str, tuple[Callable[[], bytes], Callable[[], npt.NDArray[Any]]]] = {
    "grey": (lambda: encoded(Image.fromarray(GREY), "PNG"), lambda: np.stack([GREY] * 3, axis=-1)),
    "RGBA": (lambda: encoded(Image.fromarray(PIXELS), "PNG"), lambda: PIXELS[..., :3]),
    "palette": (
        lambda: encoded(palette_image(), "PNG", transparency=bytes(range(16))),
        lambda: np.asarray(Image.fromarray(PIXELS[..., :3]).quantize(16).convert("RGB")),
    ),
    "16-bit RGB": (lambda: png(DEEP.astype(">u2"), 16), lambda: DEEP >> 8),
    "16-bit grey": (
        lambda: encoded(Image.fromarray(DEEP[..., 0]), "PNG"),
        lambda: np.stack([DEEP[..., 0] >> 8] * 3, axis=-1),
    ),
    "grey JPEG": (
        lambda: encoded(Image.fromarray(GREY), "JPEG"),
        lambda: np.stack([pixels_of(encoded(Image.fromarray(GREY), "JPEG"))] * 3, axis=-1),
    ),
    "CMYK JPEG": (
        lambda: encoded(Image.fromarray(PIXELS[..., :3]).convert("CMYK"), "JPEG"),
        lambda: np.asarray(
            Image.open(io.BytesIO(encoded(Image.fromarray(PIXELS[..., :3]).convert("CMYK"), "JPEG"))).convert("RGB")
        ),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_become_rgb_png(tmp_path: Path, kind: str) -> None:
    data, expected = KINDS[kind]
    loaded = load(tmp_path, data())
    with Image.open(io.BytesIO(loaded.image)) as image:
        assert (loaded.image_format, image.format, image.mode) == ("png", "PNG", "RGB")
    assert np.array_equal(pixels_of(loaded.image), expected())


def turned_jpeg(orientation: int, pixels_HW3: npt.NDArray[np.uint8] = PIXELS[..., :3]) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(pixels_HW3), "JPEG", exif=exif)


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_turned_photograph_is_refused_where_its_label_map_may_be_of_either_way(
    tmp_path: Path, orientation: int
) -> None:
    with pytest.raises(DataError, match=rf"x\.jpg: EXIF orientation {orientation}: .* say --labels_drawn_on shown"):
        load(tmp_path, turned_jpeg(orientation), "x.jpg")


@pytest.mark.parametrize("orientation", [2, 3, 4])
@pytest.mark.parametrize("drawn_on", ["shown", "stored"])
def test_what_label_maps_were_drawn_on_can_be_said(tmp_path: Path, orientation: int, drawn_on: raw.DrawnOn) -> None:
    (tmp_path / "x.jpg").write_bytes(turned_jpeg(orientation))
    label_HW = np.arange(32, dtype=np.uint16).reshape(4, 8)
    write_grey(tmp_path / "l.png", label_HW)
    space = LabelSpace(name="n", classes=tuple(map(str, range(32))), palette=((0, 0, 0),) * 32)
    with raw.labels_drawn_on(drawn_on):
        loaded = raw.load_pair(str(tmp_path / "x.jpg"), str(tmp_path / "l.png"), space, raw.read_ids)
    turned = {2: label_HW[:, ::-1], 3: label_HW[::-1, ::-1], 4: label_HW[::-1]}[orientation]
    assert np.array_equal(loaded.label_HW, label_HW if drawn_on == "shown" else turned)


def test_a_turned_square_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(turned_jpeg(6, PIXELS[:4, :4, :3]))
    write_grey(tmp_path / "l.png", np.zeros((4, 4), dtype=np.uint16))
    with pytest.raises(DataError, match=r"EXIF orientation 6: .* say --labels_drawn_on shown"):
        raw.load_pair(str(tmp_path / "x.jpg"), str(tmp_path / "l.png"), SPACE, raw.read_ids)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("drawn_on", ["what is shown", "what is stored"])
def test_a_photograph_is_packed_as_it_is_shown_and_its_label_map_with_it(
    tmp_path: Path, orientation: int, drawn_on: str
) -> None:
    """The size of the label map tells which of the two it was drawn on."""
    data = turned_jpeg(orientation)
    with Image.open(io.BytesIO(data)) as stored:
        shown_HW3 = np.asarray(ImageOps.exif_transpose(stored))
    label_HW = np.arange(32, dtype=np.uint16).reshape(shown_HW3.shape[:2] if drawn_on == "what is shown" else (4, 8))
    (tmp_path / "x.jpg").write_bytes(data)
    write_grey(tmp_path / "l.png", label_HW)
    space = LabelSpace(name="n", classes=tuple(map(str, range(32))), palette=((0, 0, 0),) * 32)
    loaded = raw.load_pair(str(tmp_path / "x.jpg"), str(tmp_path / "l.png"), space, raw.read_ids)
    assert np.array_equal(pixels_of(loaded.image), shown_HW3)
    as_photograph = Image.fromarray(label_HW.astype(np.uint8))
    if drawn_on == "what is stored":
        as_photograph.getexif()[0x0112] = orientation
        as_photograph = ImageOps.exif_transpose(as_photograph)
    assert np.array_equal(loaded.label_HW, np.asarray(as_photograph))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0"]
)
def test_exif_that_says_nothing_is_no_matter(tmp_path: Path, exif: bytes) -> None:
    """Bytes that are no EXIF, and an orientation of 0."""
    data = encoded(Image.fromarray(PIXELS[..., :3]), "JPEG", exif=exif)
    assert load(tmp_path, data, "x.jpg").image == data


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.png: photographs are JPEG or PNG, this one is BMP; convert it"):
        load(tmp_path, encoded(Image.fromarray(PIXELS[..., :3]), "BMP"))


# ---- label maps


def grey_png(bits: int) -> bytes:
    """The ids 0, 1, … in a row of 8 pixels, or as many as there are, in `bits` bits each."""
    ids = (np.arange(8) % 2**bits).reshape(-1, 8 // bits)
    return png((ids << np.arange(8 - bits, -1, -bits)).sum(axis=1).astype(np.uint8)[None], bits)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_ids_of_few_bits_are_not_stretched(tmp_path: Path, bits: int) -> None:
    """Optimisers of PNG write as few bits as the ids need."""
    (tmp_path / "l.png").write_bytes(grey_png(bits))
    assert raw.read_ids(str(tmp_path / "l.png")).tolist() == [[i % 2**bits for i in range(8)]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_indices_are_the_ids(tmp_path: Path, bits: int) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50] * 2**bits)
    image.putpixel((1, 0), 2**bits - 1)
    image.save(tmp_path / "l.png", bits=bits)
    assert raw.read_ids(str(tmp_path / "l.png")).tolist() == [[0, 2**bits - 1]]


def test_ids_above_255(tmp_path: Path) -> None:
    write_photograph(tmp_path / "i.png", (1, 2))
    Image.fromarray(np.array([[3, 700]], dtype=np.uint16)).save(tmp_path / "l.png")
    loaded = raw.load_pair(str(tmp_path / "i.png"), str(tmp_path / "l.png"), SPACE, raw.read_ids)
    assert loaded.label_HW.tolist() == [[0, 1]]
    Image.fromarray(np.array([[3, 701]], dtype=np.uint16)).save(tmp_path / "l.png")
    with pytest.raises(DataError, match=r"l\.png: label ids \[701\] are outside the label space wide"):
        raw.load_pair(str(tmp_path / "i.png"), str(tmp_path / "l.png"), SPACE, raw.read_ids)


@pytest.mark.parametrize(
    ("mode", "image_format", "message"),
    [
        ("RGB", "PNG", "one id per pixel, this one is RGB; write ids, not colours"),
        ("RGBA", "PNG", "one id per pixel, this one is RGBA"),
        ("LA", "PNG", "one id per pixel, this one is LA"),
        ("L", "JPEG", "label maps are PNG, this one is JPEG, which may change ids"),
    ],
)
def test_what_is_no_label_map_is_refused(tmp_path: Path, mode: str, image_format: str, message: str) -> None:
    Image.new(mode, (2, 2)).save(tmp_path / "l.png", format=image_format)
    with pytest.raises(DataError, match=rf"l\.png: .*{re.escape(message)}"):
        raw.read_ids(str(tmp_path / "l.png"))


@pytest.mark.parametrize("which", ["image", "label"])
def test_a_png_with_any_byte_of_its_pixels_changed_is_named(tmp_path: Path, which: str) -> None:
    """Of most such files Pillow makes pixels without a word, and so labels that are wrong."""
    image, label = tmp_path / "image.png", tmp_path / "label.png"
    write_photograph(image, (2, 3))
    write_grey(label, np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint16))
    path = {"image": image, "label": label}[which]
    sound = path.read_bytes()
    for i in range(sound.index(b"IDAT"), len(sound) - 12):  # to its checksum, before IEND
        path.write_bytes(sound[:i] + bytes([sound[i] ^ 1]) + sound[i + 1 :])
        with pytest.raises(DataError, match=rf"{which}\.png: not a readable image"):
            raw.load_pair(str(image), str(label), SPACE, raw.read_ids)
    path.write_bytes(sound)
    assert raw.load_pair(str(image), str(label), SPACE, raw.read_ids).label_HW.shape == (2, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "(the file is empty)"),
        (b"<html>404</html>", "(of no known format, or its beginning is damaged)"),
        (b"\x89PNG\r\n\x1a\n" + png(np.zeros((1, 1), np.uint8), 8)[8:33] + b"\0\0\0\0IEND\xaeB`\x82", "("),
    ],
)
def test_what_is_no_image_is_called_that(tmp_path: Path, data: bytes, message: str) -> None:
    """No file, a page in place of it, and a PNG without pixels."""
    (tmp_path / "l.png").write_bytes(data)
    with pytest.raises(DataError, match=rf"l\.png: not a readable image {re.escape(message)}") as caught:
        raw.read_ids(str(tmp_path / "l.png"))
    assert " at 0x" not in str(caught.value)


# ---- files


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def pairs(root: Path) -> list[raw.Pair]:
    return raw.pairs(str(root), raw.Files("images", (".jpg", ".png")), raw.Files("labels", (".png",)), "the layout")


def test_pairs_are_found_however_deep(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.JPG", "images/a/x.png", "labels/a/x.png", "labels/b.PNG")
    root = str(tmp_path)
    assert pairs(tmp_path) == [
        raw.Pair("a/x", f"{root}/images/a/x.png", f"{root}/labels/a/x.png"),
        raw.Pair("b", f"{root}/images/b.JPG", f"{root}/labels/b.PNG"),
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "/images: no such folder, or an empty one; the layout"),
        (["images/.DS_Store"], "/images: no such folder, or an empty one; the layout"),
        (["images/a.tif", "labels/a.png"], "/images: no file in it ends in .jpg or .png; the layout"),
        (["images/a.jpg", "images/a.png", "labels/a.png"], "has the same name; remove one of them"),
        (["images/a.jpg", "images/b.jpg", "labels/b.png"], "images/a.jpg: its annotation .*/labels/a.png is missing"),
        (
            ["images/a.jpg", "images/b.tif", "labels/a.png", "labels/b.png"],
            "labels/b.png: its photograph .*/images/b.jpg or .png is missing",
        ),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path: Path, names: list[str], message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        pairs(tmp_path)


def test_files_of_other_kinds_can_be_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.TIF", "images/c.tif", "images/notes.txt")
    files = raw.Files("images", (".jpg",), refused=(".tif",), remedy="convert it")
    with pytest.raises(DataError, match=r"images/b\.TIF: cannot be packed; convert it"):
        raw.find(str(tmp_path), files, "the layout")


def test_keys_are_plain_and_stay_apart() -> None:
    assert raw.plain_key("aachen_000000_000019") == "aachen_000000_000019"
    names = ["a b", "a.b", "a_b", "ä", "ö", "x/y", "x-y", "z" * 90, "z" * 91, "z" * 92, "k\udcf6ln"]
    keys = [raw.plain_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,90}", key) for key in keys)
    assert keys == [raw.plain_key(name) for name in names]
    assert keys[0].startswith("a_b-")


# ---- classes


def test_the_palette_is_vocs() -> None:
    palette = raw.bit_palette(256)
    assert [palette[i] for i in (0, 1, 2, 15, 20)] == [
        *((0, 0, 0), (128, 0, 0), (0, 128, 0)),
        *((192, 128, 128), (0, 64, 128)),
    ]
    assert palette[255] == (224, 224, 192)  # the border of objects
    assert len(set(palette)) == 256


def test_classes_by_name_and_with_colours() -> None:
    value = ["road", {"name": "sky", "color": [1, 2, 3]}, {"name": "car"}]
    assert raw.parse_classes(value, "f: classes") == (("road", "sky", "car"), ((128, 0, 0), (1, 2, 3), (128, 128, 0)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "f: classes: must be a list of 1 to 255 classes"),
        ("road", "f: classes: must be a list of 1 to 255 classes"),
        ([str(i) for i in range(256)], "f: classes: must be a list of 1 to 255 classes"),
        (["road", 3], 'f: classes[1] = 3: write "road"'),
        (["road", " "], "f: classes[1]"),
        ([{"name": "road", "colour": [1, 2, 3]}], "f: classes[0]"),
        (["road", "road"], "f: classes[1]: a second class 'road'"),
        (
            [{"name": "road", "color": [1, 2]}],
            "f: classes[0].color = [1, 2]: must be [red, green, blue], each 0 to 255",
        ),
        ([{"name": "road", "color": [1, 2, 256]}], "each 0 to 255"),
        ([{"name": "road", "color": [1, 2, True]}], "each 0 to 255"),
    ],
)
def test_classes_that_do_not_parse(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        raw.parse_classes(value, "f: classes")


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b""])
def test_what_is_not_json_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c.json").write_bytes(data)
    with pytest.raises(DataError, match=r"c\.json: not JSON"):
        raw.json_at(str(tmp_path / "c.json"))
