"""What is segmented: frames of a video come by their time stamps, from anywhere in the file, as they are shown."""

import importlib.util
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from distseg import storage
from distseg.deployment import images_at
from distseg.deployment.inputs import Place
from distseg.errors import ConfigError, DataError

NUM_FRAMES = 14


def write_video(path: Path, levels: Sequence[int]) -> None:
    """Grey frames of 64x48 with a key frame at every fifth; the left half is black."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 48, "yuv420p", Fraction(1, 25)
        stream.codec_context.gop_size = 5
        for level in levels:
            pixels_HW3 = np.full((48, 64, 3), level, dtype=np.uint8)
            pixels_HW3[:, :32] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels_HW3, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "drive.mp4"
    write_video(path, [15 * n + 20 for n in range(NUM_FRAMES)])
    return path


def numbers(uri: str, places: Sequence[Place]) -> list[int]:
    """Which frames `read` gives."""
    found = images_at(uri).read(places, 1)
    return [round((float(np.asarray(image)[8:40, 40:60].mean()) - 20) / 15) for image in found]


def test_every_third_frame_and_any_part_of_them(video: Path, moto_s3: str) -> None:
    places = images_at(str(video), 3).places()
    assert [place.name for place in places] == [f"{n:06d}.png" for n in range(0, NUM_FRAMES, 3)]
    assert numbers(str(video), places) == [0, 3, 6, 9, 12]
    assert numbers(str(video), places[3:]) == [9, 12]  # from the key frame before it
    storage.upload(video, f"{moto_s3}/drive.mp4")
    assert numbers(f"{moto_s3}/drive.mp4", images_at(f"{moto_s3}/drive.mp4").places()[4:7]) == [4, 5, 6]


def test_a_frame_is_turned_as_players_show_it(video: Path, tmp_path: Path) -> None:
    """A quarter clockwise, as phones write it: in the matrix of the track's header (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(video.read_bytes())
    matrix = data.index(b"tkhd") + 44
    a, b, c, d = (slice(matrix + at, matrix + at + 4) for at in (0, 4, 12, 16))
    data[a], data[b], data[c], data[d] = bytes(4), b"\x00\x01\x00\x00", b"\xff\xff\x00\x00", bytes(4)
    (tmp_path / "turned.mp4").write_bytes(data)
    source = images_at(str(tmp_path / "turned.mp4"))
    (image,) = source.read(source.places()[-1:], 1)
    assert image.size == (48, 64)
    pixels_HW3 = np.asarray(image)
    assert pixels_HW3[:28].max() < 60 < pixels_HW3[36:].min()  # what was on the left is above


def test_what_is_no_readable_video(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:-200])
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("cut.mp4", "text.mp4"):
        with pytest.raises(DataError, match=rf"{name}: not a readable video \(.*\); repair or convert it"):
            images_at(str(tmp_path / name)).places()
    places = images_at(str(video)).places()
    with pytest.raises(DataError, match=r"frame 99.png cannot be decoded"):
        list(images_at(str(video)).read([*places[:2], Place("99.png", 10**9)], 1))
    with pytest.raises(DataError, match=r"64x48 pixels are .* max_megapixels is 0.001"):
        list(images_at(str(video)).read(places[:1], 0.001))
    with pytest.raises(ConfigError, match=r"--every 2: it is for videos"):
        images_at(str(tmp_path), 2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"a video needs PyAV: pip install 'distseg\[video\]'"):
        images_at(str(video))
