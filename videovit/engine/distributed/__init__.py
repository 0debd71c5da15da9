"""Several processes of one run: who they are, what they agree on, and how their failures are named."""

from videovit.engine.distributed.group import (
    barrier,
    gather,
    highest,
    is_launched,
    mean,
    naming_the_fault,
    process_group,
    rank,
    wait_for_gpus,
    wait_together,
    world_size,
)

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
