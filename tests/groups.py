"""A few processes that talk to each other, without a run around them."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

from runs import renew_threads

from videovit.engine import distributed


def member(rank: int, world: int, port: int, target: Callable[[int, Path], None], folder: Path) -> None:
    renew_threads()
    variables = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()})
    with distributed.process_group(use_gpu=False, timeout_s=60):
        target(rank, folder)


def run_group(target: Callable[[int, Path], None], world: int, folder: Path) -> None:
    """`target(rank, folder)` in `world` forked processes: torch is imported already."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=member, args=(r, world, port, target, folder)) for r in range(world)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=120)
    assert [child.exitcode for child in children] == [0] * world
