"""What is segmented: the photographs of a directory or s3:// prefix, or the frames of a video.

    images_at(uri, every) -> Source               by the name's ending; `every` is for videos
    source.places()                               all its images, in order
    source.read(places, max_megapixels)           some of them, decoded, in the same order

A source is a few words long, as tasks in other processes and on other machines are given it. Videos are read by PyAV,
which holds FFmpeg's libraries (the extra `video`).
"""

import importlib.util
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from PIL import Image

from distseg import storage
from distseg.data import images
from distseg.deployment.photographs import decode_photograph, sizes_below
from distseg.errors import ConfigError, DataError, first_line

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from av.container import InputContainer
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")
_BUFFER_BYTES = 1 << 20  # of a video that is read at once


class Place(NamedTuple):
    """An image's name relative to its source, and in a video the time stamp of the frame."""

    name: str
    pts: int = 0
    num_bytes: int = 0  # of its file, by which it is known again


class Source(Protocol):
    @property
    def uri(self) -> str: ...

    def places(self) -> list[Place]: ...

    def read(self, places: Sequence[Place], max_megapixels: float) -> Iterator[Image.Image]: ...


def images_at(uri: str, every: int | None = None) -> Source:
    """Raises ConfigError for `every` without a video, and for a video without PyAV."""
    if not uri.lower().endswith(VIDEO_SUFFIXES) or storage.folder_exists(uri):
        if every is not None:
            raise ConfigError(f"--every {every}: it is for videos ({', '.join(VIDEO_SUFFIXES)}); leave it out")
        return Photographs(uri)
    if importlib.util.find_spec("av") is None:
        raise ConfigError(f"--images {uri}: a video needs PyAV: pip install 'distseg[video]'")
    return Video(uri, every or 1)


@dataclass(frozen=True)
class Photographs:
    uri: str

    def places(self) -> list[Place]:
        return [Place(name, num_bytes=size) for name, size in sizes_below(self.uri).items()]

    def read(self, places: Sequence[Place], max_megapixels: float) -> Iterator[Image.Image]:
        for place in places:
            source = storage.join(self.uri, place.name)
            yield decode_photograph(storage.read_bytes(source), source, max_megapixels)


@dataclass(frozen=True)
class Video:
    """Frames are named by their number from 0: `000120.png`. Every `every`th is taken."""

    uri: str
    every: int = 1

    def places(self) -> list[Place]:
        """Reads the file once and decodes nothing. Raises DataError for what is no video with time stamps."""
        import av

        try:
            with self._opened() as container:
                packets = container.demux(_stream(container, self.uri))
                stamps = [packet.pts for packet in packets if packet.size and not packet.is_discard]
        except av.error.FFmpegError as error:
            raise self._unreadable(error) from error
        if not stamps or None in stamps:
            raise DataError(f"{self.uri}: its frames have no time stamps; convert it to MP4, as with ffmpeg")
        in_order = sorted({pts for pts in stamps if pts is not None})
        size = storage.num_bytes(self.uri)
        return [Place(f"{n:06d}.png", pts, size) for n, pts in enumerate(in_order) if n % self.every == 0]

    def read(self, places: Sequence[Place], max_megapixels: float) -> Iterator[Image.Image]:
        """Raises DataError if a frame cannot be decoded."""
        import av

        waiting = list(places)
        try:
            for from_pts in (places[0].pts, None):  # a file whose index is wrong is decoded from its beginning
                with self._opened() as container:
                    for pts, image in self._frames(container, from_pts, max_megapixels, {p.pts for p in waiting}):
                        if pts != waiting[0].pts:
                            break
                        yield image
                        waiting.pop(0)
                        if not waiting:
                            return
        except av.error.FFmpegError as error:
            raise self._unreadable(error) from error
        raise DataError(f"{self.uri}: frame {waiting[0].name} cannot be decoded; repair or cut the video")

    def _frames(
        self, container: "InputContainer", from_pts: int | None, max_megapixels: float, wanted: set[int]
    ) -> Iterator[tuple[int | None, Image.Image]]:
        """The wanted frames from the key frame before `from_pts`, as they are shown."""
        stream = _stream(container, self.uri)
        images.check_size(stream.width, stream.height, self.uri, max_megapixels)
        stream.thread_type = "AUTO"
        if from_pts is not None:
            container.seek(from_pts, stream=stream)
        for frame in container.decode(stream):
            if frame.pts in wanted:
                image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                yield frame.pts, image.rotate(frame.rotation, expand=True) if frame.rotation else image

    def _opened(self) -> "InputContainer":
        import av

        return av.open(io.BufferedReader(_File(self.uri), _BUFFER_BYTES), mode="r")

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(f"{self.uri}: not a readable video ({first_line(error)}); repair or convert it")


def _stream(container: "InputContainer", uri: str) -> "VideoStream":
    if not container.streams.video:
        raise DataError(f"{uri}: there is no video in it; give a file with one")
    return container.streams.video[0]


class _File(io.RawIOBase):
    """A file of any store as PyAV reads it: by ranges, back and forth."""

    def __init__(self, uri: str) -> None:
        self._uri, self._at, self._num_bytes = uri, 0, storage.num_bytes(uri)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._num_bytes - self._at)]
        num_read = storage.read_into(view, self._uri, self._at) if len(view) else 0
        self._at += num_read
        return num_read
