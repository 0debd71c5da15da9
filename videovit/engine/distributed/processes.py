"""Several processes on this machine: started together, watched, and ended together.

The first one that fails ends them all, and what it has to say becomes the error of the whole. None is left behind:
those that do not end when asked to are killed, and all of them end when this process is gone.
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
from typing import Any

from videovit.data.workers import BLOCKED, signals_blocked
from videovit.engine.distributed import preemption
from videovit.engine.distributed.group import PeerError
from videovit.engine.distributed.preemption import INTERRUPTED, Preempted
from videovit.errors import UserError

ORPHANED = 1
END_S = 5.0  # how long a process may take to end when asked to


class SpawnedRunError(UserError):
    """A spawned process stopped with an error, or was killed; the message is that of the process."""


@dataclass(frozen=True)
class Told:
    """What a child says at its end: its result, what went wrong, or that a signal ended it."""

    result: Any = None
    error: str = ""
    stop: Preempted | None = None


@dataclass
class Child:
    """A process and the pipe on which it reports."""

    name: str
    process: SpawnProcess
    pipe: Connection
    told: Told | None = None

    def listen(self) -> None:
        """Take what it said, if anything."""
        try:
            if self.told is None and self.pipe.poll():
                self.told = self.pipe.recv()
        except (EOFError, OSError):  # it died in the middle of a word
            self.told = None

    def problem(self) -> str:
        """What is wrong with it; empty while it runs and when it ended well."""
        if self.told is not None and self.told.error:
            return self.told.error
        code = self.process.exitcode
        if not code:
            return ""
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code < 0:
            by = signal.Signals(-code).name
            often = "; often the system, when memory runs out" if by == "SIGKILL" else ""
            return f"{self.name}: killed by {by}{often}"
        return f"{self.name}: ended with exit code {code}; what it said stands above"


def run_processes(target: Callable[..., Any], names: Sequence[str], *args: Any) -> Any:
    """Call `target(i, *args)` in one new process per name.

    The first signal that asks to stop (SIGTERM, SIGUSR2, Ctrl-C) is handed on to every process; it is theirs to answer.

    Args:
        target: a function of a module; a UserError of it, or any other, ends all processes.
        names: of the processes, for messages.
        args: can be pickled.

    Returns:
        What the first process returned.

    Raises:
        SpawnedRunError: with the message of the process that failed first.
        Preempted: a signal ended them, after they had saved what there was to save.
        KeyboardInterrupt: Ctrl-C, here or in one of the processes, with nothing to save or for the second time.
    """
    context = multiprocessing.get_context("spawn")
    children: list[Child] = []
    resource_tracker.ensure_running()  # started by the first process otherwise, it would have that one hear all signals
    try:
        with _handing_on(children) as asked:
            for i, name in enumerate(names):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(target, i, name, sender, args), name=name)
                with signals_blocked():  # until it listens, see _child
                    process.start()
                sender.close()
                children.append(Child(name, process, receiver))
            _watch(children, asked)
        told = children[0].told or Told()
        if told.stop is not None:
            raise Preempted(asked() or told.stop.signum, told.stop.saved)
        return told.result
    finally:
        _end(children)


def _watch(children: list[Child], asked: Callable[[], int]) -> None:
    """Return when all have ended well, raise when the first has not.

    Args:
        asked: the signal that this process was sent, 0 for none.
    """
    running = list(children)
    while running:
        sources: list[Any] = [c.process.sentinel for c in running]
        sources += [c.pipe for c in running if c.told is None]
        wait(sources)
        # Looked at first: whoever is gone by now has said all that it had to say.
        alive = [c for c in running if c.process.is_alive()]
        for child in running:
            child.listen()
        for child in running:
            if asked() and child.process.exitcode in (-signal.SIGTERM, -signal.SIGUSR2):  # it had nothing to save
                raise KeyboardInterrupt if asked() == signal.SIGINT else Preempted(asked())
            if problem := child.problem():
                child.process.join(END_S)  # its traceback may still be on the way
                raise SpawnedRunError(problem)
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
            child.process.join()
        child.pipe.close()


@contextmanager
def _handing_on(children: list[Child]) -> Iterator[Callable[[], int]]:
    """While this lasts, the first signal to this process goes to all children (only the main thread can do so).

    Yields:
        A function that says which signal it was, 0 for none.
    """

    def hand_on(number: int) -> None:
        # A terminal's Ctrl-C reaches the children too, and twice would mean at once.
        for child in children:
            if child.process.pid is not None and child.process.is_alive():
                os.kill(child.process.pid, signal.SIGTERM if number == signal.SIGINT else number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    with preemption.install() as asked:
        asked.forward = hand_on
        try:
            yield asked.requested
        finally:
            asked.forward = None


def _child(target: Callable[..., Any], i: int, name: str, pipe: Connection, args: tuple[Any, ...]) -> None:
    # Ctrl-C reaches every process of the terminal: this one ends quietly, the parent reports.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send(Told(result=target(i, *args)))
    except Preempted as stop:
        pipe.send(Told(stop=stop))
    except UserError as error:
        text = str(error)
        is_named = isinstance(error, PeerError) or text.startswith(f"{name}: ")
        pipe.send(Told(error=text if is_named else f"{name}: {text}"))
        sys.exit(1)
    except BaseException as error:
        pipe.send(Told(error=f"{name}: {type(error).__name__}: {error}"))
        raise


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(ORPHANED)
