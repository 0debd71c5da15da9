"""Decoding with PyAV: exactly the frames asked for, decoding as little as possible.

A pass over the packets (no decoding, milliseconds) tells which packet shows which frame. Then, for each group of
pictures that holds a wanted frame: seek to its key frame, decode to the last wanted frame, convert only the wanted
ones to RGB. In H.264 and HEVC the unwanted pictures that no other picture refers to are not even decoded. The result
is bit for bit that of decoding the whole file; where that cannot be had by seeking, the file is decoded from the
start, and where a frame cannot be had at all a DecodeError says so.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import av
import numpy as np
import torch
from av.video.frame import PictureType
from numpy.typing import NDArray
from torch import Tensor

from videovit.data.decode.frame_table import FrameTable, Stretch, read_frame_table
from videovit.data.decode.protocol import (
    ClosingVideo,
    DecodeError,
    Indices,
    check_file,
    check_indices,
    shorten,
)

NAME = "pyav"
ERRORS = (av.error.FFmpegError, OSError, ValueError, EOFError)
# Codecs of which a stretch is trusted only if its key packet gave an intra picture.
ENTERED_BY_INTRA = frozenset({"h264", "hevc"})
# Packets worth reading past rather than seeking over them.
READ_ON = 64
# Only plain files: a list or a page that names other places is not followed there.
OPEN_OPTIONS = {"protocol_whitelist": "file"}

Image = NDArray[np.uint8]


class NotReached(Exception):
    """Seeking did not lead to the packets or frames it should have; the file must be decoded from the start."""


def open_pyav(path: str) -> PyavVideo:
    """Open a video with PyAV.

    Raises:
        DecodeError: the file is missing, empty, damaged, or has no video stream.
    """
    check_file(path, NAME)
    return PyavVideo(path)


def open_container(path: str) -> tuple[Any, Any]:
    """An open PyAV container and its video stream, set to one thread.

    Raises:
        DecodeError: not a video file, or one without a video stream.
    """
    try:
        container = av.open("file:" + path, metadata_errors="replace", options=OPEN_OPTIONS)
    except ERRORS as error:
        raise DecodeError(path, plain_reason(error), NAME) from None
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        container.close()
        raise DecodeError(path, "no video stream" if stream is None else "video of an unknown codec", NAME)
    stream.codec_context.thread_count = 1
    return container, stream


class PacketReader:
    """Hands out the packets of a stream from a position on, and knows the position of each."""

    def __init__(self, container: Any, stream: Any, table: FrameTable) -> None:
        self._container = container
        self._stream = stream
        self._table = table
        self._position_of = {pts: position for position, pts in enumerate(table.pts)}
        self._packets: Iterator[Any] = iter(())
        self._next: int | None = None  # position of the packet that comes next, None before the first seek

    def read(self, first: int) -> Iterator[tuple[int, Any]]:
        """(position, packet) pairs from position `first` on, by reading on or by seeking.

        Raises:
            NotReached: the container led elsewhere.
        """
        if self._next is None or not 0 <= first - self._next <= READ_ON:
            yield from self._landing(first)
        for packet in self._packets:
            position = self._next
            if not packet.size or position is None or position >= len(self._table.pts):
                return
            if packet.pts != self._table.pts[position]:
                raise NotReached
            self._next = position + 1
            if position >= first:
                yield position, packet

    def _landing(self, first: int) -> Iterator[tuple[int, Any]]:
        """Seek to position `first` or before it; the packet itself where it is hit exactly."""
        for stamp in (self._table.pts[first], self._table.dts[first]):
            if stamp is None:
                continue
            self._container.seek(stamp, stream=self._stream, backward=True, any_frame=False)
            self._packets = iter(self._container.demux(self._stream))
            packet = next(self._packets, None)
            position = None if packet is None else self._position_of.get(packet.pts)
            if position is not None and position <= first:
                self._next = position + 1
                if position == first:
                    yield position, packet
                return
        raise NotReached


class Rows:
    """Collects RGB images into one array, each in the row that its key stands for."""

    def __init__(self, keys: Sequence[Hashable]) -> None:
        self._row_of = {key: row for row, key in enumerate(keys)}
        self._missing = set(self._row_of)
        self.images: Image | None = None

    def keep(self, key: Hashable, frame: Any) -> None:
        """Convert and store a frame if its key is one of those wanted."""
        row = self._row_of.get(key)
        if row is None:
            return
        image = to_rgb(frame)
        if self.images is None:
            self.images = np.empty((len(self._row_of), *image.shape), dtype=np.uint8)
        if self.images.shape[1:] != image.shape:
            raise ValueError(f"the frame size changes from {self.images.shape[1:3]} to {image.shape[:2]}")
        self.images[row] = image
        self._missing.discard(key)

    def has(self, keys: Iterable[Hashable]) -> bool:
        """Whether images for all these keys are there."""
        return self._missing.isdisjoint(keys)

    def result(self) -> Image:
        """All images, (N, H, W, 3).

        Raises:
            ValueError: some are missing.
        """
        if self._missing or self.images is None:
            raise ValueError(f"{len(self._missing)} of the {len(self._row_of)} wanted frames cannot be decoded")
        return self.images


class PyavVideo(ClosingVideo):
    """A video open in PyAV. `frames` may be called as often as needed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._container, self._stream = open_container(path)
        try:
            context = self._stream.codec_context
            self.table = read_frame_table(
                self._container.demux(self._stream),
                codec=context.name,
                container_format=self._container.format.name,
                extradata=context.extradata,
            )
            rate = self._stream.average_rate or self._stream.guessed_rate
            self.num_frames = len(self.table.shown) if self.table.seekable else self._count()
        except ERRORS as error:
            self.close()
            raise DecodeError(path, plain_reason(error), NAME) from None
        self.fps = float(rate) if rate else 0.0
        if self.num_frames < 1 or not self.fps > 0:
            self.close()
            raise DecodeError(path, f"{self.num_frames} frames at {self.fps} frames per second", NAME)
        self.codec: str = context.name
        self._skips = can_skip(context.name, context.extradata)
        self._reader = PacketReader(self._container, self._stream, self.table)

    def frames(self, indices: Indices) -> Tensor:
        """See `Video.frames`."""
        check_indices(indices, self.num_frames)
        wanted, places = np.unique(indices, return_inverse=True)
        if len(wanted) == 0:
            raise ValueError("no frames were asked for")
        try:
            images = self._decode(wanted.tolist()) if self.table.seekable else self._decode_counting(wanted.tolist())
        except ERRORS as error:
            raise DecodeError(self._path, plain_reason(error), NAME) from None
        frames = torch.from_numpy(images)
        return frames if np.array_equal(wanted, indices) else frames[torch.from_numpy(places.reshape(-1))]

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _decode(self, wanted: list[int]) -> Image:
        """The wanted frames (sorted, distinct), by seeking where that is exact and from the start otherwise."""
        stretches = self.table.stretches(wanted)
        keys = [self.table.pts[self.table.shown[index]] for index in wanted]
        try:
            rows = Rows(keys)
            for stretch in stretches:
                self._decode_stretch(stretch, rows, careful=stretch.first > 0)
        except NotReached:
            self._reopen()
            rows = Rows(keys)
            whole = Stretch(0, max(stretch.last for stretch in stretches), frozenset(keys))
            try:
                self._decode_stretch(whole, rows, careful=False)
            except NotReached:
                raise ValueError("the packets of the file change from one reading to the next") from None
        return rows.result()

    def _decode_stretch(self, stretch: Stretch, rows: Rows, *, careful: bool) -> None:
        """Decode the packets of one stretch and keep its wanted frames.

        Args:
            stretch: what to decode.
            rows: where to put the images.
            careful: the stretch does not begin with the file; raise NotReached when its frames look broken.
        """
        context = self._stream.codec_context
        key_pts = self.table.pts[stretch.first]
        # Some streams have key packets without a whole picture: they refresh it bit by bit.
        entered = not careful or self.codec not in ENTERED_BY_INTRA

        def keep(frames: Sequence[Any]) -> None:
            nonlocal entered
            for frame in frames:
                entered = entered or (frame.pts == key_pts and frame.pict_type == PictureType.I)
                if careful and frame.is_corrupt and frame.pts in stretch.wanted_pts:
                    raise NotReached
                rows.keep(frame.pts, frame)

        context.flush_buffers()
        for position, packet in self._reader.read(stretch.first):
            if self._skips:
                needed = position == stretch.first or packet.pts in stretch.wanted_pts
                context.skip_frame = "DEFAULT" if needed else "NONREF"
            keep(context.decode(packet))
            if position >= stretch.last:
                break
        keep(context.decode(None))
        if not entered or (careful and not rows.has(stretch.wanted_pts)):
            raise NotReached

    def _decode_counting(self, wanted: list[int]) -> Image:
        """The wanted frames (sorted, distinct), by counting from the start, or on from where the last call ended."""
        if wanted[0] < self._num_counted:
            self._reopen()
        rows = Rows(wanted)
        while self._num_counted <= wanted[-1]:
            frame = next(self._counted, None)
            if frame is None:
                break
            rows.keep(self._num_counted, frame)
            self._num_counted += 1
        return rows.result()

    def _count(self) -> int:
        """Number of frames, by decoding them all."""
        self._reopen()
        count = sum(1 for _ in self._counted)
        self._reopen()
        return count

    def _reopen(self) -> None:
        """Begin again at the first packet."""
        self._container.close()
        self._container, self._stream = open_container(self._path)
        self._reader = PacketReader(self._container, self._stream, self.table)
        self._counted: Iterator[Any] = self._container.decode(self._stream)
        self._num_counted = 0


def can_skip(codec: str, extradata: bytes | None) -> bool:
    """Whether unreferenced pictures may be left undecoded without a change to any other.

    True for H.264, whose packets say that nothing refers to them, and for HEVC with one temporal layer, where the
    packets say it of their own layer only.
    """
    if codec == "h264":
        return True
    if codec != "hevc" or extradata is None or len(extradata) < 23 or extradata[0] != 1:
        return False
    num_temporal_layers = extradata[21] >> 3 & 7  # HEVCDecoderConfigurationRecord
    return num_temporal_layers == 1


def to_rgb(frame: Any) -> Image:
    """(H, W, 3) uint8 RGB of a decoded frame, turned upright."""
    image: Image = frame.to_ndarray(format="rgb24", interpolation="BICUBIC", threads=1)
    turns = round(frame.rotation / 90) % 4
    return np.rot90(image, turns) if turns else image


def plain_reason(error: BaseException) -> str:
    """What an error of the decoder means, in plain words where they are known."""
    if isinstance(error, av.error.InvalidDataError):
        return "damaged, or not a video file"
    if isinstance(error, av.error.EOFError):
        return "the file ends too early"
    if isinstance(error, av.error.FFmpegError):
        return error.strerror or shorten(error)
    return shorten(error)
