"""Reads packed data with webdataset alone, and says how bright each condition is.

    python examples/shards_without_distseg.py runs/data/town/train

A shard is a plain tar with KEY.png or KEY.jpg, KEY.label.png and KEY.json of each sample.
"""

import sys
from collections import defaultdict
from pathlib import Path

import webdataset


def brightness(split: Path) -> dict[str, float]:
    """Condition -> mean value of its pixels, 0 to 255."""
    shards = sorted(map(str, split.glob("*.tar")))
    samples = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode("rgb8")
    means = defaultdict(list)
    for sample in samples:
        image_HW3 = sample.get("png", sample.get("jpg"))
        means[sample["json"]["condition"]].append(float(image_HW3.mean()))
    return {condition: sum(values) / len(values) for condition, values in sorted(means.items())}


if __name__ == "__main__":
    for name, mean in brightness(Path(sys.argv[1])).items():
        print(f"{name:<14} {mean:5.1f}")
