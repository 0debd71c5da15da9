"""The process group: five environment variables in, a few collective functions out.

RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT are all that is read; who set them (our spawn, torchrun,
submitit) is unknown here. Not being able to join is an error, never a run of one.

Whatever the processes agree on here travels in host memory, by gloo, on GPUs too: a process that dies closes its
connections, and the others know at once, where nccl would wait for its watchdog. So GPUs are waited for together, too.
Gradients and weights take nccl.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from videovit.errors import UserError

T = TypeVar("T")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
BACKENDS = {"gloo": "gloo", "nccl": "cpu:gloo,cuda:nccl"}  # DIST_BACKEND -> of each kind of memory

FAULT = "fault"  # key of the store: what the process that failed first has to say
WAIT_S = 0.005  # between two looks at a GPU
LOOK_S = 3.0  # how long a process that lost the others looks for the one at fault

_store: Store | None = None  # shared by the processes of the group, while there is one


class LaunchError(UserError):
    """The processes of a run could not be started or could not find each other."""


class PeerError(UserError):
    """This process ends because another one failed; the message is that of the other."""


def is_launched() -> bool:
    """Whether a launcher has set the environment of a distributed process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def process_group(*, use_gpu: bool, backend: str = "auto", timeout_s: float = 600.0) -> Iterator[torch.device]:
    """Join the process group that the environment describes, and leave it at the end.

    Without RANK and WORLD_SIZE in the environment, or with a world of one, no group is made.

    Args:
        use_gpu: compute on `cuda:LOCAL_RANK`, otherwise on the CPU.
        backend: of tensors on a GPU: "nccl", "gloo", or "auto" (nccl). Those in host memory always take gloo.
        timeout_s: how long joining, or one collective, may take, in seconds.

    Yields:
        The device of this process.

    Raises:
        LaunchError: a variable is missing or not a number, the GPU is absent, or the others did not come in time.
    """
    device = _device(use_gpu)
    world = _env_int("WORLD_SIZE") if is_launched() else 1
    if world == 1:
        yield device
        return
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise LaunchError(f"distributed run: {', '.join(missing)} not set; needed are {', '.join(VARIABLES)}")
    name = BACKENDS[("nccl" if use_gpu else "gloo") if backend == "auto" else backend]
    global _store
    _store = _join(name, timeout=datetime.timedelta(seconds=timeout_s), device=device if use_gpu else None)
    rank, store = dist.get_rank(), _store
    try:
        yield device
    except BaseException:
        _leave()  # now the others notice
        if rank == 0:
            _wait_until_told(store, world)
        raise
    else:
        dist.destroy_process_group()
    finally:
        _store = None


def _join(backend: str, *, timeout: datetime.timedelta, device: torch.device | None) -> Store:
    """Make the process group; returns the store through which its processes found each other."""
    rank, world = _env_int("RANK"), _env_int("WORLD_SIZE")
    host, port = os.environ["MASTER_ADDR"], _env_int("MASTER_PORT")
    # torchrun keeps the store in a process of its own, the same one after it has started the others again
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store: Store | None = None
    try:
        tcp = TCPStore(
            host, port, world, rank == 0 and not is_agents, timeout=timeout, wait_for_workers=False, multi_tenant=True
        )
        store = PrefixStore(f"videovit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", tcp)
        store.set(f"joined/{rank}", socket.gethostname())
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout, device_id=device)
    except (dist.DistError, RuntimeError) as error:
        absent: list[int] = []
        with contextlib.suppress(RuntimeError):  # the store may be what cannot be reached
            absent = _absent(store, "joined", world) if store else []
        found = f"; absent: {_ranks(absent)}" if absent else ""
        hint = "" if absent else _hint(host)
        where = f"{host}:{port} ({backend}) within {timeout.total_seconds():g} s"
        raise LaunchError(f"rank {rank} of {world} could not join at {where}{found}: {error}{hint}") from error
    return store


def _hint(master: str) -> str:
    """Why the others may not find this machine: gloo gives them the address that its own name stands for."""
    name, variable = socket.gethostname(), "GLOO_SOCKET_IFNAME"
    if variable in os.environ or _is_loopback(master) or not _is_loopback(name):
        return ""
    return f"\n{name} is here a name of the loopback device, which nobody else reaches: set {variable} (say, to eth0)"


def _is_loopback(host: str) -> bool:
    try:
        return socket.gethostbyname(host).startswith("127.")
    except OSError:
        return False


@contextmanager
def naming_the_fault() -> Iterator[None]:
    """When a process fails, let every process of the group end with the error of the one that failed first.

    The one at fault leaves its message in the store before its absence can make others fail. Those that lost a
    connection, or waited in vain, look for such a message; where there is none, for processes that are silent.

    Raises:
        PeerError: another process is at fault.
    """
    try:
        yield
    except BaseException as error:
        if _store is None:
            raise
        if not _is_lost_connection(error):
            text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            if not text.startswith(f"rank {rank()}: "):
                text = f"rank {rank()}: {text}"
            with contextlib.suppress(RuntimeError):
                _store.compare_set(FAULT, "", text)
                _store.set(f"told/{rank()}", "1")
            raise
        raise PeerError(_fault(_store, error)) from error


def _is_lost_connection(error: BaseException) -> bool:
    """Whether a collective failed because of others; gloo tells so by its file names only."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _fault(store: Store, error: BaseException) -> str:
    """Who made the others fail, and why."""
    try:
        store.set(f"lost/{rank()}", "1")
        end = time.monotonic() + LOOK_S
        while True:
            if store.check([FAULT]):
                store.set(f"told/{rank()}", "1")
                return bytes(store.get(FAULT)).decode()
            silent = _absent(store, "lost", world_size())
            if not silent or time.monotonic() > end:
                store.set(f"told/{rank()}", "1")
                break
            time.sleep(0.1)
    except RuntimeError:  # the store is gone, and rank 0 with it
        silent = [0]
    who = f"{_ranks(silent)}: killed, or hangs" if silent else "the connection between the processes was lost"
    return f"{who} (noticed by rank {rank()}: {str(error).splitlines()[0]})"


def _leave() -> None:
    """Leave the group after a failure: do not wait long for what is under way, which may never come.

    nccl waits for it in any case when asked to leave, and gives it up when asked to abort.
    """
    leave = dist.destroy_process_group
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        leave = getattr(dist.distributed_c10d, "_abort_process_group", leave)  # not public so far
    leaving = threading.Thread(target=leave, daemon=True)
    leaving.start()
    leaving.join(LOOK_S)


def _wait_until_told(store: Store, world: int) -> None:
    """Rank 0 holds the store: it stays for a moment, so that the others can read there whose fault it was."""
    end = time.monotonic() + LOOK_S
    with contextlib.suppress(RuntimeError):
        while _absent(store, "told", world) and time.monotonic() < end:
            time.sleep(0.05)


def _absent(store: Store, what: str, world: int) -> list[int]:
    """The ranks that have not set their key `what`."""
    return [r for r in range(world) if not store.check([f"{what}/{r}"])]


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _device(use_gpu: bool) -> torch.device:
    if not use_gpu:
        return torch.device("cpu")
    local = _env_int("LOCAL_RANK") if "LOCAL_RANK" in os.environ else 0
    found = torch.cuda.device_count()
    if local >= found:
        raise LaunchError(
            f"GPU {local} wanted (LOCAL_RANK, from 0), PyTorch finds {found} here; start fewer processes here, "
            "or NUM_GPUS 0 for the CPU"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _env_int(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdigit():
        raise LaunchError(f"environment variable {name}: a number is needed, found {text!r}")
    return int(text)


def rank() -> int:
    """Global rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes of the run; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(value: T) -> list[T]:
    """The picklable value of every rank, in rank order, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def mean(values: Sequence[float | torch.Tensor]) -> list[float]:
    """The mean of each number over all ranks, on every rank; scalars, wherever they live."""
    row = _reduce(values, dist.ReduceOp.SUM)
    return [value / world_size() for value in row]


def highest(values: Sequence[float | torch.Tensor]) -> list[float]:
    """The largest of each number over all ranks, on every rank; scalars, wherever they live."""
    return _reduce(values, dist.ReduceOp.MAX)


def _reduce(values: Sequence[float | torch.Tensor], how: dist.ReduceOp.RedOpType) -> list[float]:
    row = torch.tensor([float(value) for value in values])
    if dist.is_initialized():
        dist.all_reduce(row, op=how)
    numbers: list[float] = row.tolist()
    return numbers


def barrier() -> None:
    """Wait until every rank is here."""
    highest([0])


def wait_for_gpus(device: torch.device) -> None:
    """Wait until what every rank has given its GPU is done.

    Asking a GPU for a number waits too, but for ever where a gradient comes from a process that is gone.
    """
    if device.type == "cuda" and dist.is_initialized():
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        wait_together(event.query)


def wait_together(is_done: Callable[[], bool]) -> None:
    """Wait until `is_done()` on every rank; one that goes meanwhile is an error, as in every exchange."""
    begin = time.monotonic()
    while highest([not is_done()])[0]:
        time.sleep(min(WAIT_S, 0.02 * (time.monotonic() - begin)))
