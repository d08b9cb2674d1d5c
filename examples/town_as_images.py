"""Writes frames of the procedural town as ordinary images, in the layout of `python -m distseg.pack folder`.

python examples/town_as_images.py my-images
"""

import csv
import json
import sys
from pathlib import Path

from PIL import Image

from distseg.data import datasets


def write_images(root: Path, num_train: int = 36, num_val: int = 18, size: tuple[int, int] = (96, 144)) -> None:
    """images/SPLIT/NAME.png, labels/SPLIT/NAME.png, classes.json and conditions.csv below `root`."""
    town = datasets.find("town")
    assert town.options is not None
    options = town.options(train=num_train, val=num_val, size=size)
    rows = [("file", "condition", "site")]
    for split in ("train", "val"):
        for sample in town.samples_of("", split, options):
            name, frame = f"{split}/{sample.key}.png", sample.load()
            for part in ("images", "labels"):
                (root / part / split).mkdir(parents=True, exist_ok=True)
            (root / "images" / name).write_bytes(frame.image)
            Image.fromarray(frame.label_HW).save(root / "labels" / name)
            rows.append((name, sample.condition, sample.site))
    (root / "classes.json").write_text(json.dumps(town.labels("").classes))
    with (root / "conditions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


if __name__ == "__main__":
    write_images(Path(sys.argv[1]))
