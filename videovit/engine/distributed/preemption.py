"""Signals that ask a run to end: the step is finished on all ranks, training is saved, then the run ends.

    SIGUSR2, SIGTERM    a scheduler wants the machine back: exit code 75, "the same command goes on"
    SIGINT (Ctrl-C)     the same, exit code 130; the second one ends the run at once

A handler only sets a flag. `train` looks at it once a step, together with the other ranks, saves, and raises
`Preempted`; who started the process turns that into an exit code (the command line) or a requeue (a scheduler's glue):

    with preemption.install():            # early: signals are remembered from here on
        try:
            launch.run(cfg)
        except Preempted as stop:         # saved, on all ranks
            hand_over(stop.signum)
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
INTERRUPTED = 130  # exit code after Ctrl-C


class Preempted(Exception):
    """A signal ended the run; what it had done is saved.

    Attributes:
        signum: the signal, that of any rank.
    """

    def __init__(self, signum: int, saved: str = "") -> None:
        super().__init__(signum, saved)
        self.signum = signum
        self.saved = saved

    @property
    def exit_code(self) -> int:
        return INTERRUPTED if self.signum == signal.SIGINT else EXIT_CODE

    def __str__(self) -> str:
        name = "Ctrl-C" if self.signum == signal.SIGINT else signal.Signals(self.signum).name
        return f"stopped by {name}" + (f"; saved {self.saved}" if self.saved else "")


class Preemption:
    """Remembers the first signal that came; see `install`.

    Attributes:
        previous: the handlers from before, by signal number.
        forward: called with the first signal, for a process that only waits for others.
    """

    def __init__(self) -> None:
        self._signum = 0
        self.previous: dict[int, Any] = {}
        self.forward: Callable[[int], object] | None = None

    def requested(self) -> int:
        """The first signal that reached this process, 0 for none."""
        return self._signum

    def request(self, signum: int, frame: FrameType | None = None) -> None:
        """The handler: remember; a second Ctrl-C is left to the handler from before, which ends the process."""
        earlier, self._signum = self._signum, self._signum or signum
        if self.forward is not None and not earlier:
            self.forward(signum)
        if signum != signal.SIGINT:
            return
        previous = self.previous.get(signum)
        if earlier == signal.SIGINT and callable(previous):
            previous(signum, frame)
        elif os.environ.get("RANK", "0") == "0":
            with contextlib.suppress(OSError):
                os.write(2, b"\nCtrl-C: finishing the step and saving; once more ends the run at once\n")


_installed: Preemption | None = None


@contextlib.contextmanager
def install() -> Iterator[Preemption]:
    """Take the signals over until the end of the block; inside another such block that one's object is given.

    Main thread only, as everything about signals.
    """
    global _installed
    if _installed is not None:
        yield _installed
        return
    _installed = asked = Preemption()
    try:
        for number in SIGNALS:
            asked.previous[number] = signal.getsignal(number)
            signal.signal(number, asked.request)
        yield asked
    finally:
        for signum, handler in asked.previous.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        _installed = None


def installed() -> Preemption | None:
    """What `install` gave, while its block lasts."""
    return _installed
