"""Several processes of one run: the process group, collective operations, and reports of failures.

`from videovit.engine import distributed` gives the functions that every part of a run needs. All of them work without
a process group too, as in a group of one.
"""

from videovit.engine.distributed.collectives import (
    barrier,
    gather,
    highest,
    mean,
    rank,
    wait_for_gpus,
    wait_together,
    world_size,
)
from videovit.engine.distributed.faults import naming_the_fault
from videovit.engine.distributed.group import is_launched, process_group

__all__ = [
    "barrier",
    "gather",
    "highest",
    "is_launched",
    "mean",
    "naming_the_fault",
    "process_group",
    "rank",
    "wait_for_gpus",
    "wait_together",
    "world_size",
]
