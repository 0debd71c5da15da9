"""Video files open in PyAV, and the packets of their video stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import av

from videovit.data.decode.frame_index import NotReached
from videovit.data.decode.frame_table import UNKNOWN, FrameTable
from videovit.data.decode.located import input_of
from videovit.data.decode.one_file import ONE_FILE
from videovit.data.decode.protocol import DecodeError, DecodeOptions, check_length, check_size, shorten

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
# Packets up to this number ahead are reached by reading on, which is cheaper than seeking.
READ_ON = 64
BUFFER = 1 << 17  # bytes that are read at once of what is no file of its own


def open_container(path: str, options: DecodeOptions) -> tuple[InputContainer, VideoStream]:
    """Open a container with PyAV; returns it and its video stream, set to one thread.

    Raises:
        DecodeError: not a video file, no video stream, or frames that are too large.
    """
    settings = {**ONE_FILE, "max_pixels": str(options.max_pixels)}
    try:
        container = av.open(input_of(path), options=settings, buffer_size=BUFFER, **LENIENT)
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
    """Yields the packets of a stream from a given position on, with their positions.

    Args:
        container: open.
        stream: of the container.
        table: of the stream.
        at_start: nothing has been read yet, so that the first position is reached without seeking, which not every
            file allows.
    """

    def __init__(
        self, container: InputContainer, stream: VideoStream, table: FrameTable, *, at_start: bool = False
    ) -> None:
        self._container = container
        self._stream = stream
        self._table = table
        self._packets: Iterator[Packet[VideoStream]] = filled(container.demux(stream)) if at_start else iter(())
        self._next: int | None = 0 if at_start else None  # position of the next packet; None before the first seek

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
            if position is None or position >= len(pts):
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
            self._packets = filled(self._container.demux(self._stream))
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


def filled(packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    """The packets that hold a picture. Decoders would take an empty one for the end of the file."""
    return (packet for packet in packets if packet.size)


def decode_all(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """All pictures of a stream, from where its container stands to the end of the file."""
    context = stream.codec_context
    for packet in filled(container.demux(stream)):
        yield from context.decode(packet)
    yield from context.decode(None)


def plain_reason(error: BaseException) -> str:
    """The reason of a decoder's error in plain words, if known."""
    if isinstance(error, av.error.ArgumentError):
        return "damaged, or a text such as a playlist, which may refer to other files"
    if isinstance(error, av.error.InvalidDataError):
        return "damaged, or not a video file"
    if isinstance(error, av.error.EOFError):
        return "the file ends too early"
    if isinstance(error, av.error.PermissionError):
        return "no permission to read it"
    if isinstance(error, av.error.FFmpegError):
        return error.strerror or shorten(error)
    return shorten(error)
