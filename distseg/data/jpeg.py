"""Is a JPEG damaged? Of most damaged files decoders make a picture, some of whose rows are grey or shifted.

    damage(data) -> str        what is wrong with the coded pixels; "" if nothing is

libjpeg notices: the codes of the pixels end too early or too late, or some code does not exist. Pillow does not pass
that on, so simplejpeg is asked. Where it is not installed, the codes are followed here, which takes 0.4 s a MB of
a file (0.9 s of a progressive one) and finds the same kinds of damage (ITU-T T.81, annexes F and G). JPEGs with
arithmetic codes, which are rare, are then not looked into.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from distseg.data.deflate import crc32

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

__all__ = ["SIGNATURE", "damage", "is_about_pixels", "simplejpeg"]

SIGNATURE = b"\xff\xd8"
# Of what libjpeg can say, these are about pixels. Others, such as an unknown revision of JFIF, change none.
_ABOUT_PIXELS = re.compile(r"Corrupt|Premature|Inconsistent progression|bad Huffman|truncated", re.IGNORECASE)
# Bytes that belong to nothing, before a part that stands only in the header: frame, quantisation, application, comment.
_IN_THE_HEADER = re.compile(r"extraneous bytes before marker 0x(?:c[0-2]|db|dd|e.|fe)\b", re.IGNORECASE)
_END_OF_CODES = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff+([\xd0-\xd7])")
_SOI, _EOI, _SOS, _DHT, _DRI = 0xD8, 0xD9, 0xDA, 0xC4, 0xDD
_SEQUENTIAL, _PROGRESSIVE, _OTHER_FRAMES = (0xC0, 0xC1), 0xC2, (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC))
_MAX_SCANS = 500  # as libjpeg-turbo's own limit: more are made to keep a decoder busy
_EARLY, _LATE = "its coded pixels end too early", "its coded pixels go on after the last row"


def damage(data: bytes | memoryview) -> str:
    if simplejpeg is None:
        return _by_following(bytes(data))
    try:
        kind = simplejpeg.decode_jpeg_header(data)[2]
        colours = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}.get(kind, "RGB")
        simplejpeg.decode_jpeg(data, colours, min_height=1, min_width=1)  # at an eighth of the size: all codes are read
    except (ValueError, KeyError) as error:  # KeyError: a subsampling that it does not know
        return is_about_pixels(error) or _by_following(bytes(data))
    return ""


def is_about_pixels(error: Exception) -> str:
    """What simplejpeg complains of, if that changes pixels; else ""."""
    text = " ".join(str(error).split())
    return text if _ABOUT_PIXELS.search(text) and not _IN_THE_HEADER.search(text) else ""


# ---- without simplejpeg

_SOUND: dict[int, None] = {}  # the CRC-32 of files that were followed, so that each epoch of a training need not do it
_MAX_SOUND = 1 << 17


def _by_following(data: bytes) -> str:
    checksum = crc32(data)
    if checksum in _SOUND:
        return ""
    try:
        problem = _follow(data)
    except (IndexError, KeyError):  # behind the last code; a table or component that is not there
        problem = _EARLY
    except ValueError as error:
        problem = str(error)
    if not problem:
        if len(_SOUND) >= _MAX_SOUND:
            _SOUND.clear()
        _SOUND[checksum] = None
    return problem


@dataclass
class _Component:
    """One of brightness and colours. A block is 8x8 of its pixels."""

    h: int  # blocks of it in an MCU, across and down
    v: int
    num_blocks: int  # in a scan of its own
    nonzero: bytearray = field(default_factory=bytearray)  # of each block's 64 coefficients, in a progressive file


@dataclass
class _Frame:
    is_progressive: bool
    num_mcus: int
    components: dict[int, _Component]


def _follow(data: bytes) -> str:
    frame: _Frame | None = None
    tables: dict[int, list[int]] = {}
    interval, num_scans = 0, 0
    for marker, body, coded in _segments(data):
        if marker == _EOI:
            return "" if num_scans else _EARLY
        if marker in _OTHER_FRAMES:
            return ""
        if marker in (*_SEQUENTIAL, _PROGRESSIVE):
            frame = _frame(marker == _PROGRESSIVE, body)
        elif marker == _DHT:
            tables |= _tables(body)
        elif marker == _DRI:
            interval = int.from_bytes(body[:2])
        elif marker == _SOS:
            num_scans += 1
            if num_scans > _MAX_SCANS:
                return f"more than {_MAX_SCANS} scans"
            if frame is None or (problem := _Scan(frame, tables, body).follow(coded, interval)):
                return problem if frame else _EARLY
    return "it has no end"


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(marker, its body, the codes behind it, of SOS) from begin to end. Decoders pass over what stands between the
    parts of the header and belongs to none; later it is what is left of codes."""
    at, is_in_header = 2, True
    while at + 1 < len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0x00:
            if not is_in_header:
                raise ValueError("bytes that belong to nothing stand between its parts")
            at += 1
            continue
        if marker == 0xFF:  # may be put before any marker
            at += 1
            continue
        if marker == _EOI or 0xD0 <= marker <= _SOI or marker == 0x01:  # without a body
            yield marker, b"", b""
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        body, coded = data[at + 4 : end], b""
        if marker == _SOS:
            is_in_header = False
            found = _END_OF_CODES.search(data, end)
            if found is None:
                return
            coded, end = data[end : found.start()], found.start()
        yield marker, body, coded
        at = max(end, at + 2)


def _frame(is_progressive: bool, body: bytes) -> _Frame:
    height, width, num_components = int.from_bytes(body[1:3]), int.from_bytes(body[3:5]), body[5]
    rows = [body[6 + 3 * i : 9 + 3 * i] for i in range(num_components)]
    h_max, v_max = max(row[1] >> 4 for row in rows), max(row[1] & 15 for row in rows)
    components = {}
    for number, sampling, _ in rows:
        h, v = sampling >> 4, sampling & 15
        num_blocks = _ceil(_ceil(width * h, h_max), 8) * _ceil(_ceil(height * v, v_max), 8)
        components[number] = _Component(h, v, num_blocks, bytearray(64 * num_blocks if is_progressive else 0))
    return _Frame(is_progressive, _ceil(width, 8 * h_max) * _ceil(height, 8 * v_max), components)


def _ceil(number: int, unit: int) -> int:
    return -(-number // unit)


def _tables(body: bytes) -> dict[int, list[int]]:
    """Huffman tables by class (16: AC) and number."""
    found, at = {}, 0
    while at + 17 <= len(body):
        counts = body[at + 1 : at + 17]
        end = at + 17 + sum(counts)
        found[body[at]] = _table(counts, body[at + 17 : end])
        at = end
    return found


@functools.lru_cache(maxsize=16)
def _table(counts: bytes, symbols: bytes) -> list[int]:
    """For each 16 bits: (length of the code they begin with) << 8 | symbol. No code: a length that leads far away."""
    entries: list[int] = []
    at = 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[at : at + count]:
            entries += [length << 8 | symbol] * (1 << (16 - length))
        at += count
    return entries[: 1 << 16] + [1 << 40] * max(0, (1 << 16) - len(entries))


class _Scan:
    """Follows the codes of one scan. Raises IndexError behind the last of them."""

    def __init__(self, frame: _Frame, tables: dict[int, list[int]], body: bytes) -> None:
        num = body[0]
        rows = [body[1 + 2 * i : 3 + 2 * i] for i in range(num)]
        self._components = [frame.components[row[0]] for row in rows]
        self._first, self._last, self._refines = body[1 + 2 * num], min(63, body[2 + 2 * num]), body[3 + 2 * num] >> 4
        self._is_progressive = frame.is_progressive
        needs_dc = not self._is_progressive or (self._first == 0 and not self._refines)
        needs_ac = not self._is_progressive or self._first > 0
        self._dc = [tables[row[1] >> 4] if needs_dc else [] for row in rows]
        self._ac = [tables[16 | (row[1] & 15)] if needs_ac else [] for row in rows]
        self._num_mcus = self._components[0].num_blocks if num == 1 else frame.num_mcus
        self._per_mcu = [1] if num == 1 else [each.h * each.v for each in self._components]
        self._bits: memoryview = memoryview(b"")  # at each bit, the 16 bits from it on
        self._at = 0

    def follow(self, coded: bytes, interval: int) -> str:
        parts = [part.replace(b"\xff\x00", b"\xff") for part in _RESTART.split(coded)[::2]]
        if any(marker[0] & 7 != i % 8 for i, marker in enumerate(_RESTART.findall(coded))):
            return "its restart markers are in a wrong order"
        interval = interval or self._num_mcus
        num_intervals = max(1, _ceil(self._num_mcus, interval))
        if len(parts) < num_intervals:
            return _EARLY
        if len(parts) > num_intervals and any(parts[num_intervals:]):
            return _LATE
        for number, part in enumerate(parts[:num_intervals]):
            self._bits, self._at = _sixteens(part), 0
            self._interval(number * interval, min(self._num_mcus, (number + 1) * interval))
            left = 8 * len(part) - self._at
            if left < 0:
                return _EARLY
            if left >= 8:
                return _LATE
        return ""

    def _interval(self, start: int, stop: int) -> None:
        if self._is_progressive and self._first > 0:
            (self._refine_ac if self._refines else self._first_ac)(start, stop)
        elif self._is_progressive and self._refines:
            self._at += (stop - start) * sum(self._per_mcu)  # a bit for each block
        else:
            blocks = [
                (dc, ac) for dc, ac, count in zip(self._dc, self._ac, self._per_mcu, strict=True) for _ in range(count)
            ]
            self._sequential(blocks, stop - start)

    def _sequential(self, blocks: list[tuple[list[int], list[int]]], num_mcus: int) -> None:
        """Also the first scan of a progressive file, which has no AC tables."""
        bits, at = self._bits, self._at
        for _ in range(num_mcus):
            for dc, ac in blocks:
                entry = dc[bits[at]]
                at += (entry >> 8) + (entry & 15)
                k = 1 if ac else 64
                while k < 64:
                    entry = ac[bits[at]]
                    size = entry & 15
                    at += (entry >> 8) + size
                    if size:
                        k += (entry >> 4 & 15) + 1
                    elif entry & 0xF0 == 0xF0:
                        k += 16
                    else:
                        break
        self._at = at

    def _first_ac(self, start: int, stop: int) -> None:
        bits, at, ac, nonzero = self._bits, self._at, self._ac[0], self._components[0].nonzero
        block = start
        while block < stop:
            k = self._first
            while k <= self._last:
                entry = ac[bits[at]]
                size, run = entry & 15, entry >> 4 & 15
                at += entry >> 8
                if size:
                    k += run
                    nonzero[64 * block + k] = 1
                    at += size
                    k += 1
                elif run == 15:
                    k += 16
                else:
                    block += (1 << run) - 1 + (bits[at] >> (16 - run) if run else 0)  # so many blocks have ended
                    at += run
                    break
            block += 1
        self._at = at

    def _refine_ac(self, start: int, stop: int) -> None:
        bits, at, ac, nonzero = self._bits, self._at, self._ac[0], self._components[0].nonzero
        num_ended = 0  # blocks, from this on, that have no new coefficients
        for block in range(64 * start, 64 * stop, 64):
            k, end = block + self._first, block + self._last + 1
            while k < end and not num_ended:
                entry = ac[bits[at]]
                size, run = entry & 15, entry >> 4 & 15
                at += (entry >> 8) + (size > 0)
                if not size and run < 15:
                    num_ended = (1 << run) + (bits[at] >> (16 - run) if run else 0)
                    at += run
                    break
                while k < end and (nonzero[k] or run):
                    at += nonzero[k]  # a bit for each that is refined
                    run -= not nonzero[k]
                    k += 1
                if size and k < end:
                    nonzero[k] = 1
                k += 1
            if num_ended:
                at += nonzero.count(1, k, end)
                num_ended -= 1
        self._at = at


def _sixteens(part: bytes) -> memoryview:
    padded = np.frombuffer(part + bytes(2), dtype=np.uint8).astype(np.uint32)
    words = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    return (words[:, None] >> np.arange(8, 0, -1) & 0xFFFF).astype(np.uint16).reshape(-1).data
