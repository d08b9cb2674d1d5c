"""Every benchmark of this folder, one after the other, and one table of all their cases.

    python -m tests.benchmarks [--quick] [--only reader plan]

Each `bench_NAME.py` runs in a process of its own, because they set threads and cores. Its JSON lines are passed on as
they come; the Markdown table follows at the end. `--quick` is for a machine of two cores and takes less than 15
minutes, with fewer and smaller laps: look at the spread. A benchmark that fails is named, the others run, and the exit
code is 1.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.cases import is_line, say, table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller laps")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="the NAME of bench_NAME.py; all")
    parser.add_argument("--folder", default=Path(__file__).parent, type=Path, help="of the benchmarks")
    options = parser.parse_args()
    programs = {path.stem.removeprefix("bench_"): path for path in sorted(options.folder.glob("bench_*.py"))}
    chosen = options.only or list(programs)
    if unknown := [name for name in chosen if name not in programs]:
        parser.error(f"--only {unknown[0]}: no such benchmark; there are {', '.join(programs)}")
    lines: list[dict[str, Any]] = []
    failed = []
    for name in chosen:
        began_s = time.perf_counter()
        code, found = _run(programs[name], options.quick)
        lines += found
        if code or not found:
            failed.append(name)
            say(f"{name}: failed with exit code {code}" if code else f"{name}: printed no case")
        say(f"{name}: {time.perf_counter() - began_s:.0f} s")
    print(f"\n{table(lines)}", flush=True)
    return int(bool(failed))


def _run(program: Path, quick: bool) -> tuple[int, list[dict[str, Any]]]:
    found = []
    command = [sys.executable, str(program), *(["--quick"] if quick else [])]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}  # where they find each other
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        for text in running.stdout:
            print(text, end="", flush=True)
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if is_line(line):
                found.append(line)
    return running.returncode, found


if __name__ == "__main__":
    sys.exit(main())
