"""Process groups: collective operations, and what every process reports if one of them is lost."""

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
from videovit.engine.distributed import faults, group
from videovit.errors import UserError

WORLD = 3
FAULTY = 1


def work(rank: int, how: str, port: int, folder: Path) -> None:
    """Run one rank; how it ended is written to a file."""
    variables = {"RANK": rank, "WORLD_SIZE": WORLD, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()})
    timeout_s = {"absent": 3.0, "hang": 3.0, "for ever": 1e300}.get(how, 60.0)
    if how == "absent" and rank == FAULTY:
        return
    began = time.monotonic()
    try:
        with distributed.process_group(use_gpu=False, timeout_s=timeout_s), distributed.naming_the_fault():
            distributed.barrier()
            if how == "for ever":
                (folder / str(rank)).write_text(str(distributed.mean([float(rank)])))
                return
            if rank == FAULTY:
                if how.startswith("killed"):
                    os.kill(os.getpid(), signal.SIGKILL)
                elif how == "hang":
                    time.sleep(30)
                    return
                raise UserError("clip 7 is broken")
            if how == "killed while the others wait for GPUs":
                distributed.wait_together(lambda: False)
            distributed.mean([1.0])
    except UserError as error:
        text = f"{type(error).__name__}: {error}\n{time.monotonic() - began}"
        (folder / str(rank)).write_text(text)


@pytest.fixture
def ends(tmp_path: Path) -> Callable[[str], dict[int, str]]:
    """`ends(how)` starts the ranks; returns rank -> how it ended."""

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
                    assert child.exitcode is not None, f"rank {rank} is still running"
        finally:
            for child in children:
                child.kill()
                child.join()
        return {int(path.name): path.read_text() for path in tmp_path.iterdir()}

    return run


def test_error_on_one_rank_is_reported_by_all(ends: Callable[[str], dict[int, str]]) -> None:
    reports = ends("error")
    assert reports[FAULTY].startswith("UserError: clip 7 is broken")
    for rank in (0, 2):
        assert reports[rank].startswith("PeerError: rank 1: clip 7 is broken"), reports


@pytest.mark.parametrize("how", ["killed", "killed while the others wait for GPUs", "hang"])
def test_silent_rank_is_named(how: str, ends: Callable[[str], dict[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "SEARCH_S", 2.0)
    reports = ends(how)
    assert set(reports) == {0, 2}
    for text in reports.values():
        assert text.startswith("PeerError: rank 1: killed, or hangs"), reports


def test_absent_rank_is_named(ends: Callable[[str], dict[int, str]]) -> None:
    reports = ends("absent")
    assert set(reports) == {0, 2}
    for text in reports.values():
        assert text.startswith("UserError: rank ") and "could not join" in text and "within 3 s" in text, reports
    assert "absent: rank 1" in reports[0]


def agree(rank: int, folder: Path) -> None:
    distributed.barrier()
    found = distributed.gather(rank), distributed.highest([rank, torch.tensor(-rank)]), distributed.mean([rank, 1])
    assert found == ([0, 1], [1, 0], [0.5, 1]), found


def wait_for_the_slowest(rank: int, folder: Path) -> None:
    distributed.barrier()
    begin = time.monotonic()
    distributed.wait_together(lambda: rank == 0 or time.monotonic() > begin + 0.5)
    assert 0.4 < time.monotonic() - begin < 30


def test_wait_together_waits_for_the_slowest_rank(tmp_path: Path) -> None:
    run_group(wait_for_the_slowest, 2, tmp_path)


def test_collectives_never_use_the_backend_of_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that sends nothing stands in for nccl."""
    assert "fake" in dist.Backend.backend_list, "registered by importing fake_pg"
    monkeypatch.setitem(group.BACKENDS, "gloo", group.BACKENDS["nccl"].replace("nccl", "fake"))
    run_group(agree, 2, tmp_path)


def test_loopback_host_name_gives_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert "set GLOO_SOCKET_IFNAME" in group._loopback_hint("192.0.2.1")
    assert not group._loopback_hint("127.0.0.1"), "all processes are on this machine"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    assert not group._loopback_hint("192.0.2.1")


def listening(rank: int, folder: Path) -> None:
    """Write the addresses at which this process listens."""
    nodes = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    rows += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    found = [row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in nodes]
    (folder / str(rank)).write_text("\n".join(found))
    distributed.barrier()


def test_one_machine_listens_on_loopback_only(tmp_path: Path) -> None:
    run_group(listening, 2, tmp_path)
    found = {line for rank in (0, 1) for line in (tmp_path / str(rank)).read_text().split()}
    assert found == {"0100007F"}  # 127.0.0.1


def test_time_limit_that_clocks_cannot_count(ends: Callable[[str], dict[int, str]], tmp_path: Path) -> None:
    """DIST_TIMEOUT_S 1e300 means no limit."""
    reports = ends("for ever")
    assert len(reports) == WORLD and set(reports.values()) == {"[1.0]"}
