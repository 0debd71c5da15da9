"""The process group: five environment variables in, a device out.

RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT are all that is read, no matter whether `processes`, torchrun
or submitit has set them. A process that cannot join fails; it never goes on alone.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from videovit.engine.distributed import faults
from videovit.errors import UserError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
LONGEST_S = 1e8  # three years; PyTorch's clocks overflow far above
# DIST_BACKEND -> PyTorch's backend per kind of memory. Host memory always uses gloo, see `collectives`.
BACKENDS = {"gloo": "gloo", "nccl": "cpu:gloo,cuda:nccl"}


def is_launched() -> bool:
    """Whether a launcher has set the environment of a distributed process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def process_group(*, use_gpu: bool, backend: str = "auto", timeout_s: float = 600.0) -> Iterator[torch.device]:
    """Join the process group described by the environment, and leave it at the end of the block.

    Without RANK and WORLD_SIZE in the environment, or with a WORLD_SIZE of 1, no group is created.

    Args:
        use_gpu: compute on `cuda:LOCAL_RANK`, otherwise on the CPU.
        backend: for tensors on a GPU: "nccl", "gloo", or "auto" (nccl). Tensors in host memory always use gloo.
        timeout_s: limit for joining and for each collective operation, in seconds.

    Yields:
        The device of this process.

    Raises:
        UserError: a variable is missing or not a number, the GPU does not exist, or the others did not join in time.
    """
    device = _device(use_gpu)
    world_size = _env_int("WORLD_SIZE") if is_launched() else 1
    if world_size == 1:  # launchers of single processes set the variables too
        yield device
        return
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise UserError(f"distributed run: {', '.join(missing)} not set", expected=", ".join(VARIABLES))
    name = BACKENDS[("nccl" if use_gpu else "gloo") if backend == "auto" else backend]
    store = _join(
        name, timeout=datetime.timedelta(seconds=min(timeout_s, LONGEST_S)), device=device if use_gpu else None
    )
    with faults.shared_board(store):
        yield device
    dist.destroy_process_group()


def _join(backend: str, *, timeout: datetime.timedelta, device: torch.device | None) -> Store:
    """Create the process group.

    Returns:
        The store through which the processes found each other.

    Raises:
        UserError: names the ranks that did not join, as far as they are known.
    """
    rank, world_size = _env_int("RANK"), _env_int("WORLD_SIZE")
    host, port = os.environ["MASTER_ADDR"], _env_int("MASTER_PORT")
    # torchrun keeps the store in a process of its own, which survives a restart of the others; hence the prefix.
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    board: faults.FaultBoard | None = None
    try:
        listener = None
        if local := _loopback_address(host):
            # gloo would listen at the address of the host name.
            for name in {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}:
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            listener = _listen(local, port) if rank == 0 and not is_agents else None
        tcp = TCPStore(
            host,
            port,
            world_size,
            rank == 0 and not is_agents,
            timeout=timeout,
            wait_for_workers=False,  # it would time out without naming the missing ranks; the board names them
            multi_tenant=True,
            master_listen_fd=listener,
        )
        store = PrefixStore(f"videovit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", tcp)
        board = faults.FaultBoard(store, rank, world_size)
        board.mark("joined")
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=world_size, timeout=timeout, device_id=device
        )
    except (dist.DistError, RuntimeError, OSError, OverflowError) as error:
        absent: list[int] = []
        with contextlib.suppress(RuntimeError):  # the store itself may be unreachable
            absent = board.missing("joined") if board else []
        found = f"; absent: {faults.name_ranks(absent)}" if absent else ""
        hint = "" if absent else _loopback_hint(host)
        where = f"{host}:{port} ({backend}) within {timeout.total_seconds():g} s"
        raise UserError(f"rank {rank} of {world_size} could not join at {where}{found}: {error}{hint}") from error
    return store


def _loopback_address(host: str) -> str:
    """The address of MASTER_ADDR if it is one of the loopback, so that all processes run on this machine; else empty.

    Names are not looked up: the name of a machine may be a loopback address there, and another one elsewhere.
    """
    name = "127.0.0.1" if host == "localhost" else host
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(name).is_loopback:
            return name
    return ""


def _listen(address: str, port: int) -> int:
    """A listening socket on one interface: the store requires no password, and by itself listens on all of them."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
        return listener.detach()


def _loopback_hint(master: str) -> str:
    """Advice if the others cannot reach this machine: gloo gives them the address of its host name."""
    name, variable = socket.gethostname(), "GLOO_SOCKET_IFNAME"
    if variable in os.environ or _is_loopback(master) or not _is_loopback(name):
        return ""
    return (
        f"\nThe name of this machine, {name}, stands for its loopback device, which other machines cannot reach: "
        f"set {variable}, for example to eth0"
    )


def _is_loopback(host: str) -> bool:
    try:
        return socket.gethostbyname(host).startswith("127.")
    except OSError:
        return False


def _device(use_gpu: bool) -> torch.device:
    if not use_gpu:
        return torch.device("cpu")
    local = _env_int("LOCAL_RANK") if "LOCAL_RANK" in os.environ else 0
    found = torch.cuda.device_count()
    if local >= found:
        raise UserError(
            f"LOCAL_RANK {local} needs GPU {local} (counted from 0)",
            found=found,
            expected=f"at least {local + 1} GPUs",
            hint="Start fewer processes on this machine, or set NUM_GPUS 0 for the CPU",
        )
    # Also for libraries that use the current device, such as nccl.
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _env_int(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdigit():
        raise UserError(where=f"environment variable {name}", found=text, expected="a number")
    return int(text)
