"""What a batch job needs to know about its Ray cluster and its training; cluster/slurm.sh calls it.

    python -m cluster.allocation wait NUM      until so many machines have joined the cluster at RAY_ADDRESS
    python -m cluster.allocation newest URI    prints the newest run below a checkpoint.uri; nothing if there is none

Exit status: 0; 1 with one line if the machines do not come or the place cannot be read; 2 for bad arguments.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence

from distseg import storage
from distseg.errors import DistsegError, ResourceError
from distseg.runs import read_run_json

JOIN_S = 300.0
POLL_S = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.allocation")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("wait").add_argument("num", type=int)
    commands.add_parser("newest").add_argument("uri")
    options = parser.parse_args(arguments)
    try:
        if options.command == "wait":
            wait_for_machines(options.num)
        else:
            print(newest_run(options.uri), end="")
    except DistsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def newest_run(uri: str) -> str:
    """The directory of the run that began last; empty if there is none. A directory without run.json is no run."""
    found = []
    for name in storage.list_folders(uri):
        run_uri = storage.join(uri, name)
        if storage.exists(storage.join(run_uri, "run.json")):
            found.append((int(read_run_json(run_uri)["started_ms"]), run_uri))
    return max(found)[1] if found else ""


def wait_for_machines(num: int) -> None:
    """Raises ResourceError if fewer than `num` have joined after JOIN_S."""
    import ray

    ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
    end_s = time.monotonic() + JOIN_S
    while (alive := sum(bool(node["Alive"]) for node in ray.nodes())) < num:
        if time.monotonic() > end_s:
            raise ResourceError(
                f"{alive} of {num} machines have joined after {JOIN_S:.0f} s; look at the job's output for the others"
            )
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main())
