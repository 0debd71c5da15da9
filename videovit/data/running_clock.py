"""Time limits that count the time that this process ran."""

from __future__ import annotations

import time


class RunningClock:
    """Counts seconds, but of a pause (Ctrl-Z, a suspended job, a machine asleep) at most `most_s`.

    Args:
        most_s: the longest time between two calls of `elapsed_s` if there is no pause.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s, self._last_s, self._sum_s = most_s, time.monotonic(), 0.0

    def elapsed_s(self) -> float:
        """Seconds since this object was made."""
        now_s = time.monotonic()
        self._sum_s += min(now_s - self._last_s, self._most_s)
        self._last_s = now_s
        return self._sum_s
