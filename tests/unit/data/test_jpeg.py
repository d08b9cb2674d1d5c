"""Damaged JPEGs are found by simplejpeg and, without it, by following the codes of the pixels."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.data import images, jpeg
from distseg.data.loading.decoding import decode_rgb
from distseg.errors import DataError


def encoded(size_px: tuple[int, int] = (120, 90), mode: str = "RGB", **options: Any) -> bytes:
    colours = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    image = Image.fromarray(colours).resize(size_px, Image.Resampling.BICUBIC).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", **options)
    return buffer.getvalue()


@pytest.fixture(params=["simplejpeg", "without"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "without":
        monkeypatch.setattr(jpeg, "simplejpeg", None)
        monkeypatch.setattr(jpeg, "_SOUND", {})
    else:
        pytest.importorskip("simplejpeg")
    return str(request.param)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "progressive": {"progressive": True},
    "progressive of full quality": {"progressive": True, "quality": 100, "subsampling": 0},
    "without subsampling": {"subsampling": 0, "quality": 95},
    "subsampled in one direction": {"subsampling": 1, "quality": 30},
    "restart markers": {"restart_marker_blocks": 3},
    "restart markers, progressive": {"restart_marker_blocks": 5, "progressive": True},
    "tables of its own": {"optimize": True},
    "grey": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
}


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("kind", KINDS)
def test_sound_files_of_all_kinds_are_sound(kind: str) -> None:
    for size_px in ((1, 1), (8, 8), (17, 16), (53, 37), (120, 90)):
        assert jpeg.damage(encoded(size_px, **KINDS[kind])) == "", size_px


def with_bytes_in_its_header(data: bytes, before: bytes) -> bytes:
    """As cameras leave them that take the length of a part for another."""
    at = data.index(before)
    return data[:at] + b"stray" + data[at:]


@pytest.mark.parametrize("before", [b"\xff\xdb", b"\xff\xc0"])
def test_bytes_that_belong_to_nothing_in_the_header_are_no_damage(before: bytes, decoder: str) -> None:
    data = encoded()
    odd = with_bytes_in_its_header(data, before)
    assert jpeg.damage(odd) == ""
    plain_HW3 = np.asarray(images.photograph(data, "plain.jpg"))
    assert np.array_equal(np.asarray(images.photograph(odd, "odd.jpg")), plain_HW3)
    assert np.array_equal(decode_rgb(odd, "odd.jpg"), plain_HW3)
    for way, damaged in ways_to_damage(odd).items():
        assert jpeg.damage(damaged), way


def ways_to_damage(data: bytes) -> dict[str, bytes]:
    """Of the coded pixels: what is lost, filled with other bytes, moved, or put in; the end of the file stays."""
    begin = data.rindex(b"\xff\xda") + 14
    end = len(data) - 2
    third, half = begin + (end - begin) // 3, begin + (end - begin) // 2
    return {
        "cut off": data[:half],
        "cut off, but ended": data[:half] + data[-2:],
        "a hole": data[:third] + data[half:],
        "zeros to the end": data[:third] + bytes(end - third) + data[end:],
        "ones to the end": data[:third] + b"\xff" * (end - third) + data[end:],
        "halves swapped": data[:begin] + data[half:end] + data[begin:half] + data[end:],
        "a part twice": data[:half] + data[third:],
        "no end": data[:end],
    }


@pytest.mark.parametrize("way", ways_to_damage(encoded()))
def test_damage_is_found(way: str, decoder: str) -> None:
    for size_px in ((120, 90), (90, 120), (300, 200)):
        damaged = ways_to_damage(encoded(size_px, quality=90))[way]
        assert jpeg.damage(damaged), size_px


@pytest.mark.parametrize("kind", KINDS)
def test_what_simplejpeg_refuses_is_refused_without_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random damage to the codes, and to the tables between them. (A few bytes too many are seen only without it.)"""
    pytest.importorskip("simplejpeg")
    data = encoded((61, 43), **KINDS[kind])
    rng = np.random.default_rng(1)
    begin = data.index(b"\xff\xda")
    missed = []
    for _ in range(60):
        at, length = int(rng.integers(begin + 14, len(data) - 2)), int(rng.integers(1, 40))
        put_in = rng.integers(0, 255, int(rng.integers(0, 40)), dtype=np.uint8).tobytes()
        damaged = data[:at] + put_in + data[at + length :]
        if not is_accepted(damaged):
            with monkeypatch.context() as without:
                without.setattr(jpeg, "simplejpeg", None)
                missed += [damaged] * is_accepted(damaged)
    assert missed == []


def is_accepted(data: bytes) -> bool:
    try:
        images.decode(data, "x.jpg")
    except DataError:
        return False
    return True


def test_what_was_found_sound_is_not_followed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    monkeypatch.setattr(jpeg, "_SOUND", {})
    data = encoded()
    assert jpeg.damage(data) == ""
    monkeypatch.setattr(jpeg, "_follow", None)
    assert jpeg.damage(data) == ""


def test_other_complaints_than_about_pixels_are_no_damage() -> None:
    """An unknown revision of JFIF; libjpeg warns of it."""
    data = bytearray(encoded())
    data[data.index(b"JFIF\0") + 5] = 9
    assert jpeg.damage(bytes(data)) == ""


def test_a_file_of_very_many_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep a decoder busy for minutes."""
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    assert jpeg.damage(data[:-2] + last * 10 + data[-2:]) == ""
    assert jpeg.damage(data[:-2] + last * 600 + data[-2:]) == "more than 500 scans"
