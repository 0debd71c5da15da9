"""Signals that stop a run: all ranks finish the current step, training is saved, then the run ends.

    SIGUSR2, SIGTERM    a scheduler wants the machine back: exit code 75, the same command resumes the run
    SIGHUP              the same: the terminal was closed; ignored if it was ignored before, as under nohup
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
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from videovit.engine.reporting.console import has_room
from videovit.errors import UserError

SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later
INTERRUPTED = 130  # exit code after Ctrl-C, as in shells: 128 + SIGINT
GRACE_S = 60.0  # how long after a signal a run waits for the data of its step


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
        self._since_s = 0.0
        self._ctrl_c = 0
        self.previous: dict[int, Any] = {}
        self.forward: Callable[[int], object] | None = None

    def requested(self) -> int:
        """The first signal that this process received; 0 if there was none."""
        return self._signum

    def check_wait(self) -> None:
        """Give up the step, if its data has not arrived long after a signal.

        Raises:
            UserError: names the signal.
        """
        if self._signum and time.monotonic() - self._since_s > GRACE_S:
            name = signal.Signals(self._signum).name
            raise UserError(
                f"no batch arrived within {GRACE_S:g} s after {name}, so the step could not be finished and saved",
                hint="The same command continues from the newest checkpoint",
            )

    def request(self, signum: int, frame: FrameType | None = None) -> None:
        """The signal handler. The second Ctrl-C goes to the previous handler, which ends the process."""
        if not self._signum:
            self._signum, self._since_s = signum, time.monotonic()
            if self.forward is not None:
                self.forward(signum)
        if signum != signal.SIGINT:
            return
        self._ctrl_c += 1
        previous = self.previous.get(signum)
        if self._ctrl_c > 1 and callable(previous):
            previous(signum, frame)
        elif os.environ.get("RANK", "0") == "0":
            # print() may be what the signal has interrupted, and cannot be entered twice.
            with contextlib.suppress(OSError):
                if has_room(2, 0.0):
                    os.write(2, b"\nCtrl-C: finishing the step and saving; once more ends the run at once\n")


_installed: Preemption | None = None


@contextlib.contextmanager
def install() -> Iterator[Preemption]:
    """Replace the signal handlers until the end of the block; main thread only.

    After `Preempted`, the process is expected to end: further signals are ignored, and Ctrl-C ends it at once.

    Yields:
        What remembers the signal. An inner `install` yields the object of the outer one.
    """
    global _installed
    if _installed is not None:
        yield _installed
        return
    stop: Preempted | None = None
    _installed = preemption = Preemption()
    try:
        for number in SIGNALS:
            before = signal.getsignal(number)
            if number == signal.SIGHUP and before == signal.SIG_IGN:  # nohup: the run outlives its terminal
                continue
            preemption.previous[number] = before
            signal.signal(number, preemption.request)
        yield preemption
    except Preempted as error:
        stop = error
        raise
    finally:
        for signum, handler in preemption.previous.items():
            if stop is not None:
                _keep_exit_code(signum, stop.exit_code)
            else:
                # None stands for a handler that was not installed from Python, which cannot be restored.
                signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        _installed = None


def _keep_exit_code(number: int, code: int) -> None:
    """Let a run that is saved end with this code, although it receives another signal."""
    # Not a function of Python for all of them: the interpreter removes those before the process has ended.
    signal.signal(number, signal.SIG_IGN if number != signal.SIGINT else lambda *_: os._exit(code))


def check_wait() -> None:
    """See `Preemption.check_wait`; does nothing outside an `install` block."""
    if _installed is not None:
        _installed.check_wait()


def installed() -> Preemption | None:
    """The object of the `install` block that is active, if any."""
    return _installed
