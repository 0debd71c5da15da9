"""Several processes on this machine, started, watched and ended together.

The first process that fails ends all of them, and its message becomes the error of the whole. None is left running:
processes that ignore SIGTERM are killed, and all of them end when this process disappears.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from videovit.data.running_clock import RunningClock
from videovit.data.workers import BLOCKED, signals_blocked
from videovit.engine.distributed import preemption
from videovit.engine.distributed.faults import PeerError
from videovit.engine.distributed.preemption import INTERRUPTED, Preempted
from videovit.errors import UserError

Result = TypeVar("Result")

ORPHANED = 1  # exit code of a process whose parent has disappeared
END_S = 5.0  # how long a process may take to end after SIGTERM
# How long processes may take to save and end after a signal; they have limits of their own, which are shorter.
SAVE_S = 1800.0
LOOK_S = 5.0  # how often to look at that limit


@dataclass(frozen=True)
class ChildResult:
    """Outcome that a child process reports on exit.

    Attributes:
        result: what its function returned.
        error: message, if it failed.
        stop: the signal that ended it, if any.
    """

    result: Any = None
    error: str = ""
    stop: Preempted | None = None


@dataclass
class Child:
    """A process, and the pipe on which it reports its outcome."""

    name: str
    process: SpawnProcess
    pipe: Connection
    outcome: ChildResult | None = None

    def receive(self) -> None:
        """Read the outcome if it has arrived."""
        try:
            if self.outcome is None and self.pipe.poll():
                self.outcome = self.pipe.recv()
        except (EOFError, OSError):  # the child died while sending
            self.outcome = None

    def problem(self) -> str:
        """What went wrong; empty if the process is running or has ended well.

        Raises:
            KeyboardInterrupt: Ctrl-C ended the process.
        """
        if self.outcome is not None and self.outcome.error:
            return self.outcome.error
        code = self.process.exitcode
        if not code:
            return ""
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code < 0:
            by = signal.Signals(-code).name
            hint = "; often by the system, when memory runs out" if by == "SIGKILL" else ""
            return f"{self.name}: killed by {by}{hint}"
        return f"{self.name}: ended with exit code {code}; see its output above"


def run_processes(target: Callable[..., Result], names: Sequence[str], *args: object) -> Result:
    """Call `target(i, *args)` in one new process per name.

    The first signal to stop (SIGTERM, SIGUSR2, SIGHUP, Ctrl-C) is forwarded to every process.

    Args:
        target: a function of a module. Any exception in it ends all processes.
        names: of the processes, for messages.
        args: picklable.

    Returns:
        What the first process returned.

    Raises:
        UserError: with the message of the process that failed first.
        Preempted: a signal ended the processes after they had saved their state.
        KeyboardInterrupt: Ctrl-C, here or in one of the processes, with nothing to save or for the second time.
    """
    context = multiprocessing.get_context("spawn")
    children: list[Child] = []
    # Otherwise the first child would start it, with all signals unblocked.
    resource_tracker.ensure_running()
    try:
        with _signals_forwarded(children) as requested:
            for i, name in enumerate(names):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_run_child, args=(target, i, name, sender, args), name=name)
                with signals_blocked():  # until _run_child has installed its handlers
                    process.start()
                # The child holds the only sender now, so the receiver sees the end of the pipe when the child dies.
                sender.close()
                children.append(Child(name, process, receiver))
            _watch(children, requested)
            outcome = children[0].outcome or ChildResult()
            if outcome.stop is not None:
                raise Preempted(requested() or outcome.stop.signum, outcome.stop.saved)
        result: Result = outcome.result
        return result
    finally:
        _end(children)


def _watch(children: list[Child], requested: Callable[[], int]) -> None:
    """Return when all processes have ended well; raise as soon as one has not.

    Args:
        requested: returns the signal that this process received, 0 if none. SAVE_S after it, running processes fail.
    """
    running, waited = list(children), None
    while running:
        if requested():
            waited = waited or RunningClock(2 * LOOK_S)
            if waited.elapsed_s() > SAVE_S:
                names = ", ".join(child.name for child in running)
                raise UserError(f"{names}: still running {SAVE_S:g} s after {signal.Signals(requested()).name}; killed")
        sources: list[Any] = [c.process.sentinel for c in running]
        sources += [c.pipe for c in running if c.outcome is None]
        wait(sources, LOOK_S)
        # Before reading the pipes: a process that is dead by now has sent everything it will ever send.
        alive = [c for c in running if c.process.is_alive()]
        for child in running:
            child.receive()
        for child in running:
            if requested() and -(child.process.exitcode or 0) in preemption.SIGNALS:  # it had nothing to save
                raise KeyboardInterrupt if requested() == signal.SIGINT else Preempted(requested())
            if problem := child.problem():
                child.process.join(END_S)  # its traceback may still be on the way
                raise UserError(problem)
        running = alive


def _end(children: list[Child]) -> None:
    for child in children:
        if child.process.is_alive():
            child.process.terminate()
    end = time.monotonic() + END_S
    for child in children:
        child.process.join(max(0.0, end - time.monotonic()))
        if child.process.is_alive():
            child.process.kill()
            child.process.join(END_S)  # one that hangs in the kernel, on a dead disk, does not end
        child.pipe.close()


@contextmanager
def _signals_forwarded(children: list[Child]) -> Iterator[Callable[[], int]]:
    """Forward the first signal to all children until the end of the block; does nothing outside the main thread.

    Yields:
        A function that returns the signal that was received, 0 if none.
    """

    def forward(number: int) -> None:
        # A terminal sends Ctrl-C to the children too, and a second one would end them at once: send SIGTERM instead.
        for child in children:
            if child.process.pid is not None and child.process.is_alive():
                os.kill(child.process.pid, signal.SIGTERM if number == signal.SIGINT else number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    with preemption.install() as signals:
        signals.forward = forward
        try:
            yield signals.requested
        finally:
            signals.forward = None


def _run_child(target: Callable[..., object], i: int, name: str, pipe: Connection, args: tuple[object, ...]) -> None:
    # A terminal sends Ctrl-C to every process: this one ends without a traceback, and the parent reports it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send(ChildResult(result=target(i, *args)))
    except Preempted as stop:
        pipe.send(ChildResult(stop=stop))
    except UserError as error:
        text = str(error)
        is_named = isinstance(error, PeerError) or text.startswith(f"{name}: ")
        pipe.send(ChildResult(error=text if is_named else f"{name}: {text}"))
        sys.exit(1)
    except BaseException as error:
        pipe.send(ChildResult(error=f"{name}: {type(error).__name__}: {error}"))
        raise


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(ORPHANED)
