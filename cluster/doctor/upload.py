"""What of the working directory travels with a job: its size, and whether the doctor's own job can run there."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cluster.doctor.findings import Finding, failed, ok

MAX_BYTES = 500 << 20  # Ray's limit
NAME = "working directory"
NUM_LARGEST = 3
_NEVER_SENT = {".git", ".venv", "venv", "__pycache__"}  # by Ray


def check_working_dir(folder: Path, where: str) -> Finding:
    sizes = sorted(((path.lstat().st_size, path) for path in _files(folder)), reverse=True)
    total = sum(size for size, _ in sizes)
    seen = f"{len(sizes)} files, {total / 2**20:.1f} MiB of at most {MAX_BYTES >> 20}"
    if total >= MAX_BYTES:
        largest = ", ".join(f"{path.relative_to(folder)} ({size >> 20} MiB)" for size, path in sizes[:NUM_LARGEST])
        return failed(NAME, f"{seen}; the largest: {largest}", "name them in .gitignore, or move them away", where)
    if not (folder / "cluster" / "doctor").is_dir():
        return failed(NAME, f"{folder} has no cluster/doctor", "give a clone of distseg by --working-dir", where)
    return ok(NAME, seen, where)


def _files(folder: Path) -> Iterator[Path]:
    """All but what .gitignore names, as Ray does it."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):  # no git, or no repository: nothing is left out
        for parent, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if name not in _NEVER_SENT]
            yield from (Path(parent, name) for name in names)
        return
    paths = (folder / os.fsdecode(name) for name in listed.split(b"\0") if name)
    yield from (path for path in paths if path.is_file())
