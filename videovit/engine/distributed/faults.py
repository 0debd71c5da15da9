"""Why a distributed run failed: every process ends with the error of the one that failed first.

When a process fails, the others see lost connections, which say nothing about the cause. So the processes share a
`FaultBoard`, kept in the store through which they found each other: whoever fails first writes its message there
before its absence makes others fail; those that lost a connection read it. If there is no message, the board shows
which ranks have gone silent.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

from videovit.engine.distributed.collectives import rank, world_size
from videovit.errors import UserError

SEARCH_S = 3.0  # how long a process that lost a connection searches for the cause
POLL_S = 0.1


class PeerError(UserError):
    """This process ends because another one failed; the message is that of the other."""


class FaultBoard:
    """Messages about failures, readable by all processes of a group.

    The store belongs to rank 0 and disappears with it.

    Args:
        store: of the group.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self._store, self._rank, self._world_size = store, rank, world_size

    def mark(self, state: str) -> None:
        """Record that this process has reached a state: "joined", "lost" a connection, or "informed" of the cause."""
        self._store.set(f"{state}/{self._rank}", "1")

    def missing(self, state: str) -> list[int]:
        """The ranks that have not reached a state."""
        return [r for r in range(self._world_size) if not self._store.check([f"{state}/{r}"])]

    def report(self, error: BaseException) -> None:
        """Write the error of this process, unless another process was first."""
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if not text.startswith(f"rank {self._rank}: "):
            text = f"rank {self._rank}: {text}"
        with contextlib.suppress(RuntimeError):  # without a store there is nobody to inform
            self._store.compare_set("fault", "", text)
            self.mark("informed")

    def explain(self, error: BaseException) -> str:
        """Find out why this process lost its connections.

        Args:
            error: what it noticed.

        Returns:
            The message of the process that failed first; without one, the ranks that are silent.
        """
        try:
            self.mark("lost")
            end = time.monotonic() + SEARCH_S
            while True:
                if self._store.check(["fault"]):
                    self.mark("informed")
                    return bytes(self._store.get("fault")).decode()
                # A rank that is alive will lose its connections too; one that does not is dead or hangs.
                silent = self.missing("lost")
                if not silent or time.monotonic() > end:
                    self.mark("informed")
                    break
                time.sleep(POLL_S)
        except RuntimeError:  # the store is gone, and so is rank 0
            silent = [0]
        who = f"{name_ranks(silent)}: killed, or hangs" if silent else "the connection between the processes was lost"
        return f"{who} (noticed by rank {self._rank}: {str(error).splitlines()[0]})"

    def wait_until_read(self) -> None:
        """Wait until every process knows the cause; for rank 0, which takes the store with it when it ends."""
        end = time.monotonic() + SEARCH_S
        with contextlib.suppress(RuntimeError):
            while self.missing("informed") and time.monotonic() < end:
                time.sleep(POLL_S / 2)


_board: FaultBoard | None = None  # of the current process group


@contextmanager
def shared_board(store: Store) -> Iterator[None]:
    """Use a store for reports of failures; on an error, leave the process group so that the others notice.

    Args:
        store: of the process group, which exists already.
    """
    global _board
    _board = board = FaultBoard(store, rank(), world_size())
    is_first = rank() == 0
    try:
        yield
    except BaseException:
        abort_group()
        if is_first:
            board.wait_until_read()
        raise
    finally:
        _board = None


@contextmanager
def naming_the_fault() -> Iterator[None]:
    """When a process fails in this block, end every process of the group with the error of the one that failed first.

    Raises:
        PeerError: another process failed first.
    """
    try:
        yield
    except BaseException as error:
        if _board is None:
            raise
        if not _is_lost_connection(error):
            _board.report(error)
            raise
        raise PeerError(_board.explain(error)) from error


def _is_lost_connection(error: BaseException) -> bool:
    # gloo raises plain RuntimeErrors; only the file names inside its messages identify them.
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def abort_group() -> None:
    """Leave the process group without waiting long for operations that may never finish."""
    leave = dist.destroy_process_group
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        # Destroying a group of nccl waits for its operations, aborting does not; the function is not public so far.
        leave = getattr(dist.distributed_c10d, "_abort_process_group", leave)
    leaving = threading.Thread(target=leave, daemon=True)
    leaving.start()
    leaving.join(SEARCH_S)


def name_ranks(ranks: list[int]) -> str:
    """`rank 1`, or `ranks 1, 2`."""
    word = "rank" if len(ranks) == 1 else "ranks"
    return f"{word} {', '.join(map(str, ranks))}"
