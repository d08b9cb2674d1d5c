"""Which code made a checkpoint."""

import os
import subprocess
from pathlib import Path

import distseg


def code_version() -> str:
    """DISTSEG_CODE_VERSION (set by `cluster.submit`, as jobs have no .git), else `git describe`, else the version."""
    if version := os.environ.get("DISTSEG_CODE_VERSION"):
        return version
    source = Path(distseg.__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return described.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return distseg.__version__
