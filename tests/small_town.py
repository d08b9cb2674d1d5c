"""A training of seconds on a small town, by the programs as a user starts them."""

from pathlib import Path

from tests import programs

NUM_STEPS, EVALUATED_EVERY = 6, 2
EVALUATIONS = [2, 4, 6]
FIELDS = {
    "name": "local",
    "optim.max_steps": NUM_STEPS,
    "optim.warmup_steps": 0,
    "data.uri": "town",
    "data.batch_size": 4,
    "data.crop_px": "32 32",
    "data.num_threads": 1,
    "scaling.num_workers": 2,
    "scaling.cpus_per_worker": 1,
    "evaluate.every_steps": EVALUATED_EVERY,
    "tracking.log_every_steps": 1,
    "precision": "fp32",
}


def pack_town(folder: Path) -> None:
    """36 training and 18 held-out frames, so two or more of each condition, into folder/town."""
    options = ("--out", "town", "--size", "64", "96", "--train", "36", "--val", "18", "--num_processes", "1")
    packed = programs.run(folder, programs.plain_environment(), "distseg.pack", "town", *options)
    assert packed.code == 0, packed.err


def arguments(**changed: object) -> list[str]:
    """Of `python -m distseg.train`, started in the folder of `pack_town`."""
    fields = FIELDS | changed
    return ["town", *(word for name, value in fields.items() for word in (f"--{name}", *str(value).split()))]
