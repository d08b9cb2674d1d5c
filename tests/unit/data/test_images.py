"""What every program does with damaged, huge, turned and unusual images."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from distseg.data import images, jpeg, raw
from distseg.data.loading.decoding import decode_ids, decode_rgb
from distseg.data.sample import LabelSpace
from distseg.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
SPACE = LabelSpace(name="one", classes=("a",), palette=((0, 0, 0),))


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def header_only(width: int, height: int) -> bytes:
    """A PNG of 70 bytes that says it is huge."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 9)),
        (b"IEND", b""),
    )
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return images.PNG_SIGNATURE + b"".join(parts)


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (20_000, 20_000), (13_000, 13_000), (2**31 - 1, 1)])
def test_a_huge_image_is_refused_by_its_header(width: int, height: int) -> None:
    message = rf"^x\.png: {width}x{height} pixels are .* megapixels, max_megapixels is 100: .*--max_megapixels"
    data = header_only(width, height)
    with pytest.raises(DataError, match=message):
        images.photograph(data, "x.png")
    with pytest.raises(DataError, match=message):
        decode_rgb(data, "x.png")
    with pytest.raises(DataError, match=message):
        decode_ids(data, 1, "x.png")
    with pytest.raises(DataError, match=message):
        raw.read_photograph(data, "x.png")


def test_the_limit_can_be_raised_above_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    for image_format in ("PNG", "JPEG"):
        data = encoded(Image.fromarray(PIXELS[..., :3]).resize((20, 20)), image_format)
        assert images.photograph(data, "x", max_megapixels=0.0004).size == (20, 20)
        with pytest.raises(DataError, match="20x20 pixels"), images.limited(0.00039):
            images.photograph(data, "x")


def test_a_long_text_beside_the_pixels_is_no_reason_to_refuse_a_png() -> None:
    """Editors leave their history there, and cameras large colour profiles."""
    info = PngImagePlugin.PngInfo()
    info.add_text("history", "x" * (3 << 20), zip=True)
    data = encoded(Image.fromarray(PIXELS[..., :3]), pnginfo=info)
    assert np.array_equal(np.asarray(images.photograph(data, "a.png")), PIXELS[..., :3])
    with pytest.raises(DataError, match=r"a\.png: "):
        info.add_text("bomb", "x" * (40 << 20), zip=True)
        images.photograph(encoded(Image.fromarray(PIXELS[..., :3]), pnginfo=info), "a.png")


def test_an_image_without_pixels_is_none() -> None:
    with pytest.raises(DataError, match=r"^x: not a readable image \("):
        images.photograph(header_only(0, 7), "x")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_photograph_is_taken_as_it_is_shown(orientation: int, image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(PIXELS[..., :3]), image_format, exif=exif)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(images.photograph(data, "x")), np.asarray(shown))


KINDS = {
    "16-bit grey": encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)),
    "grey": encoded(Image.fromarray(PIXELS[..., 0])),
    "1-bit": encoded(Image.fromarray(PIXELS[..., 0]).convert("1")),
    "grey and alpha": encoded(Image.fromarray(PIXELS).convert("LA")),
    "RGBA": encoded(Image.fromarray(PIXELS)),
    "palette": encoded(Image.fromarray(PIXELS[..., :3]).quantize(16), transparency=bytes(16)),
    "CMYK": encoded(Image.fromarray(PIXELS[..., :3]).convert("CMYK"), "JPEG"),
    "grey JPEG": encoded(Image.fromarray(PIXELS[..., 0]), "JPEG"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_pack_writes_what_the_reader_reads_and_what_predict_sees_are_the_same(kind: str, tmp_path: Path) -> None:
    data = KINDS[kind]
    predicted = np.asarray(images.photograph(data, "x"))
    packed = raw.read_photograph(data, "x")
    assert predicted.shape == (6, 9, 3)
    assert np.array_equal(decode_rgb(packed.data, "x"), predicted)
    assert np.array_equal(decode_rgb(data, "x"), predicted)


def test_grey_of_16_bits_keeps_the_upper_8() -> None:
    assert np.array_equal(np.asarray(images.photograph(KINDS["16-bit grey"], "x"))[..., 1], PIXELS[..., 0])


@pytest.mark.parametrize("array", [PIXELS[..., 0].astype(np.int32) + 70_000, PIXELS[..., 0].astype(np.float32)])
def test_deeper_pixels_are_refused(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(DataError, match=r"^x\.tif: .*convert it to (8 or 16|grey or RGB of 8 or 16) bits"):
        images.photograph(encoded(Image.fromarray(array), "TIFF"), "x.tif")


def test_formats_for_which_pillow_starts_other_programs_are_not_opened() -> None:
    data = encoded(Image.fromarray(PIXELS[..., :3]), "EPS")
    with pytest.raises(DataError, match=r"^x\.png: not a readable image \(of no known format"):
        images.photograph(data, "x.png")


# ---- arbitrary bytes

SEEDS = [
    *KINDS.values(),
    encoded(Image.fromarray(PIXELS[..., :3]), "JPEG", progressive=True),
    encoded(Image.fromarray(PIXELS[..., :3]), "BMP"),
    encoded(Image.fromarray(PIXELS[..., :3]), "TIFF"),
    encoded(Image.fromarray(PIXELS[..., :3]), "WEBP"),
    encoded(Image.fromarray(PIXELS[..., :3]), "GIF"),
]


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged metadata
@settings(max_examples=150)
@given(
    data=st.one_of(st.binary(max_size=200), st.sampled_from(SEEDS)),
    at=st.floats(0, 1),
    put_in=st.binary(max_size=12),
    num_lost=st.integers(0, 12),
    fast=st.booleans(),
)
def test_arbitrary_bytes_are_an_image_or_one_line(
    data: bytes, at: float, put_in: bytes, num_lost: int, fast: bool
) -> None:
    begin = int(at * len(data))
    damaged = data[:begin] + put_in + data[begin + num_lost :]
    with pytest.MonkeyPatch.context() as patch:
        if not fast:
            patch.setattr(jpeg, "simplejpeg", None)
        reads: tuple[Callable[[], object], ...] = (
            lambda: images.photograph(damaged, "x", max_megapixels=0.01),
            lambda: decode_rgb(damaged, "x", max_megapixels=0.01),
            lambda: decode_ids(damaged, 5, "x", max_megapixels=0.01),
            lambda: raw.read_photograph(damaged, "x"),
            lambda: SPACE.to_train_ids(raw.ids_of(damaged, "x", (((0, 0, 0), 0),)), "x"),
        )
        for read in reads:
            try:
                read()
            except DataError as error:
                assert str(error).startswith("x: ") and "\n" not in str(error)
