"""`python -m tests.benchmarks.gpu --out FILE.json`: runs the sections and writes the file."""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distseg.data import datasets, shards
from distseg.data.processes import in_processes, num_cores
from distseg.errors import first_line
from tests.benchmarks.gpu import __doc__ as DESCRIPTION
from tests.benchmarks.gpu.bench import Bench, Sizes
from tests.benchmarks.gpu.sections import camvid, equality, evaluation_speed, machine, reader, town, two_ranks
from tests.benchmarks.gpu.steps import steps

SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "machine": machine,
    "equality": equality,
    "two_ranks": two_ranks,
    "steps": steps,
    "reader": reader,
    "evaluation": evaluation_speed,
    "town": town,
    "camvid": camvid,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="the JSON file")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sections", nargs="*", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--camvid", help="CamVid, packed; without it that section is left out")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    return options


def main() -> int:
    options = _arguments()
    out = Path(options.out)
    found: dict[str, Any] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        sizes = Sizes.small() if options.small else Sizes.full()
        town_uri, large_uri = (str(Path(folder) / name) for name in ("town", "large"))
        bench = Bench(
            torch.device(options.device),
            sizes,
            town_uri,
            large_uri,
            options.camvid,
        )
        _pack(town_uri, sizes.town, (128, 192))
        _pack(large_uri, sizes.large_frames, sizes.large_px)
        for name in options.sections:
            if name == "camvid" and options.camvid is None:
                continue
            start_s = time.perf_counter()
            try:
                found[name] = SECTIONS[name](bench)
            except Exception as error:  # what was measured before must not be lost
                traceback.print_exc()
                found[name] = {"error": f"{type(error).__name__}: {first_line(error)}"}
            found[name]["took_s"] = round(time.perf_counter() - start_s, 1)
            out.write_text(json.dumps(found, indent=1) + "\n")  # after each, so that a time limit leaves the others
            print(json.dumps({name: found[name]}), flush=True)
    print(f"{out}: {time.perf_counter() - began_s:.0f} s")
    return int(any("error" in section for section in found.values()))


def _pack(uri: str, num_frames: tuple[int, int], size: tuple[int, int]) -> None:
    town = datasets.find("town")
    assert town.options is not None
    options = town.options(train=num_frames[0], val=num_frames[1], size=size)
    samples = {split: town.samples_of("", split, options) for split in town.default_splits("", options)}
    shards.pack(samples, town.labels(""), uri, dataset=town.name, run=in_processes(num_cores()))


if __name__ == "__main__":
    sys.exit(main())
