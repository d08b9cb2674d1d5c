"""Small photographs and label maps in the formats of raw data sets, byte for byte as the originals have them."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.uint16]


def write_photograph(path: Path, size_hw: tuple[int, int], seed: int = 0) -> Pixels:
    """PNG or JPEG by its name; returns what a reader of the file sees."""
    pixels_HW3 = np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_HW3).save(path)
    return pixels_of(path.read_bytes())


def pixels_of(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def write_grey(path: Path, ids_HW: Ids) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids_HW.astype(np.uint8)).save(path)


def write_deep_grey(path: Path, ids_HW: Ids) -> None:
    """16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids_HW).save(path)


def write_palette(path: Path, ids_HW: Ids) -> None:
    """The palette runs backwards, so that colours taken for ids would show."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids_HW.astype(np.uint8)).convert("P")
    image.putdata(ids_HW.ravel().tolist())
    image.putpalette([255 - i // 3 for i in range(768)])
    image.save(path)


def write_synthia(path: Path, ids_HW: Ids) -> None:
    """Three 16-bit channels: the class, an instance above 255, nothing."""
    instances_HW = np.arange(ids_HW.size, dtype=np.uint16).reshape(ids_HW.shape) + 700
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.stack([ids_HW, instances_HW, np.zeros_like(ids_HW)], axis=-1).astype(">u2"), 16))


def write_mat(path: Path, ids_HW: Ids) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation = ids_HW.astype(np.uint8)
    savemat(path, {"GTcls": {"Boundaries": np.zeros((20, 1)), "Segmentation": segmentation, "CategoriesPresent": [1]}})


def png(rows: npt.NDArray[np.generic], bit_depth: int) -> bytes:
    """Of (H, W, 3) colours or of grey (H, packed bytes), in the bytes of the file; W is 8 / bit_depth pixels a byte."""
    is_rgb = rows.ndim == 3
    width = rows.shape[1] if is_rgb else rows.shape[1] * 8 // bit_depth
    header = struct.pack(">IIBBBBB", width, rows.shape[0], bit_depth, 2 if is_rgb else 0, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", header), (b"IDAT", content), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
