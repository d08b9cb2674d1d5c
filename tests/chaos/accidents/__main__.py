"""Accidents on hosts of their own, and the table of what they cost.

    python -m tests.chaos.accidents [--out table.md] [--only NAME …] [--jobs FOLDER] [--list]

Brings up a head and two workers as network namespaces, Ceph's S3, PostgreSQL and MLflow; trains once undisturbed, then
once for each accident, on the same cluster. Needs root and what infra/install_debian.sh installs. The table is written
after each accident. Exit status 1 if one was not survived, or lost a sample or a row.
"""

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

from tests.chaos.accidents.bench import NotTriedError, ready
from tests.chaos.accidents.faults import ACCIDENTS, try_accident, undisturbed
from tests.chaos.accidents.training import Row, as_table, say, write


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.accidents", description=__doc__)
    parser.add_argument("--out", type=Path, help="file for the table")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=ACCIDENTS, help="these accidents; see --list")
    parser.add_argument("--jobs", type=Path, help="keeps here what the jobs print")
    parser.add_argument("--list", action="store_true", help="lists the accidents and ends")
    options = parser.parse_args()
    if options.list:
        for it in ACCIDENTS.values():
            print(f"{it.name:24} {it.fault}")
        return 0
    rows: list[Row] = []
    num_failed = 0
    with tempfile.TemporaryDirectory() as scratch, ready(options.jobs or Path(scratch)) as bench:
        say("undisturbed")
        expected = undisturbed(bench)
        say(f"undisturbed: the longest step took {expected.still_s:.1f} s")
        for name in options.only or ACCIDENTS:
            say(name)
            try:
                row = try_accident(bench, name, expected)
            except NotTriedError as error:
                say(f"{name}: not tried: {error}")
                continue
            except Exception:
                num_failed += 1
                say(f"{name}: NOT SURVIVED")
                traceback.print_exc()
                continue
            rows.append(row)
            say(as_table([row]))
            write(options.out, rows)
    print(as_table(rows))
    return int(num_failed > 0 or not all(row.is_sound for row in rows))


if __name__ == "__main__":
    sys.exit(main())
