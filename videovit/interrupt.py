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
        is_import = frame.f_code.co_filename == _IMPORTLIB and frame.f_code.co_name == "_find_and_load"
        if is_import and not _is_python(caller):
            return True
        frame = caller
    return False


def _is_python(caller: FrameType) -> bool:
    """Whether a frame imports by itself, and not C code that it has called."""
    if caller.f_code.co_filename != _IMPORTLIB:
        return caller.f_code.co_code[caller.f_lasti] in _IMPORT_STATEMENTS
    # importlib loads an extension, which imports; or it imports the modules of `from package import module`.
    loader = caller.f_back.f_code.co_name if caller.f_back is not None else ""
    return loader not in ("create_module", "exec_module")
