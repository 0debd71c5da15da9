"""How a process uses the CPU."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from videovit.engine.cpu import keep_freed_memory

def faults():  # pages that the kernel clears for a tensor of 64 MiB, when one of that size was freed before
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
keep_freed_memory()
print(first, faults())
"""


def count_faults(**settings: str) -> tuple[int, int]:
    """Page faults without and with `keep_freed_memory`, in a process with these variables in its environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    run = subprocess.run([sys.executable, "-c", COUNT], env=env | settings, capture_output=True, text=True, check=True)
    before, after = map(int, run.stdout.split())
    return before, after


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tunes the allocator of glibc")
def test_freed_memory_is_kept() -> None:
    """A tensor as large as one that was freed costs no page faults, unless the user has tuned the allocator."""
    before, after = count_faults()
    assert before > 1000
    assert after < 100
    _, after = count_faults(MALLOC_TOP_PAD_="0")
    assert after > 1000
