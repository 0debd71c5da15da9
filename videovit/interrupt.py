"""Ctrl-C while an extension imports something: it waits for the end of that import.

Extensions written in C import modules while they load, and some drop the exception that Ctrl-C raises there. The
command would go on with half a library, and end minutes later with a traceback about an attribute that is missing.
"""

from __future__ import annotations

import dis
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 0.05
_IMPORTLIB = "<frozen importlib._bootstrap>"
_IMPORT_STATEMENTS = {dis.opmap["IMPORT_NAME"], dis.opmap["IMPORT_FROM"]}


@contextmanager
def after_imports() -> Iterator[None]:
    """In the block, Ctrl-C raises KeyboardInterrupt as soon as no extension is importing anything."""
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
    if not _extension_imports(frame):
        raise KeyboardInterrupt
    # To the main thread, which may sleep when the import has ended.
    timer = threading.Timer(AGAIN_S, signal.pthread_kill, (threading.main_thread().ident, signum))
    timer.daemon = True
    timer.start()


def _extension_imports(frame: FrameType | None) -> bool:
    """Whether an import is under way that no statement of Python began, nor a function of importlib."""
    while frame is not None and (caller := frame.f_back) is not None:
        began = frame.f_code.co_filename == _IMPORTLIB and frame.f_code.co_name == "_find_and_load"
        if began and caller.f_code.co_name != "_gcd_import":  # of importlib
            began_by = caller.f_code.co_code[caller.f_lasti]
            if began_by not in _IMPORT_STATEMENTS:
                return True
        frame = caller
    return False
