"""How a process uses the CPU."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from videovit.engine.cpu import keep_freed_memory

def faults():  # pages that the kernel clears for eight tensors of 16 MiB, when others of that size were freed before
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [torch.ones(2**22) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print(faults())
"""


def count_faults(**settings: str) -> int:
    """Page faults after `keep_freed_memory`, in a process with these variables in its environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    run = subprocess.run([sys.executable, "-c", COUNT], env=env | settings, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tunes the allocator of glibc")
def test_freed_memory_is_kept() -> None:
    """Tensors in the place of freed ones cost no page faults, unless the user has tuned the allocator."""
    assert count_faults() < 1000
    assert count_faults(MALLOC_TOP_PAD_="0") > 30_000
