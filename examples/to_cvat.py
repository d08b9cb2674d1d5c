"""Puts the label maps of `python -m distseg.predict` into a zip that CVAT imports as "Segmentation mask 1.1".

    python examples/to_cvat.py predicted masks.zip

Needs NumPy and Pillow, not distseg. CVAT finds images and classes by their names: the task must have the images that
were given to `predict`, and labels named as the classes. In the zip

    labelmap.txt                            the colour of each class
    ImageSets/Segmentation/default.txt      the images, without their endings
    SegmentationClass/NAME.png              RGB, every pixel in the colour of its class
"""

import csv
import io
import sys
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image

BACKGROUND = "background"  # black, which CVAT takes for "no class"


def write_zip(predicted: Path, out: Path) -> tuple[list[str], list[str]]:
    """The images and the classes that were written."""
    with (predicted / "images.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    classes = header[2:]  # after the image's name and its confidence
    if wrong := [name for name in classes if ":" in name or name.startswith("#") or name.strip() in ("", BACKGROUND)]:
        sys.exit(f"{predicted}/images.csv: a class {wrong[0]!r} cannot be in a labelmap.txt; rename it in the header")
    images = [str(PurePosixPath(name).with_suffix("")) for name, *_ in rows]
    colours_K3 = voc_colours(len(classes))
    with zipfile.ZipFile(out, "w") as file:
        lines = [(BACKGROUND, (0, 0, 0)), *zip(classes, colours_K3.tolist(), strict=True)]
        text = "".join(f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in lines)
        file.writestr("labelmap.txt", f"# label:color_rgb:parts:actions\n{text}")
        file.writestr("ImageSets/Segmentation/default.txt", "".join(f"{name}\n" for name in images))
        for name in images:
            with Image.open(predicted / "label" / f"{name}.png") as label:
                mask = Image.fromarray(colours_K3[np.asarray(label)])
            png = io.BytesIO()
            mask.save(png, format="PNG")
            file.writestr(f"SegmentationClass/{name}.png", png.getvalue())
    return images, classes


def voc_colours(num_classes: int) -> npt.NDArray[np.uint8]:
    """Colours 1, 2, … of Pascal VOC, RGB: no two are alike up to 255, and none is black.

    The bits of a number are spread over the channels, as VOC's development kit does it: bits 0, 3, 6 are red's highest
    ones, bits 1, 4, 7 green's, bits 2, 5 blue's.
    """
    numbers_K = np.arange(1, num_classes + 1)
    channels = [sum((numbers_K >> 3 * k + channel & 1) << 7 - k for k in range(3)) for channel in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(
            "give the folder that predict wrote, and the zip to write: python examples/to_cvat.py predicted masks.zip"
        )
    written, labels = write_zip(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{len(written)} masks of the labels {', '.join(labels)}")
