"""`python -m distseg`, and the console script `distseg`: lists the programs, or runs one.

distseg                    what there is
distseg VERB ARGUMENTS…    the same as python -m distseg.VERB ARGUMENTS…
"""

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import distseg
from distseg.errors import ConfigError

PROGRAMS = {
    "pack": "packs a data set into WebDataset shards; verifies and shows what was packed",
    "train": "trains a recipe on a Ray cluster, or without one under torchrun",
    "tune": "searches a space for the best configuration, over Ray Tune",
    "evaluate": "evaluates a checkpoint on any split and conditions",
    "adapt": "writes a network with batch norm's statistics of other conditions",
    "study": "the papers' comparisons on town, each a table by one resumable command",
    "stylize": "trains AdaIN style networks, and restyles data sets with them",
    "report": "runs side by side, with what the test images can and cannot tell",
    "sync": "sends what the tracking server has not of a run",
    "predict": "segments the photographs of a directory, or a video",
    "export": "writes a checkpoint's network as ONNX or torch.export, checked",
    "models": "the networks side by side: parameters, operations, milliseconds",
}
MODULES = {verb: f"distseg.{verb}" for verb in PROGRAMS} | {"models": "distseg.models.__main__"}


def main() -> NoReturn:
    """Exits with the program's code; 2 for a verb that does not exist."""
    from distseg import cli

    verb, *arguments = sys.argv[1:] or ["--help"]
    if verb in MODULES:
        sys.argv = [f"distseg {verb}", *arguments]
        cli.run(importlib.import_module(MODULES[verb]).main)
    cli.run(about)


def about(arguments: Sequence[str]) -> int:
    """What `distseg` says of itself. Raises ConfigError for a verb that does not exist."""
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        print(overview())
    elif verb == "--version":
        print(f"distseg {distseg.__version__}")
    else:
        raise ConfigError(f"{verb!r}: no such program; choose from {', '.join(PROGRAMS)}")
    return 0


def overview() -> str:
    """One line per program."""
    lines = [f"  distseg {verb:<9} {sentence}" for verb, sentence in PROGRAMS.items()]
    return "\n".join(
        (
            "distseg: distributed training of segmentation networks, measured per weather condition",
            "",
            *lines,
            "",
            "Each has --help, and is also python -m distseg.VERB. Start with: distseg train",
        )
    )


if __name__ == "__main__":
    main()
