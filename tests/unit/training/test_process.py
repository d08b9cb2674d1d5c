"""What a training sets up in its process: the memory of one that trains on CPUs."""

import os
import platform
import subprocess
import sys

import pytest

FRESH_PAGES = """
import resource
import sys

import torch

from distseg.training.process import keep_freed_memory


def step():
    [torch.ones(1 << 20) for _ in range(8)]


if sys.argv[1] == "kept":
    keep_freed_memory(torch.device("cpu"))
step()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory of other C libraries is left alone")
def test_a_step_uses_the_memory_of_the_one_before() -> None:
    """Ten steps of eight blocks of 4 MiB: 1,024 pages each, or one if it is a huge one."""

    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))
    }

    def num_fresh_pages(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FRESH_PAGES, how], env=env, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert 10 * num_fresh_pages("kept") < num_fresh_pages("given back")
