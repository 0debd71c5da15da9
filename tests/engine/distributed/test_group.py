"""A process group that loses one of its processes: every other process ends soon, and names it."""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg

from tests.helpers.runs import run_group
from videovit.engine import distributed
from videovit.engine.distributed.group import LaunchError, PeerError
from videovit.errors import UserError

WORLD = 3
FAULTY = 1


def work(rank: int, how: str, port: int, folder: Path) -> None:
    """What one rank goes through; how it ended is written to a file."""
    variables = {"RANK": rank, "WORLD_SIZE": WORLD, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()})
    timeout_s = 3.0 if how in ("absent", "hang") else 60.0
    if how == "absent" and rank == FAULTY:
        return
    began = time.monotonic()
    try:
        with distributed.process_group(use_gpu=False, timeout_s=timeout_s), distributed.naming_the_fault():
            distributed.barrier()
            if rank == FAULTY:
                if how.startswith("killed"):
                    os.kill(os.getpid(), signal.SIGKILL)
                elif how == "hang":
                    time.sleep(30)
                    return
                raise UserError("clip 7 is broken")
            if how == "killed, and the others wait for their GPUs":
                distributed.wait_together(lambda: False)
            distributed.mean([1.0])
    except (LaunchError, PeerError, UserError) as error:
        text = f"{type(error).__name__}: {error}\n{time.monotonic() - began}"
        (folder / str(rank)).write_text(text)


@pytest.fixture
def ends(tmp_path: Path) -> Callable[[str], dict[int, str]]:
    """`ends(how)`: rank -> how it ended."""

    def run(how: str) -> dict[int, str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("fork")  # torch is imported already
        children = [context.Process(target=work, args=(rank, how, port, tmp_path)) for rank in range(WORLD)]
        for child in children:
            child.start()
        try:
            for rank, child in enumerate(children):
                if rank != FAULTY or how != "hang":
                    child.join(timeout=60)
                    assert child.exitcode is not None, f"rank {rank} is still there"
        finally:
            for child in children:
                child.kill()
                child.join()
        return {int(path.name): path.read_text() for path in tmp_path.iterdir()}

    return run


def test_an_error_is_told_by_all(ends: Callable[[str], dict[int, str]]) -> None:
    told = ends("error")
    assert told[FAULTY].startswith("UserError: clip 7 is broken")
    for rank in (0, 2):
        assert told[rank].startswith("PeerError: rank 1: clip 7 is broken"), told


@pytest.mark.parametrize("how", ["killed", "killed, and the others wait for their GPUs", "hang"])
def test_a_silent_rank_is_named(
    how: str, ends: Callable[[str], dict[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "LOOK_S", 2.0)
    told = ends(how)
    assert set(told) == {0, 2}
    for text in told.values():
        assert text.startswith("PeerError: rank 1: killed, or hangs"), told


def test_a_rank_that_never_comes_is_named(ends: Callable[[str], dict[int, str]]) -> None:
    told = ends("absent")
    assert set(told) == {0, 2}
    assert all("LaunchError" in text and "within 3 s" in text for text in told.values())
    assert "absent: rank 1" in told[0]


def agree(rank: int, folder: Path) -> None:
    distributed.barrier()
    found = distributed.gather(rank), distributed.highest([rank, torch.tensor(-rank)]), distributed.mean([rank, 1])
    assert found == ([0, 1], [1, 0], [0.5, 1]), found


def wait_for_the_slowest(rank: int, folder: Path) -> None:
    distributed.barrier()
    begin = time.monotonic()
    distributed.wait_together(lambda: rank == 0 or time.monotonic() > begin + 0.5)
    assert 0.4 < time.monotonic() - begin < 30


def test_processes_wait_for_the_last_of_their_gpus(tmp_path: Path) -> None:
    run_group(wait_for_the_slowest, 2, tmp_path)


def test_what_processes_agree_on_never_takes_the_way_of_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on GPUs, where nccl is in the place of a backend that sends nothing."""
    assert "fake" in dist.Backend.backend_list, "registered by importing fake_pg"
    monkeypatch.setitem(distributed.BACKENDS, "gloo", distributed.BACKENDS["nccl"].replace("nccl", "fake"))
    run_group(agree, 2, tmp_path)


def test_a_machine_that_knows_itself_by_its_loopback_device_only_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert "set GLOO_SOCKET_IFNAME" in distributed._hint("192.0.2.1")
    assert not distributed._hint("127.0.0.1"), "all processes are here"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    assert not distributed._hint("192.0.2.1")
