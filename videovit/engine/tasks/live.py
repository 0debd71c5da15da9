"""Windows of a live stream: a thread reads and cuts, while the caller computes.

    reader    frames -> crops -> windows ->  [ one place ]  -> caller
                                              taken? live: the older window is skipped; a pipe: the reader waits

So the memory does not grow, and a window waits for one computation at most, however slow that is. The delay from the
last frame of a window to its scores is at most twice the time that one window takes to compute, plus half a window.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from videovit.data.decode.protocol import DecodeError, DecodeOptions
from videovit.data.decode.stream import StreamReader, shown_name
from videovit.engine.evaluation.stream_windows import StreamWindow, StreamWindows

RECONNECTS = 5  # attempts in a row, after 1, 2, 4, ... seconds
MOST_FRAMES = 1_000_000  # frames are counted anew after as many, because clips are sampled in single precision
LONGEST_GAP_S = 60.0  # a longer gap is a new beginning, not a still picture
PATIENCE_S = 0.2  # between two checks whether to stop


class LiveWindow(NamedTuple):
    """A window of a stream.

    Attributes:
        window: the frames, and their time since the first frame of the stream.
        complete_at: when its last frame had been read, on the clock of `time.monotonic`.
    """

    window: StreamWindow
    complete_at: float

    @property
    def delay_s(self) -> float:
        """Seconds since the window was complete."""
        return time.monotonic() - self.complete_at


class LiveWindows:
    """The windows of a stream, in a `with` block; the reader starts on entry.

    Args:
        name: of the stream, see `data.decode.stream`.
        cutter: stated frame rate -> what cuts frames into windows.
        keep: image uint8 (H, W, 3) -> what a window needs of it.
        options: limits of the decoder.
        live: skip windows while the caller is busy; None: if the stream goes on without being read.
        report: takes lines about lost connections.

    Attributes:
        name: of the stream, without password.
        num_skipped: windows skipped so far.
        num_damaged: packets left out so far.
        why_ended: reason, once it has ended.
        lost: whether it ended because of an error.
    """

    def __init__(
        self,
        name: str,
        cutter: Callable[[float], StreamWindows],
        keep: Callable[[NDArray[np.uint8]], Tensor],
        options: DecodeOptions,
        *,
        live: bool | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name = shown_name(name)
        self.num_skipped = self.num_damaged = 0
        self.why_ended, self.lost = "", False
        self._source, self._cutter, self._keep, self._options, self._live = name, cutter, keep, options, live
        self._report = report
        self._place: queue.Queue[LiveWindow | BaseException | None] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._began: float | None = None  # when the first frame came
        self._goes_on = self._connected = False
        self._thread = threading.Thread(target=self._read, name="stream reader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        # A reader that waits for a pipe ends with the process.
        self._thread.join(timeout=2.0)

    def __iter__(self) -> Iterator[LiveWindow]:
        """The windows, until the stream ends.

        Raises:
            DecodeError: the stream cannot be opened.
            UserError: a window does not fit into the memory.
        """
        while True:
            try:
                found = self._place.get(timeout=PATIENCE_S)  # Ctrl-C is noticed in between
            except queue.Empty:
                continue
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found

    def _read(self) -> None:
        try:
            self._read_connections()
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that computes
            self._put(error)

    def _read_connections(self) -> None:
        """Read until the stream ends, or is lost for good."""
        failures = 0
        while not self._stop.is_set():
            self._connected = False
            try:
                self._read_connection()
                self.why_ended = "the stream ended"
                return
            except DecodeError as error:
                if self._began is None:
                    raise
                reason = error.reason
            failures = 1 if self._connected else failures + 1
            if not self._goes_on or failures > RECONNECTS:
                self.why_ended, self.lost = reason, True
                return
            pause_s = 2.0 ** (failures - 1)
            self._report(f"{self.name}: {reason}; attempt {failures} of {RECONNECTS} to connect again in {pause_s:g} s")
            self._stop.wait(pause_s)

    def _read_connection(self) -> None:
        with StreamReader(self._source, self._options, live=self._live) as reader:
            self._goes_on = reader.live
            segment: _Segment | None = None
            try:
                for frame in reader.frames():
                    if self._stop.is_set():
                        return
                    if segment is None:
                        self._connected, now = True, time.monotonic()
                        self._began = now if self._began is None else self._began
                        segment = _Segment(self._cutter(reader.fps), frame.time_s, now - self._began)
                    elif not segment.continues_at(frame.time_s):
                        self._put_windows(segment, segment.windows.end())
                        segment = segment.next(self._cutter(reader.fps), frame.time_s, reader.fps)
                    kept = self._keep(frame.image_HWC)
                    self._put_windows(segment, segment.windows.add(segment.place(frame.time_s), kept))
            finally:
                self.num_damaged += reader.num_damaged
                if segment is not None and not self._stop.is_set():
                    self._put_windows(segment, segment.windows.end())

    def _put_windows(self, segment: _Segment, windows: Iterator[StreamWindow]) -> None:
        for window in windows:
            start_s, end_s = window.start_s + segment.offset_s, window.end_s + segment.offset_s
            item = LiveWindow(StreamWindow(start_s, end_s, window.frames), time.monotonic())
            # Data come in bursts. A reader that waits for less than a window takes keeps up all the same.
            self._put(item, segment.windows.period_s / 2 if self._goes_on else None)

    def _put(self, item: LiveWindow | BaseException | None, patience_s: float | None = None) -> None:
        """Hand over an item; if the one before it is not taken within `patience_s`, that one is dropped."""
        while not self._stop.is_set():
            try:
                self._place.put(item, timeout=PATIENCE_S if patience_s is None else patience_s)
                return
            except queue.Full:
                if patience_s is not None:
                    with contextlib.suppress(queue.Empty):
                        self._place.get_nowait()
                        self.num_skipped += 1


class _Segment:
    """Frames whose times ascend without a long gap.

    Args:
        windows: cuts them.
        first_s: time of the first frame, as sent.
        offset_s: time of the first frame, since the first frame of the stream.
    """

    def __init__(self, windows: StreamWindows, first_s: float, offset_s: float) -> None:
        self.windows, self.offset_s = windows, offset_s
        self._first_s, self._last_s, self._num_frames = first_s, first_s, 0

    def continues_at(self, time_s: float) -> bool:
        """Whether the next frame belongs to this segment."""
        return 0 <= time_s - self._last_s <= LONGEST_GAP_S and self._num_frames < MOST_FRAMES

    def place(self, time_s: float) -> float:
        """Count a frame; returns its time since the first one of the segment."""
        self._last_s = time_s
        self._num_frames += 1
        return time_s - self._first_s

    def next(self, windows: StreamWindows, time_s: float, fps: float) -> _Segment:
        """The segment that begins with a frame at `time_s`."""
        gap_s = time_s - self._last_s
        # Senders that start anew count from 0 again.
        gap_s = gap_s if gap_s > 0 else 1 / fps if fps else 0.0
        return _Segment(windows, time_s, self.offset_s + self._last_s - self._first_s + gap_s)
