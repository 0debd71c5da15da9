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
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

from videovit.config.errors import UserError

INTERRUPTED = 130  # exit code after Ctrl-C
ORPHANED = 1
END_S = 5.0  # how long a process may take to end when asked to
FORWARDED = (signal.SIGTERM, signal.SIGUSR2)


class SpawnedRunError(UserError):
    """A spawned process stopped with an error, or was killed; the message is that of the process."""


@dataclass(frozen=True)
class Told:
    """What a child says at its end: its result, or what went wrong."""

    result: Any = None
    error: str = ""


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

    Signals that ask to stop (SIGTERM, SIGUSR2) are handed on to every process; it is theirs to answer them.

    Args:
        target: a function of a module; a UserError of it, or any other, ends all processes.
        names: of the processes, for messages.
        args: can be pickled.

    Returns:
        What the first process returned.

    Raises:
        SpawnedRunError: with the message of the process that failed first.
        KeyboardInterrupt: Ctrl-C, here or in one of the processes.
    """
    context = multiprocessing.get_context("spawn")
    children: list[Child] = []
    try:
        with _handing_on(children):
            for i, name in enumerate(names):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(target, i, name, sender, args), name=name)
                process.start()
                sender.close()
                children.append(Child(name, process, receiver))
            _watch(children)
        return children[0].told.result if children[0].told else None
    finally:
        _end(children)


def _watch(children: list[Child]) -> None:
    """Return when all have ended well, raise when the first has not."""
    running = list(children)
    while running:
        sources: list[Any] = [c.process.sentinel for c in running]
        sources += [c.pipe for c in running if c.told is None]
        wait(sources)
        for child in running:
            child.listen()
        for child in running:
            if problem := child.problem():
                child.process.join(END_S)  # its traceback may still be on the way
                raise SpawnedRunError(problem)
        running = [c for c in running if c.process.is_alive()]


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
def _handing_on(children: list[Child]) -> Iterator[None]:
    """While this lasts, a signal to this process goes to all children (only the main thread can do so)."""

    def hand_on(number: int, _: FrameType | None) -> None:
        for child in children:
            if child.process.pid is not None and child.process.is_alive():
                os.kill(child.process.pid, number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, hand_on) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _child(target: Callable[..., Any], i: int, name: str, pipe: Connection, args: tuple[Any, ...]) -> None:
    # Ctrl-C reaches every process of the terminal: this one ends quietly, the parent reports.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send(Told(result=target(i, *args)))
    except UserError as error:
        pipe.send(Told(error=f"{name}: {error}"))
        sys.exit(1)
    except BaseException as error:
        pipe.send(Told(error=f"{name}: {type(error).__name__}: {error}"))
        raise


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(ORPHANED)
