import io
import itertools
import resource
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.data import deflate, images, jpeg
from distseg.data.loading import decoding
from distseg.data.loading.decoding import decode_ids, decode_rgb
from distseg.data.shards.writer import label_png
from distseg.errors import DataError


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def smooth(size_px: tuple[int, int]) -> Image.Image:
    colours = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size_px, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size_px", [(8, 8), (53, 37), (120, 90)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_both_decoders_give_the_same_pixels(size_px: tuple[int, int], subsampling: int) -> None:
    pytest.importorskip("simplejpeg")
    for quality, progressive in itertools.product((30, 75, 95), (False, True)):
        data = encoded(smooth(size_px), "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
        assert np.array_equal(decode_rgb(data, "k"), np.asarray(Image.open(io.BytesIO(data))))


def test_without_simplejpeg_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(smooth((20, 10)), "JPEG")
    expected = decode_rgb(data, "k")
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert np.array_equal(decode_rgb(data, "k"), expected)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ((), ""),
        (("isal",), "decoding takes longer without isal: pip install 'distseg[fast]'"),
        (("isal", "simplejpeg"), "decoding takes longer without isal and simplejpeg: pip install 'distseg[fast]'"),
    ],
)
def test_missing_libraries_are_said_once(
    missing: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deflate, "fastest", zlib if "isal" in missing else object())
    monkeypatch.setattr(jpeg, "simplejpeg", None if "simplejpeg" in missing else object())
    decoding.log_missing_libraries.cache_clear()
    with caplog.at_level("INFO"):
        for _ in range(2):
            decoding.log_missing_libraries()
    assert caplog.messages == [message] * bool(message)
    decoding.log_missing_libraries.cache_clear()


def test_an_image_that_fits_is_decoded_in_place() -> None:
    pytest.importorskip("simplejpeg")
    data = encoded(smooth((20, 10)), "JPEG")
    fitting, other = np.zeros((10, 20, 3), np.uint8), np.zeros((20, 10, 3), np.uint8)
    assert decode_rgb(data, "k", fitting) is fitting
    assert np.array_equal(fitting, decode_rgb(data, "k"))
    assert decode_rgb(data, "k", other) is not other
    assert not other.any()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a readable image"),
        (encoded(smooth((60, 60)), "JPEG")[:400], "not a readable image"),
        (encoded(smooth((60, 60)))[:400], "not a readable image"),
        (encoded(smooth((60, 60)), "JPEG")[:900] + b"\xff\xd9", "a damaged JPEG"),
        (encoded(Image.new("F", (8, 8)), "TIFF"), "an image of mode F; convert it"),
    ],
    ids=["empty", "half a JPEG", "half a PNG", "a JPEG that was cut and ended", "floats"],
)
def test_what_is_no_rgb_image_is_named(data: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=f"^shard/key: {problem}"):
        decode_rgb(data, "shard/key")


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("mode", ["L", "CMYK", "LA", "RGBA", "P", "1", "I;16"])
def test_other_kinds_become_rgb_as_in_every_program(mode: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fast:
        monkeypatch.setattr(jpeg, "simplejpeg", None)
    image = smooth((8, 8)).convert(mode.removesuffix(";16"))
    data = encoded(image if mode != "I;16" else image.convert("I;16"), "JPEG" if mode in ("L", "CMYK") else "PNG")
    assert np.array_equal(decode_rgb(data, "k"), np.asarray(images.photograph(data, "k")))


def test_an_image_or_label_above_the_limit_is_refused_by_its_header() -> None:
    for image_format in ("JPEG", "PNG"):
        data = encoded(smooth((1000, 500)), image_format)
        with pytest.raises(DataError, match=r"^k: 1000x500 pixels are 0\.5 megapixels, max_megapixels is 0\.4: "):
            decode_rgb(data, "k", max_megapixels=0.4)
        assert decode_rgb(data, "k", max_megapixels=0.5).shape == (500, 1000, 3)
    label = label_png(np.zeros((500, 1000), np.uint8))
    with pytest.raises(DataError, match=r"^k: 1000x500 pixels are 0\.5 megapixels"):
        decode_ids(label, 3, "k", max_megapixels=0.4)
    assert decode_ids(label, 3, "k", max_megapixels=0.5).shape == (500, 1000)


def test_ids_are_classes_or_void() -> None:
    ids_HW = np.array([[0, 1, 2, 255]], dtype=np.uint8)
    assert np.array_equal(decode_ids(encoded(Image.fromarray(ids_HW)), 3, "k"), ids_HW)
    with pytest.raises(DataError, match=r"^k: label ids \[2\] are outside the label space's 0 to 1$"):
        decode_ids(encoded(Image.fromarray(ids_HW)), 2, "k")
    with pytest.raises(DataError, match=r"^k: an image of mode RGB where L was packed"):
        decode_ids(encoded(smooth((8, 8))), 3, "k")


@pytest.fixture(params=["isal", "zlib"])
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflate, "fastest", zlib if request.param == "zlib" else pytest.importorskip("isal.isal_zlib"))


IDS_HW = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), (37, 53))


def never(*arguments: object) -> None:
    raise AssertionError("asked")


@pytest.mark.usefixtures("inflater")
def test_a_label_as_pack_writes_it_is_only_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = label_png(IDS_HW)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), IDS_HW)
    monkeypatch.setattr(decoding, "_by_pillow", never)
    ids_HW = decode_ids(data, 3, "k")
    assert np.array_equal(ids_HW, IDS_HW) and ids_HW.flags.c_contiguous
    fitting, other = np.zeros_like(IDS_HW), np.zeros((53, 37), np.uint8)
    assert decode_ids(memoryview(data), 3, "k", fitting) is fitting
    assert np.array_equal(fitting, IDS_HW)
    assert decode_ids(data, 3, "k", other) is not other
    assert not other.any()


@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"optimize": True}])
def test_a_label_that_others_wrote_is_decoded_too(options: dict[str, Any]) -> None:
    smooth_HW = np.arange(37 * 53, dtype=np.uint8).reshape(37, 53) // 2  # Pillow filters such rows
    assert np.array_equal(decode_ids(encoded(Image.fromarray(smooth_HW), **options), 128, "k"), smooth_HW)


@pytest.mark.usefixtures("inflater")
def test_a_damaged_label_is_never_read_as_another() -> None:
    data = label_png(IDS_HW)
    for at in range(len(data)):
        damaged = data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]
        assert decoding._plain_ids(damaged) is None, f"byte {at}"
        assert decoding._plain_ids(data[:at]) is None, f"cut at byte {at}"
    assert decoding._plain_ids(data + b"x") is None


@pytest.mark.usefixtures("inflater")
def test_what_unpacks_to_more_than_it_says_is_refused_without_unpacking_it() -> None:
    bomb = zlib.compress(bytes(1 << 28), 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert deflate.decompress(bomb, 1000) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert deflate.decompress(zlib.compress(bytes(1000)), 1000) == bytes(1000)
    assert deflate.decompress(zlib.compress(bytes(999)), 1000) is None
