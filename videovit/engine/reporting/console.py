"""Lines on stderr. A pipe that nobody reads takes what it has room for, and is then not waited for without end."""

from __future__ import annotations

import os
import select
import stat
import sys

WAIT_S = 10.0  # how long a line waits for a pipe that is full
CONSOLE_ERRORS = (OSError, ValueError)
"""The console is gone: a closed terminal or pipe, a full disk behind a redirection, a closed file."""


def write_line(text: str, wait_s: float) -> bool:
    """Write a line without breaking a progress bar.

    Args:
        text: the line, or several.
        wait_s: how long to wait for room in a pipe, in seconds.

    Returns:
        False if there was no room for all of it.

    Raises:
        OSError, ValueError: the console is gone.
    """
    handle = _pipe()
    if handle is None:
        from tqdm import tqdm  # not on top: `videovit --help` needs none

        # Ctrl-S stops a terminal on purpose, so wait for it; files always have room, or fail.
        tqdm.write(text, file=sys.stderr)
        return True
    sys.stderr.flush()
    line = f"{text}\n".encode(sys.stderr.encoding, "backslashreplace")
    # A pipe with any room takes so many bytes at once.
    for begin in range(0, len(line), select.PIPE_BUF):
        if not has_room(handle, wait_s):
            return False
        os.write(handle, line[begin : begin + select.PIPE_BUF])
    return True


def has_room(handle: int, wait_s: float) -> bool:
    """Whether something can be written to a pipe, or writing fails at once."""
    poll = select.poll()
    poll.register(handle, select.POLLOUT)
    return bool(poll.poll(1000 * wait_s))


def _pipe() -> int | None:
    """The descriptor of stderr, if it is a pipe or a socket."""
    try:
        handle = sys.stderr.fileno()
        mode = os.fstat(handle).st_mode
    except CONSOLE_ERRORS:
        return None  # not a file: a test or a notebook
    return handle if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None
