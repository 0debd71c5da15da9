"""Progress of a run and of its passes over batches: bars on a terminal, sparse log lines elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from videovit.engine.reporting.console import CONSOLE_ERRORS
from videovit.messages import printable

T = TypeVar("T")
LINE_S = 60.0  # without a terminal: seconds between two lines about a pass, at least
logger = logging.getLogger("videovit")
LONGEST_ETA_S = 10**11  # 3,000 years; Python counts no more than 10 ** 9 days


class Bar:
    """A progress bar on a terminal. Nothing is shown elsewhere, or once the terminal is gone.

    Args:
        name: shown in front.
        total: steps.
        first: steps done by an earlier run.
        quiet: show nothing (ranks above 0).

    Attributes:
        is_shown: whether there is a terminal that shows it.
    """

    def __init__(self, name: str, total: int, *, first: int = 0, quiet: bool = False) -> None:
        self._bar: Any = None
        if not quiet and _has_terminal():
            with self._console():
                self._bar = tqdm(total=total, initial=first, desc=name, unit="step", leave=False)

    @property
    def is_shown(self) -> bool:
        return self._bar is not None

    def update(self, text: str = "") -> None:
        """Count a step, and show `text` after the bar."""
        if self._bar is not None:
            with self._console():
                self._bar.update(1)
                self._bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            with self._console():
                self._bar.close()

    @contextlib.contextmanager
    def _console(self) -> Iterator[None]:
        """Go on with log lines when the terminal is gone."""
        try:
            yield
        except CONSOLE_ERRORS:
            self._bar = None


class Progress:
    """Measures clips/s, remaining time, and the share of time spent waiting for data.

    On a terminal it shows a bar; elsewhere it logs a line after `log_period` steps, but at most one per `LINE_S`.

        for step, batch in progress.over(loader):
            train_step(batch)
            progress.count(len(batch), loss=0.7)

    Args:
        name: shown in front, e.g. "epoch 3/30".
        total: steps of the whole pass.
        first: steps done by an earlier run, if it stopped in the middle of the pass.
        log_period: steps between two log lines, at least.
        quiet: show nothing (ranks above 0).
        num_processes: processes that work through clips of their own at the same time; rates are those of all together.
        noun: what is counted.

    Attributes:
        step: index of the current step.
        num_clips: clips of this process so far.
        data_s: seconds spent waiting for batches so far.
        last_data_s: seconds spent waiting for the current batch.
    """

    def __init__(
        self,
        name: str,
        total: int,
        *,
        first: int = 0,
        log_period: int = 10,
        quiet: bool = False,
        num_processes: int = 1,
        noun: str = "clip",
    ) -> None:
        self.name, self.total, self.first, self.log_period = printable(name), total, first, max(1, log_period)
        self.quiet = quiet
        self.num_processes, self.noun = num_processes, noun
        self.step = first
        self.num_clips = 0
        self.data_s = 0.0
        self.last_data_s = 0.0
        self._start = self._last_line = time.monotonic()
        self._bar = Bar(self.name, total, quiet=True)

    def over(self, loader: Iterable[T]) -> Iterator[tuple[int, T]]:
        """Iterate over batches and measure how long each one takes to arrive.

        Yields:
            (step, batch)
        """
        self._bar = Bar(self.name, self.total, first=self.first, quiet=self.quiet)
        self._start = self._last_line = time.monotonic()  # after everything that was built since __init__
        batches = iter(loader)
        try:
            while True:
                requested = time.monotonic()
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                self.last_data_s = time.monotonic() - requested
                self.data_s += self.last_data_s
                yield self.step, batch
                self.step += 1
        finally:  # callers leave the loop early too
            self._bar.close()

    def count(self, num_clips: int, **values: float) -> None:
        """Count a finished step.

        Args:
            num_clips: clips in this step on this process.
            values: numbers to show beside the rates.
        """
        self.num_clips += num_clips
        if self.quiet:
            return
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar.is_shown:
            self._bar.update(f"{self.summary()}  {shown}")
            return
        done = self.step + 1  # `over` counts a step only when the next one is requested
        now = time.monotonic()
        if (done - self.first) % self.log_period == 0 and now - self._last_line >= LINE_S:
            self._last_line = now
            logger.info(
                "%s  step %d/%d  %s  eta %s  %s", self.name, done, self.total, self.summary(), self.eta(), shown
            )

    @property
    def elapsed_s(self) -> float:
        """Seconds since `over` began."""
        return max(1e-9, time.monotonic() - self._start)

    @property
    def clips_per_s(self) -> float:
        """Clips per second of all processes together."""
        return self.num_clips * self.num_processes / self.elapsed_s

    def summary(self) -> str:
        """The rate, and how the time divides between waiting for data and computing."""
        share = self.data_s / self.elapsed_s
        return f"{self.clips_per_s:.1f} {self.noun}s/s  data {share:.0%} compute {1 - share:.0%}"

    def eta(self, further_steps: int = 0) -> str:
        """Remaining time as h:mm:ss.

        Args:
            further_steps: steps that follow after this pass.
        """
        # Only the steps of this process: those of an earlier run took none of `elapsed_s`.
        done = max(1, self.step + 1 - self.first)
        remaining = self.total - self.step - 1 + further_steps
        return duration(self.elapsed_s / done * remaining)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return str(datetime.timedelta(seconds=min(int(seconds), LONGEST_ETA_S)))


def _has_terminal() -> bool:
    # Build machines may offer a terminal without lines, on which tqdm divides by zero.
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).lines > 0
    except CONSOLE_ERRORS:
        return False
