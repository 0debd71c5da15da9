"""Decoding with PyAV: exactly the requested frames, decoding as little as possible.

A pass over the packets (no decoding, milliseconds) finds which packet shows which frame. Then, for each group of
pictures with a wanted frame: seek to its key frame, decode up to the last wanted frame, and convert only the wanted
frames to RGB. In H.264 and HEVC, unwanted pictures that no other picture refers to are not even decoded. The result
equals decoding the whole file, bit for bit. If seeking cannot guarantee that, the file is decoded from the start, and
a frame that cannot be decoded at all raises a DecodeError.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import torch
from av.video.frame import PictureType
from numpy.typing import NDArray
from torch import Tensor

from videovit.data.decode.frame_index import FrameIndex, NotReached, TableCache, read_frame_index
from videovit.data.decode.frame_table import UNKNOWN, FrameTable, Stretch, read_frame_table
from videovit.data.decode.one_file import ONE_FILE
from videovit.data.decode.orientation import Orientation, Upright, is_mirrored
from videovit.data.decode.protocol import (
    DEFAULTS,
    BaseVideo,
    DecodeError,
    DecodeOptions,
    Indices,
    Knots,
    Version,
    check_file,
    check_length,
    check_memory,
    check_size,
    scaled_size,
    shorten,
)

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

NAME = "pyav"
ERRORS = (av.error.FFmpegError, OSError, ValueError, EOFError)
# Metadata that is not UTF-8 is no reason to reject a file. PyAV 19 and later never do.
LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
# Codecs whose stretches are trusted only if the key packet produced an intra picture.
ENTERED_BY_INTRA = frozenset({"h264", "hevc"})
# Packets up to this number ahead are reached by reading on, which is cheaper than seeking.
READ_ON = 64
# Deviation from a constant frame rate, in frames, above which the rate counts as variable.
MOST_UNEVEN = 1.0
# In longer files with an index, only the parts around wanted frames are read.
LONG_S = 120.0
# Tables of files already read, up to about 100 MB per process.
TABLES = TableCache(max_packets=2_000_000)

Image = NDArray[np.uint8]


def open_pyav(path: str, options: DecodeOptions = DEFAULTS) -> PyavVideo:
    """Open a video with PyAV.

    Raises:
        DecodeError: the file is missing, empty, damaged, too large, or has no video stream.
    """
    return PyavVideo(path, options, check_file(path, NAME))


def open_container(path: str, options: DecodeOptions) -> tuple[InputContainer, VideoStream]:
    """Open a container with PyAV; returns it and its video stream, set to one thread.

    Raises:
        DecodeError: not a video file, no video stream, or frames that are too large.
    """
    settings = {**ONE_FILE, "max_pixels": str(options.max_pixels)}
    try:
        container = av.open("file:" + path, options=settings, **LENIENT)
    except ERRORS as error:
        raise DecodeError(path, plain_reason(error), NAME) from None
    stream = container.streams.best("video")
    try:
        if stream is None or stream.codec_context is None:
            raise DecodeError(path, "no video stream" if stream is None else "video of an unknown codec", NAME)
        context: VideoCodecContext = stream.codec_context
        check_size(path, context.width, context.height, options, NAME)
        check_length(path, stream.frames, options, NAME)
    except DecodeError:
        container.close()
        raise
    # Parallelism comes from the workers of the data loader; frame threads would also delay frames.
    context.thread_count = 1
    context.options = {"max_pixels": settings["max_pixels"]}  # for frames that turn out larger than the header says
    return container, stream


class PacketReader:
    """Yields the packets of a stream from a given position on, with their positions."""

    def __init__(self, container: InputContainer, stream: VideoStream, table: FrameTable) -> None:
        self._container = container
        self._stream = stream
        self._table = table
        self._packets: Iterator[Packet[VideoStream]] = iter(())
        self._next: int | None = None  # position of the next packet; None before the first seek

    def read(self, first: int) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """(position, packet) pairs from position `first` on.

        Raises:
            NotReached: the packets are not those of the table.
        """
        pts = self._table.pts
        # Read on if the packet is close ahead, and if the time stamps up to it are known, to verify the position.
        if self._next is None or not 0 <= first - self._next <= READ_ON or (pts[self._next : first] == UNKNOWN).any():
            yield from self._landing(first)
        for packet in self._packets:
            position = self._next
            if not packet.size or position is None or position >= len(pts):
                return
            if packet.pts != pts[position]:
                raise NotReached
            self._next = position + 1
            if position >= first:
                yield position, packet

    def _landing(self, first: int) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """Seek to position `first` or before it; yields the packet at `first` if that is where seeking led."""
        # Some containers seek by presentation and some by decoding time; landing too early is fine, too late is not.
        for stamp in (int(self._table.pts[first]), int(self._table.dts[first])):
            if stamp == UNKNOWN:
                continue
            self._container.seek(stamp, stream=self._stream, backward=True, any_frame=False)
            self._packets = iter(self._container.demux(self._stream))
            packet = next(self._packets, None)
            if packet is None:
                continue
            position = self._table.position_of(packet.pts)
            if position is not None and position <= first:
                self._next = position + 1
                if position == first:
                    yield position, packet
                return
        raise NotReached


class Rows:
    """Collects RGB images in one array, in the order of the given keys."""

    def __init__(self, keys: Sequence[Hashable], options: DecodeOptions) -> None:
        self._options, self._upright = options, Upright()
        self._row_of = {key: row for row, key in enumerate(keys)}
        self._missing = set(self._row_of)
        self.images: Image | None = None

    def keep(self, key: Hashable, frame: VideoFrame) -> None:
        """Convert and store a frame if its key is wanted."""
        row = self._row_of.get(key)
        if row is None:
            return
        image = to_rgb(frame, self._upright.of(frame), short_side=self._options.short_side)
        if self.images is None:
            check_memory(len(self._row_of), image.shape[1], image.shape[0], self._options)
            self.images = np.empty((len(self._row_of), *image.shape), dtype=np.uint8)
        # Streams may change their resolution, which a batch cannot.
        if self.images.shape[1:] != image.shape:
            raise ValueError(f"the frame size changes from {self.images.shape[1:3]} to {image.shape[:2]}")
        self.images[row] = image
        self._missing.discard(key)

    def has(self, keys: Iterable[Hashable]) -> bool:
        """Whether the images of all these keys are stored."""
        return self._missing.isdisjoint(keys)

    def result(self) -> Image:
        """All images, (N, H, W, 3).

        Raises:
            ValueError: some are missing.
        """
        if self._missing or self.images is None:
            raise ValueError(f"{len(self._missing)} of the {len(self._row_of)} wanted frames cannot be decoded")
        return self.images


class PyavVideo(BaseVideo):
    """A video open in PyAV; `frames` may be called repeatedly.

    Attributes:
        codec: canonical name of the codec.
        size: width and height as stored, before rotation.
        table: table of the whole file; of a long file with an index, table of the frames requested last.
        is_long: whether it is longer than LONG_S.
    """

    def __init__(self, path: str, options: DecodeOptions, version: Version) -> None:
        self._path = path
        self._options = options
        self._container, self._stream = open_container(path, options)
        self._index: FrameIndex | None = None
        self.served_by = NAME
        context = self._stream.codec_context
        self.codec: str = context.codec.canonical_name
        self.size: tuple[int, int] = context.width, context.height
        # Some containers give no average rate.
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else 0.0
        try:
            self._read_table(version)
            # The header may understate the number of frames.
            check_length(path, len(self.table.shown), options, NAME)
        except DecodeError:
            self.close()
            raise
        except ERRORS as error:
            self.close()
            raise DecodeError(path, plain_reason(error), NAME) from None
        self.num_frames = len(self.table.shown)
        if self.num_frames < 1 or not self.fps > 0:
            self.close()
            raise DecodeError(path, f"{self.num_frames} frames at {self.fps} frames per second", NAME)
        self.is_long = self.num_frames > LONG_S * self.fps
        self.knots = self._find_knots()
        self._skips = can_skip(context.name, context.extradata)
        self._reader = PacketReader(self._container, self._stream, self.table)

    def _decode(self, wanted: Indices) -> Tensor:
        try:
            images = self._decode_by_table(wanted) if self.table.seekable else self._decode_counting(wanted.tolist())
        except ERRORS as error:
            raise DecodeError(self._path, plain_reason(error), NAME) from None
        return torch.from_numpy(images)

    @property
    def mirrored(self) -> bool:
        """Whether an mp4 file declares that it is shown mirrored."""
        return "mp4" in self._container.format.name.split(",") and is_mirrored(self._path)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _find_knots(self) -> Knots | None:
        """See `Video.knots`. Of a long file only key frames are known, and only their decoding times."""
        time_base = self._stream.time_base
        if time_base is None:
            return None
        if self._index is not None:
            frames = np.append(self._index.keys, self.num_frames - 1)
            stamps = np.append(self._index.dts, self._index.last_dts)
        elif self.table.seekable:
            frames, stamps = np.arange(self.num_frames), self.table.pts[self.table.shown]
        else:
            return None
        seconds = (stamps - stamps[0]) * float(time_base)
        if np.abs(seconds * self.fps - frames).max() <= MOST_UNEVEN or (np.diff(seconds) < 0).any():
            return None
        return frames, seconds

    def _read_table(self, version: Version) -> None:
        """Get the table from the cache, from the index of a long file, or by reading all packets."""
        known = TABLES.find(self._path, version)
        if known is None and self._stream.frames > LONG_S * self.fps:
            # Reading all packets of a movie takes seconds.
            known = read_frame_index(self._container, self._stream, self._path)
        if known is None:
            known = self._scan()
        TABLES.add(self._path, version, known)
        if isinstance(known, FrameIndex):
            self._index, self.table = known, known.unread()
        else:
            self.table = known
            # The scan has moved the container; counting starts at the first packet.
            if not known.seekable:
                self._reopen()

    def _scan(self) -> FrameTable:
        """The table of the whole file, whose container must be at its start."""
        context = self._stream.codec_context
        table = read_frame_table(
            self._container.demux(self._stream),
            codec=context.name,
            container_format=self._container.format.name,
            extradata=context.extradata,
            max_frames=self._options.max_frames,
        )
        return table if table.seekable else dataclasses.replace(table, shown=np.arange(self._count()))

    def _decode_by_table(self, wanted: Indices) -> Image:
        """Decode the wanted frames (sorted, distinct), by seeking if that is exact and from the start otherwise."""
        if self._index is not None:
            try:
                self.table = self._index.read_around(self._container, self._stream, wanted)
                self._reader = PacketReader(self._container, self._stream, self.table)
                return self._decode_stretches(wanted)
            except NotReached:
                return self._decode_without_index(wanted)
        try:
            return self._decode_stretches(wanted)
        except NotReached:
            self._reopen()
            self._reader = PacketReader(self._container, self._stream, self.table)
        keys = self.table.pts[self.table.shown[wanted]].tolist()
        rows = Rows(keys, self._options)
        last = max(stretch.last for stretch in self.table.stretches(wanted.tolist()))
        try:
            self._decode_stretch(Stretch(0, last, frozenset(keys)), rows, careful=False)
        except NotReached:
            raise ValueError("the packets of the file differ from one reading to the next") from None
        return rows.result()

    def _decode_without_index(self, wanted: Indices) -> Image:
        """Decode the wanted frames of a file whose index turned out to be wrong."""
        self._index = None
        self._reopen()
        table = self._scan()
        if len(table.shown) != self.num_frames or not table.seekable:
            raise ValueError(f"found {len(table.shown)} frames, but the header states {self.num_frames}")
        self.table = table
        # The next video must not use the wrong index.
        TABLES.drop(self._path)
        self._reader = PacketReader(self._container, self._stream, table)
        return self._decode_by_table(wanted)

    def _decode_stretches(self, wanted: Indices) -> Image:
        rows = Rows(self.table.pts[self.table.shown[wanted]].tolist(), self._options)
        for stretch in self.table.stretches(wanted.tolist()):
            self._decode_stretch(stretch, rows, careful=stretch.first > 0)
        return rows.result()

    def _decode_stretch(self, stretch: Stretch, rows: Rows, *, careful: bool) -> None:
        """Decode the packets of one stretch and keep its wanted frames.

        stretch: what to decode.
        rows: destination of the images.
        careful: the stretch does not start at the beginning of the file: raise NotReached if its frames look
            broken.
        """
        context = self._stream.codec_context
        key_pts = int(self.table.pts[stretch.first])
        # Some streams have key packets without an intra picture: they refresh the picture gradually. Decoding that
        # starts there gives frames that look whole and are not.
        entered = not careful or self.codec not in ENTERED_BY_INTRA

        def keep(frames: Sequence[VideoFrame]) -> None:
            nonlocal entered
            for frame in frames:
                entered = entered or (frame.pts == key_pts and frame.pict_type == PictureType.I)
                if careful and frame.is_corrupt and frame.pts in stretch.wanted_pts:
                    raise NotReached
                rows.keep(frame.pts, frame)

        context.flush_buffers()
        for position, packet in self._reader.read(stretch.first):
            # A skipped picture is not decoded; "NONREF" skips only those that no other picture refers to.
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
        """Decode the wanted frames (sorted, distinct) by counting, from the start or from where the last call ended."""
        if wanted[0] < self._num_counted:
            self._reopen()  # the file cannot be read backwards
        rows = Rows(wanted, self._options)
        while self._num_counted <= wanted[-1]:
            frame = next(self._counted, None)
            if frame is None:
                break
            rows.keep(self._num_counted, frame)
            self._num_counted += 1
        return rows.result()

    def _count(self) -> int:
        """Number of frames, by decoding all of them (up to one more than allowed)."""
        self._reopen()
        return sum(1 for _ in itertools.islice(self._counted, self._options.max_frames + 1))

    def _reopen(self) -> None:
        """Start again at the first packet."""
        self._container.close()
        self._container, self._stream = open_container(self._path, self._options)
        self._counted: Iterator[VideoFrame] = self._container.decode(self._stream)
        self._num_counted = 0


def can_skip(codec: str, extradata: bytes | None) -> bool:
    """Whether unreferenced pictures can be skipped without changing any other picture.

    True for H.264, where packets state that nothing refers to them. In HEVC they state it for their own temporal layer
    only, so True for a single layer.
    """
    if codec == "h264":
        return True
    if codec != "hevc" or extradata is None or len(extradata) < 23 or extradata[0] != 1:
        return False
    num_temporal_layers = extradata[21] >> 3 & 7  # HEVCDecoderConfigurationRecord
    return num_temporal_layers == 1


def to_rgb(frame: VideoFrame, orientation: Orientation, *, short_side: int = 0) -> Image:
    """Convert a decoded frame to upright RGB, uint8 (H, W, 3).

    Args:
        frame: a frame of PyAV.
        orientation: how to turn it.
        short_side: short side to scale larger frames down to; see `DecodeOptions`.
    """
    width, height = scaled_size(frame.width, frame.height, short_side)
    if width != frame.width:
        # Scale before the conversion to RGB: 4:2:0 video has half as much data.
        frame = frame.reformat(width, height, frame.format.name, interpolation="BILINEAR", threads=1)
    image = frame.to_ndarray(format="rgb24", interpolation="BICUBIC", threads=1)
    return orientation.turn(np.asarray(image, dtype=np.uint8))


def plain_reason(error: BaseException) -> str:
    """The reason of a decoder's error in plain words, if known."""
    if isinstance(error, av.error.ArgumentError):
        return "damaged, or a text such as a playlist, which may refer to other files"
    if isinstance(error, av.error.InvalidDataError):
        return "damaged, or not a video file"
    if isinstance(error, av.error.EOFError):
        return "the file ends too early"
    if isinstance(error, av.error.FFmpegError):
        return error.strerror or shorten(error)
    return shorten(error)
