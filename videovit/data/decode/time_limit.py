"""Decoding under a time limit, in a helper process that can be killed if a decoder hangs or crashes.

A native decoder that hangs cannot be interrupted from Python: threads cannot be killed, signals are delivered only when
the call returns, and killing the data loader's worker would end the epoch. So each process that decodes (the main
process, or every worker of a data loader) has a helper process that decodes for it, one video at a time:

    worker       open(path) ----------->  helper        waits for up to DATA.DECODE_TIMEOUT_S in total, then kills
                 <----- frames, rate                    the helper, reports the file, and continues with the next
                 frames(indices) ------>                video and a new helper
                 <-- one file in memory

The helper is a fork, so it starts quickly (10 ms), and it is reused for the next video. Frames come back in a memory
file that both processes map, not through the pipe, so they are copied only once. A crash of the decoder ends the helper
and not the worker. A helper always ends with its parent: the pipe closes, and on Linux the kernel kills it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Mapping
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from videovit.data.decode.opening import Opener, open_here
from videovit.data.decode.protocol import BaseVideo, DecodeError, DecodeOptions, Indices, Video
from videovit.data.memory_files import map_frames, write_frames
from videovit.data.running_clock import RunningClock
from videovit.data.workers import signals_blocked
from videovit.errors import UserError

Result = TypeVar("Result")

# Exceptions that a helper sends to its parent; any other is a bug and ends the helper with a traceback.
FORWARDED = (ValueError, IndexError)
IGNORED_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")  # meant for the parent
PR_SET_PDEATHSIG = 1


ATTEMPTS = 3  # helpers per video, if they are killed from outside
OPEN_S_PER_MB = 1.0  # to open a video of which each request is limited: some files are decoded to count their frames
PAUSE_S = 1.0  # before the next attempt; memory may be free again by then
SLICE_S = 1.0  # how long to wait before looking whether this process was paused
# How decoders crash. Any other signal comes from outside: the system ran out of memory, or somebody sent it.
CRASHES = frozenset(getattr(signal, f"SIG{name}") for name in "SEGV BUS ABRT FPE ILL TRAP SYS".split())


class HelperEndedError(OSError):
    """The helper process has ended; the message says how.

    Attributes:
        from_outside: it was killed or stopped by another process, which says nothing about the video.
    """

    def __init__(self, how: str, *, from_outside: bool = False) -> None:
        super().__init__(how)
        self.from_outside = from_outside


class Helper:
    """A process, forked on creation, that opens and decodes videos.

    Args:
        backends: the decoders; a helper has those that existed when it was forked.
    """

    def __init__(self, backends: Mapping[str, Opener]) -> None:
        self.backends = dict(backends)
        # A helper resolves relative paths in the folder in which it was forked.
        self.folder = _current_folder()
        ours, theirs = Pipe()
        with warnings.catch_warnings(), signals_blocked():
            warnings.simplefilter("ignore", DeprecationWarning)  # about forking with threads: the helper uses none
            self._pid = os.fork()
        if self._pid == 0:
            _run_helper(theirs, self.backends)
        theirs.close()
        self._connection = ours
        self._code = 0  # exit code, or minus the signal that ended it
        self.waited_s = 0.0  # for the last answer

    def request(self, *message: object, limit_s: float) -> Any:
        """Send a request and wait for the answer; None if it does not arrive.

        Args:
            message: the request.
            limit_s: how long to wait, in seconds; pauses of this process do not count.

        Raises:
            HelperEndedError: the helper has ended, or was stopped.
        """
        try:
            self._connection.send(message)
            if not self._wait(limit_s):
                return None
            answer = self._connection.recv()
            # Frames follow the answer as a file descriptor.
            return (*answer, reduction.recv_handle(self._connection)) if answer[0] == "frames" else answer
        except HelperEndedError:
            raise
        except (EOFError, OSError):
            raise self._how_it_ended() from None

    def _wait(self, limit_s: float) -> bool:
        clock, self.waited_s = RunningClock(2 * SLICE_S), 0.0
        while not self._connection.poll(max(0.0, min(SLICE_S, limit_s - self.waited_s))):
            self.waited_s = clock.elapsed_s()
            if self.waited_s >= limit_s:
                if self._status() == "stopped":
                    raise HelperEndedError("its decoder was stopped", from_outside=True)
                return False
        self.waited_s = clock.elapsed_s()
        return True

    def _status(self) -> str:
        """The state of the process: "running", "stopped" or "ended"; in the last case `_code` is set."""
        if self._pid:
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                self._pid = 0
            else:
                if not pid:
                    return "running"
                if os.WIFSTOPPED(status):
                    return "stopped"
                self._pid, self._code = 0, os.waitstatus_to_exitcode(status)
        return "ended"

    def end(self) -> None:
        """Kill the process. May be called repeatedly, and after the process has ended."""
        self._connection.close()
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = 0

    def disown(self) -> None:
        """Drop the helper without killing it, because it belongs to the process that this one was forked from."""
        self._connection.close()
        self._pid = 0

    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._status() == "running"

    def _how_it_ended(self) -> HelperEndedError:
        end = time.monotonic() + SLICE_S
        while self.is_alive() and time.monotonic() < end:
            time.sleep(0.001)  # it has closed its pipe, and is about to end
        self.end()
        if self._code >= 0:
            return HelperEndedError(f"the decoder ended with code {self._code}")
        name = signal.Signals(-self._code).name
        if -self._code in CRASHES:
            return HelperEndedError(f"the decoder crashed ({name})")
        return HelperEndedError(f"its decoder was killed ({name})", from_outside=True)


# Helpers of this process that are ready for another video.
_idle: list[Helper] = []


def _end_idle() -> None:
    while _idle:
        _idle.pop().end()


def _disown_idle() -> None:
    while _idle:
        _idle.pop().disown()


atexit.register(_end_idle)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_idle)


def _current_folder() -> tuple[int, int]:
    """The folder that relative paths count from, identified even if it was removed."""
    status = os.stat(".")
    return status.st_dev, status.st_ino


def _take_helper(backends: Mapping[str, Opener]) -> Helper:
    while True:
        try:
            helper = _idle.pop()
        except IndexError:  # not checked before: another thread may take the last one in between
            return Helper(backends)
        # Tests and users may have registered other decoders since the fork.
        if helper.backends == backends and helper.folder == _current_folder() and helper.is_alive():
            return helper
        helper.end()


def open_limited(path: str, backend: str, backends: Mapping[str, Opener], options: DecodeOptions) -> Video:
    """Open a video in a helper process, which is killed if the video takes longer than options.timeout_s.

    Args:
        path: the file.
        backend: name of the decoder.
        backends: all decoders.
        options: options of the decoder.

    Raises:
        DecodeError: the decoder raised it, crashed, or took too long.
    """
    if not hasattr(os, "fork"):
        warnings.warn("DATA.DECODE_TIMEOUT_S has no effect: this system cannot fork processes", stacklevel=3)
        return open_here(path, backend, backends, options)
    return LimitedVideo(path, backend, _take_helper(backends), options)


def call_limited(function: Callable[..., Result], *arguments: object, path: str, timeout_s: float) -> Result:
    """Call a function in a helper process.

    Args:
        function: must be importable, and its result picklable.
        arguments: must be picklable.
        path: the file that it works on, for errors.
        timeout_s: time limit in seconds.

    Returns:
        The result of the function.

    Raises:
        DecodeError: it crashed or took too long.
        ValueError: the function raised it.
    """
    for attempt in range(ATTEMPTS):
        # No decoders needed: the function brings its own.
        helper = _take_helper({})
        answer = None
        try:
            answer = helper.request("call", function, arguments, limit_s=timeout_s)
            break
        except HelperEndedError as error:
            if not error.from_outside or attempt == ATTEMPTS - 1:
                raise DecodeError(path, str(error), "limited") from None
            time.sleep(PAUSE_S)
        finally:
            if answer is None:
                helper.end()
            else:
                _idle.append(helper)
    if answer is None:
        raise DecodeError(path, f"took longer than {timeout_s:g} s; it was ended", "limited")
    if answer[0] == "error":
        raise answer[1]
    result: Result = answer[1]
    return result


class LimitedVideo(BaseVideo):
    """A video open in a helper process."""

    def __init__(self, path: str, backend: str, helper: Helper, options: DecodeOptions) -> None:
        self._path = path
        self._backend = backend
        self._options = options
        self._backends = helper.backends
        self._limit = f"{options.timeout_name} {options.timeout_s:g}"
        self._start(helper)
        try:
            answer = self._request("open", path, backend, options)
            _, self.num_frames, self.fps, self.knots, self.start_s, self.served_by = answer
        except (*FORWARDED, OSError):
            self._release()
            raise

    def _start(self, helper: Helper) -> None:
        self._helper: Helper | None = helper
        # One limit for all requests about a video, unless each has its own.
        self._left_s = self._options.timeout_s
        # A video that is garbage collected without being closed still occupies its helper.
        self._end = weakref.finalize(self, helper.end)

    def frames(self, indices: Indices) -> Tensor:
        """See `Video.frames`; the helper checks the indices."""
        _, shape, self.served_by, handle = self._request("frames", np.asarray(indices))
        return map_frames(handle, shape)

    def close(self) -> None:
        """Close the video in the helper, which is kept for the next video."""
        if self._helper is not None:
            # The frames have arrived; a helper that cannot close is killed.
            with contextlib.suppress(DecodeError, HelperEndedError):
                self._ask("close")
            self._release()

    def _request(self, *message: object) -> Any:
        """The answer, from a second helper if the first is killed from outside.

        Raises:
            DecodeError: the video is at fault.
            UserError: all helpers were killed.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if attempt > 1:
                    time.sleep(PAUSE_S)
                    self._start(Helper(self._backends))
                    if message[0] != "open":
                        self._ask("open", self._path, self._backend, self._options)
                return self._ask(*message)
            except HelperEndedError as error:
                reason = str(error)
        raise UserError(
            f"{reason}, {ATTEMPTS} times in a row",
            where=self._path,
            hint="Usually memory ran out; fewer DATA_LOADER.NUM_WORKERS need less",
        )

    def _ask(self, *message: object) -> Any:
        if self._helper is None:
            raise ValueError(f"{self._path}: the video is closed")
        helper, answer = self._helper, None
        limit_s = self._left_s
        if self._options.each_request and message[0] == "open":
            with contextlib.suppress(OSError):  # the helper says why
                limit_s += OPEN_S_PER_MB * os.path.getsize(self._path) / 1e6
        try:
            answer = helper.request(*message, limit_s=limit_s)
        except HelperEndedError as error:
            if error.from_outside:
                raise
            raise DecodeError(self._path, str(error), self._backend) from None
        finally:
            if answer is None:  # too late, or interrupted; a late answer would be taken for the next request's
                self._drop()
        if not self._options.each_request:
            self._left_s -= helper.waited_s
        if answer is None:
            reason = f"took longer than {self._limit} s; its decoder was ended"
            raise DecodeError(self._path, reason, self._backend)
        if answer[0] == "error":
            raise answer[1]
        return answer

    def _drop(self) -> None:
        self._helper = None
        self._end()

    def _release(self) -> None:
        if self._helper is not None and self._end.detach() is not None:
            _idle.append(self._helper)
        self._helper = None


# ------------------------------------------------------------------------------------------- in the helper process


def _run_helper(connection: Connection, backends: Mapping[str, Opener]) -> NoReturn:
    """Answer requests until the pipe closes, then exit without the parent's clean-up handlers.

    This never returns, whatever happens: a helper that returned would execute the code of its parent.
    """
    code = 1
    try:
        _settle(connection.fileno())
        _serve(connection, backends)
        code = 0
    finally:
        try:
            if code:  # not through sys.stderr, whose file may be closed by now
                os.write(2, traceback.format_exc().encode(errors="replace"))
        finally:
            os._exit(code)


def _settle(keep: int) -> None:
    """Detach from what belongs to the parent: its signals, files, threads and objects."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for name in IGNORED_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    gc.freeze()  # collecting the parent's objects would copy their pages and run their finalizers
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    for name in os.listdir(folder):
        if int(name) > 2 and int(name) != keep:
            with contextlib.suppress(OSError):
                os.close(int(name))
    torch.set_num_threads(1)


def _serve(connection: Connection, backends: Mapping[str, Opener]) -> None:
    video: Video | None = None
    path = backend = ""
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        handle = None
        try:
            if request[0] == "open":
                _, path, backend, options = request
                video = open_here(path, backend, backends, options)
                times = video.num_frames, video.fps, video.knots, video.start_s
                answer: tuple[object, ...] = "open", *times, video.served_by
            elif request[0] == "call":
                answer = "result", request[1](*request[2])
            elif video is not None and request[0] == "frames":
                frames = video.frames(request[1])
                answer = "frames", tuple(frames.shape), video.served_by
                handle = write_frames(frames)
            else:
                if video is not None:
                    video.close()
                video, answer = None, ("close",)
        except FORWARDED as error:
            answer = "error", error
        # Frames may be too large for memory although the header is within limits.
        except MemoryError:
            answer = "error", DecodeError(path, "not enough memory", backend)
        connection.send(answer)
        if handle is not None:
            reduction.send_handle(connection, handle, os.getppid())
            os.close(handle)
