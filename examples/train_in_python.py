"""Packs images of your own, trains in this process, without Ray, and prints the score of each condition.

    python examples/town_as_images.py my-images
    python examples/train_in_python.py my-images --steps 200

`distseg.train_on_ray(config)` does the same on all machines of a Ray cluster.
"""

import argparse
from pathlib import Path

import distseg
from distseg.data import datasets


def train(images: Path, num_steps: int) -> str:
    """Returns the directory of the run."""
    folder, root = datasets.find("folder"), str(images)
    samples = {split: folder.samples_of(root, split) for split in folder.default_splits(root)}
    distseg.pack_samples(samples, folder.labels(root), "runs/data/mine", dataset="mine")

    changes = {
        "name": "mine",
        "data.uri": "runs/data/mine",
        "data.crop_px": (96, 96),
        "data.batch_size": 4,
        "optim.max_steps": num_steps,
        "optim.warmup_steps": 0,
    }
    config = distseg.with_overrides(distseg.recipes.pspnet_camvid(), changes)
    outcome = distseg.train_without_ray(config)
    assert outcome is not None  # it is None on the ranks of torchrun that report nothing
    for condition, scores in outcome.tables["conditions"].items():
        print(f"{condition:<14} {scores['mIoU']:.3f}")
    return outcome.run_uri


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    print(train(arguments.images, arguments.steps))
