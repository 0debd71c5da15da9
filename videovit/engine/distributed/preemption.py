"""Signals that ask a run to stop: all ranks finish the current step, training is saved, then the run ends.

    SIGUSR2, SIGTERM    a scheduler wants the machine back: exit code 75, the same command resumes the run
    SIGINT (Ctrl-C)     the same with exit code 130; the second one ends the run at once

A handler only remembers the signal. Training checks for one in every step, together with the other ranks, saves, and
raises `Preempted`; whoever started the process turns that into an exit code (command line) or a requeue (Slurm):

    with preemption.install():            # early: signals are remembered from here on
        try:
            launch.run(cfg)
        except Preempted as stop:         # saved, on all ranks
            sys.exit(stop.exit_code)
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later
INTERRUPTED = 130  # exit code after Ctrl-C, as in shells: 128 + SIGINT


class Preempted(Exception):
    """A signal ended the run, and its state is saved.

    Args:
        signum: the signal that any of the ranks received.
        saved: the checkpoint; empty if there was nothing to save.
    """

    def __init__(self, signum: int, saved: str = "") -> None:
        super().__init__(signum, saved)
        self.signum = signum
        self.saved = saved

    @property
    def exit_code(self) -> int:
        """Exit code of the command line."""
        return INTERRUPTED if self.signum == signal.SIGINT else EXIT_CODE

    def __str__(self) -> str:
        name = "Ctrl-C" if self.signum == signal.SIGINT else signal.Signals(self.signum).name
        return f"stopped by {name}" + (f"; saved {self.saved}" if self.saved else "")


class Preemption:
    """Remembers the first signal; see `install`.

    Attributes:
        previous: the handlers that were replaced, by signal number.
        forward: called with the first signal; for a process that only waits for its children.
    """

    def __init__(self) -> None:
        self._signum = 0
        self.previous: dict[int, Any] = {}
        self.forward: Callable[[int], object] | None = None

    def requested(self) -> int:
        """The first signal that this process received; 0 if there was none."""
        return self._signum

    def request(self, signum: int, frame: FrameType | None = None) -> None:
        """The signal handler. The second Ctrl-C goes to the previous handler, which ends the process."""
        earlier, self._signum = self._signum, self._signum or signum
        if self.forward is not None and not earlier:
            self.forward(signum)
        if signum != signal.SIGINT:
            return
        previous = self.previous.get(signum)
        if earlier == signal.SIGINT and callable(previous):
            previous(signum, frame)
        elif os.environ.get("RANK", "0") == "0":
            # print() may be what the signal has interrupted, and cannot be entered twice.
            with contextlib.suppress(OSError):
                os.write(2, b"\nCtrl-C: finishing the step and saving; once more ends the run at once\n")


_installed: Preemption | None = None


@contextlib.contextmanager
def install() -> Iterator[Preemption]:
    """Replace the signal handlers until the end of the block; main thread only.

    Yields:
        What remembers the signal. An inner `install` yields the object of the outer one.
    """
    global _installed
    if _installed is not None:
        yield _installed
        return
    _installed = preemption = Preemption()
    try:
        for number in SIGNALS:
            preemption.previous[number] = signal.getsignal(number)
            signal.signal(number, preemption.request)
        yield preemption
    finally:
        for signum, handler in preemption.previous.items():
            # None stands for a handler that was not installed from Python, which cannot be restored.
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        _installed = None


def installed() -> Preemption | None:
    """The object of the `install` block that is active, if any."""
    return _installed
