"""Decoding with PyAV: exactly the requested frames, decoding as little as possible.

A pass over the packets (no decoding, milliseconds) finds which packet shows which frame. Then, for each group of
pictures with a wanted frame: seek to its key frame, decode up to the last wanted frame, and convert only the wanted
frames to RGB. In H.264 and HEVC, unwanted pictures that no other picture refers to are not even decoded. The result
equals decoding the whole file, bit for bit. If seeking cannot guarantee that, the file is decoded from the start, and
a frame that cannot be decoded at all raises a DecodeError.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import av
import numpy as np
import torch
from av.video.frame import PictureType
from numpy.typing import NDArray
from torch import Tensor

from videovit.data.decode.container import ERRORS, NAME, PacketReader, decode_all, open_container, plain_reason
from videovit.data.decode.frame_index import FrameIndex, NotReached, TableCache, read_frame_index
from videovit.data.decode.frame_table import FrameTable, Stretch, read_frame_table
from videovit.data.decode.located import check_file
from videovit.data.decode.orientation import Orientation, Upright, track_orientations
from videovit.data.decode.protocol import (
    DEFAULTS,
    BaseVideo,
    DecodeError,
    DecodeOptions,
    Indices,
    Version,
    check_length,
    check_memory,
    scaled_size,
)
from videovit.data.decode.rate import measured_rate

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# Codecs whose decoders call only some of the pictures key frames from which decoding can start.
ENTERED_BY_INTRA = frozenset({"h264", "hevc"})
# Formats that store the time of every packet, but not when its picture is shown.
WITHOUT_PTS = frozenset({"avi"})
# In longer files with an index, only the parts around wanted frames are read.
LONG_S = 120.0
# Frames that are decoded to see whether time stamps are in the order of the decoder.
MOST_CHECKED = 250
# Tables of files already read, up to about 100 MB per process.
TABLES = TableCache(max_packets=2_000_000)

Image = NDArray[np.uint8]
Size = tuple[int, int]
"""Width and height in pixels."""


class Look(NamedTuple):
    """What is known of a picture only after it was decoded.

    Attributes:
        size: as stored, before rotation.
        orientation: how it is turned upright.
        interlaced: whether its lines belong to two moments.
    """

    size: Size
    orientation: Orientation
    interlaced: bool


def open_pyav(path: str, options: DecodeOptions = DEFAULTS) -> PyavVideo:
    """Open a video with PyAV.

    Raises:
        DecodeError: the file is missing, empty, damaged, too large, or has no video stream.
    """
    return PyavVideo(path, options, check_file(path, NAME))


class Rows:
    """Collects RGB images in one array, in the order of the given keys.

    Args:
        keys: identify the wanted frames.
        size_of: frame -> width and height to scale it to, before rotation.
        upright: finds their orientations.
        options: limit the memory of all frames.
    """

    def __init__(
        self,
        keys: Sequence[Hashable],
        size_of: Callable[[VideoFrame], Size],
        upright: Upright,
        options: DecodeOptions,
    ) -> None:
        self._size_of, self._upright, self._options = size_of, upright, options
        self._row_of = {key: row for row, key in enumerate(keys)}
        self._missing = set(self._row_of)
        self.images: Image | None = None

    def keep(self, key: Hashable, frame: VideoFrame) -> None:
        """Convert and store a frame if its key is wanted."""
        orientation = self._upright.of(frame)
        row = self._row_of.get(key)
        if row is None:
            return
        image = to_rgb(frame, orientation, self._size_of(frame))
        if self.images is None:
            check_memory(len(self._row_of), image.shape[1], image.shape[0], self._options)
            self.images = np.empty((len(self._row_of), *image.shape), dtype=np.uint8)
        # Streams may change their orientation, which a batch cannot.
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
        size: width and height according to the header, before rotation.
        num_streams: number of video streams in the file; players show the same one.
        table: table of the whole file; of a long file with an index, table of the frames requested last.
        is_long: whether it is longer than LONG_S.
    """

    def __init__(self, path: str, options: DecodeOptions, version: Version) -> None:
        self._path = path
        self._options = options
        self._container, self._stream = open_container(path, options)
        self._index: FrameIndex | None = None
        self._upright = Upright()
        self.served_by = NAME
        context = self._stream.codec_context
        self.codec: str = context.codec.canonical_name
        self.size: tuple[int, int] = context.width, context.height
        self.num_streams = len(self._container.streams.video)
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
        self._read_times()
        if self.num_frames < 1 or not self.fps > 0:
            self.close()
            raise DecodeError(path, f"{self.num_frames} frames at {self.fps} frames per second", NAME)
        self.is_long = self.num_frames > LONG_S * self.fps
        self._skips = can_skip(context.name, context.extradata)
        self._reader = PacketReader(self._container, self._stream, self.table)

    def _decode(self, wanted: Indices) -> Tensor:
        try:
            images = self._decode_by_table(wanted) if self.table.seekable else self._decode_counting(wanted.tolist())
        except ERRORS as error:
            raise DecodeError(self._path, plain_reason(error), NAME) from None
        return torch.from_numpy(images)

    @cached_property
    def look(self) -> Look | None:
        """Of the first frame of a file with a table; None if it cannot be decoded from the first packet alone."""
        context = self._stream.codec_context
        context.flush_buffers()
        context.skip_frame = "DEFAULT"
        try:
            _, packet = next(self._reader.read(0))
            frame = next(iter(context.decode(packet) or context.decode(None)))
        except (*ERRORS, NotReached, StopIteration):
            return None
        return Look((frame.width, frame.height), Upright().of(frame), frame.interlaced_frame)

    @property
    def tick_s(self) -> float:
        """Unit of time stamps in seconds; 0 if unknown."""
        return float(self._stream.time_base or 0)

    @property
    def header_orientations(self) -> set[Orientation]:
        """Orientations other than upright in the header of an mp4 file; empty for other files."""
        if "mp4" not in self._container.format.name.split(","):
            return set()
        return {orientation for orientation in track_orientations(self._path) if orientation.turned}

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _read_times(self) -> None:
        """Set `fps`, `knots` and `start_s`. Of a long file only key frames are known, and only their decoding times."""
        frames, stamps = np.arange(len(self.table.stamps)), self.table.stamps
        first = self._stream.start_time
        if self._index is not None:
            frames = np.append(self._index.keys, self.num_frames - 1)
            stamps = np.append(self._index.dts, self._index.last_dts)
        elif len(stamps):
            first = int(stamps[0])
        tick_s = self.tick_s
        self.fps, self.knots = measured_rate(frames, (stamps - (stamps[0] if len(stamps) else 0)) * tick_s, self.fps)
        # Players begin with the stream that begins first.
        if first is not None and self._container.start_time is not None:
            self.start_s = max(0.0, first * tick_s - self._container.start_time / av.time_base)

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
        if table.seekable and not self._is_ordered(table):
            table = table.for_counting()
        return table if table.seekable else self._count(table)

    def _is_ordered(self, table: FrameTable) -> bool:
        """Whether the first frames leave the decoder in the order of their time stamps.

        Some recorders store decoding times as presentation times, although the stream has B frames. Players show such
        frames in the order of the decoder.
        """
        if not self._stream.codec_context.has_b_frames or (np.diff(table.pts) < 0).any():
            return True
        self._reopen()
        try:
            stamps = [frame.pts for frame in islice(self._counted, MOST_CHECKED)]
        except ERRORS:
            return True  # those of the frames that are wanted are reported
        return stamps == sorted(stamps, key=lambda stamp: (stamp is None, stamp))

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
            self._reader = PacketReader(self._container, self._stream, self.table, at_start=True)
        keys = self.table.pts[self.table.shown[wanted]].tolist()
        rows = Rows(keys, self._size_of, self._upright, self._options)
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
        if len(table.shown) != self.num_frames:
            raise ValueError(f"found {len(table.shown)} frames, but the header states {self.num_frames}")
        self.table = table
        # The next video must not use the wrong index.
        TABLES.drop(self._path)
        if not table.seekable:
            self._reopen()
            return self._decode_counting(wanted.tolist())
        self._reader = PacketReader(self._container, self._stream, table)
        return self._decode_by_table(wanted)

    def _decode_stretches(self, wanted: Indices) -> Image:
        rows = Rows(self.table.pts[self.table.shown[wanted]].tolist(), self._size_of, self._upright, self._options)
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
        # Some key packets hold no key picture: the container is wrong, or the stream refreshes the picture gradually.
        # Decoding that starts there gives frames that look whole and are not.
        entered, by_intra = not careful, self.codec in ENTERED_BY_INTRA

        def keep(frames: Sequence[VideoFrame]) -> None:
            nonlocal entered
            for frame in frames:
                if frame.pts == key_pts:
                    entered = entered or (frame.pict_type == PictureType.I if by_intra else bool(frame.key_frame))
                if careful and frame.is_corrupt and frame.pts in stretch.wanted_pts:
                    raise NotReached
                rows.keep(frame.pts, frame)

        context.flush_buffers()
        try:
            for position, packet in self._reader.read(stretch.first):
                # A skipped picture is not decoded; "NONREF" skips only those that no other picture refers to.
                if self._skips:
                    needed = position == stretch.first or packet.pts in stretch.wanted_pts
                    context.skip_frame = "DEFAULT" if needed else "NONREF"
                keep(context.decode(packet))
                if position >= stretch.last:
                    break
            keep(context.decode(None))
        except ERRORS:
            if careful:
                raise NotReached from None
            raise
        if not entered or (careful and not rows.has(stretch.wanted_pts)):
            raise NotReached

    def _decode_counting(self, wanted: list[int]) -> Image:
        """Decode the wanted frames (sorted, distinct) by counting, from the start or from where the last call ended."""
        if wanted[0] < self._num_counted:
            self._reopen()  # the file cannot be read backwards
        rows = Rows(wanted, self._size_of, self._upright, self._options)
        while self._num_counted <= wanted[-1]:
            frame = next(self._counted, None)
            if frame is None:
                break
            rows.keep(self._num_counted, frame)
            self._num_counted += 1
        return rows.result()

    def _count(self, table: FrameTable) -> FrameTable:
        """Complete the table of a file that cannot be sought in, by decoding it (up to one more frame than allowed)."""
        self._reopen()
        pts = [frame.pts for frame in islice(self._counted, self._options.max_frames + 1)]
        known = [stamp for stamp in pts if stamp is not None]
        is_timed = len(known) == len(pts)
        # Presentation times that FFmpeg makes up are late by the pictures that the decoder holds back.
        if not is_timed or (self._container.format.name in WITHOUT_PTS and len(table.stamps) == len(pts)):
            stamps = table.stamps
        else:
            stamps = np.sort(np.array(known, dtype=np.int64))
        # Without a time for every frame, none is known.
        stamps = stamps if len(stamps) == len(pts) else stamps[:0]
        return dataclasses.replace(table, shown=np.arange(len(pts)), stamps=stamps)

    def _size_of(self, frame: VideoFrame) -> Size:
        """The size to scale a frame to. If the size changes midway, all frames get the first one's, as from ffmpeg."""
        size = frame.width, frame.height
        if size != self.size or not self.table.one_size:
            size = self._first_size
        return scaled_size(*size, self._options.short_side)

    @cached_property
    def _first_size(self) -> Size:
        # In a container of its own, because the size is needed while frames are decoded.
        container, stream = open_container(self._path, self._options)
        with container:
            first = next(decode_all(container, stream), None)
        return self.size if first is None else (first.width, first.height)

    def _reopen(self) -> None:
        """Start again at the first packet."""
        self._container.close()
        self._container, self._stream = open_container(self._path, self._options)
        self._counted = decode_all(self._container, self._stream)
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


def to_rgb(frame: VideoFrame, orientation: Orientation, size: Size) -> Image:
    """Convert a decoded frame to upright RGB, uint8 (H, W, 3).

    Args:
        frame: a frame of PyAV.
        orientation: how to turn it.
        size: width and height to scale it to, before it is turned.
    """
    if size != (frame.width, frame.height):
        # Scale before the conversion to RGB: 4:2:0 video has half as much data.
        frame = frame.reformat(*size, frame.format.name, interpolation="BILINEAR", threads=1)
    image = frame.to_ndarray(format="rgb24", interpolation="BICUBIC", threads=1)
    return orientation.turn(np.asarray(image, dtype=np.uint8))
