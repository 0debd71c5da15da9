"""Ctrl-C while a library is imported: it waits for the end of the import.

Extensions written in C import modules while they load, and some drop the exception that Ctrl-C raises there. The
command would go on with half a library, and end minutes later with a traceback about an attribute that is missing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 0.05
_IMPORT = "<frozen importlib._bootstrap>"


@contextmanager
def after_imports() -> Iterator[None]:
    """In the block, Ctrl-C raises KeyboardInterrupt as soon as nothing is being imported."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, or somebody else's
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        # A block that has given the signal to somebody else has restored it, or means it.
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, before)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    if not _importing(frame):
        raise KeyboardInterrupt
    # To the main thread, which may sleep when the import has ended.
    timer = threading.Timer(AGAIN_S, signal.pthread_kill, (threading.main_thread().ident, signum))
    timer.daemon = True
    timer.start()


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False
