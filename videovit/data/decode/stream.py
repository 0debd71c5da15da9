"""Streams: cameras, network addresses and pipes. Frames come once, in order, with their times; none is kept here.

    0                      camera number 0
    rtsp://, http(s)://    an address, also of a playlist (HLS)
    -                      standard input
    a named pipe           made by mkfifo

A stream is *live* if it goes on whether or not it is read: cameras, rtsp, and addresses that state no length. The
writer of a pipe waits for its reader, so a pipe is not live unless the caller says so.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import av
import numpy as np
from numpy.typing import NDArray

from videovit.data.decode.container import ERRORS, LENIENT, plain_reason
from videovit.data.decode.one_file import ONE_FILE, REFUSED
from videovit.data.decode.orientation import Upright
from videovit.data.decode.protocol import DecodeError, DecodeOptions, check_size, scaled_size
from videovit.data.decode.pyav_backend import to_rgb

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

NAME = "stream"
TIMEOUT_S = 15.0  # without data from a camera or an address
CAMERA_FORMATS = {"linux": "video4linux2,v4l2", "darwin": "avfoundation"}
"""`sys.platform` -> FFmpeg's reader of cameras."""
# An address may lead to other addresses, but never to files of this machine.
_NETWORK = {
    "protocol_whitelist": "http,https,httpproxy,tcp,tls,udp,rtp,rtsp,crypto",
    "format_whitelist": ",".join(sorted(av.formats_available - (REFUSED - {"hls", "dash", "mpjpeg", "rtp", "rtsp"}))),
    "rtsp_flags": "prefer_tcp",  # packets over UDP get lost
}
_ADDRESS = re.compile(r"(rtsps?|https?)://", re.IGNORECASE)
_PASSWORD = re.compile(r"//[^/@]*@")


class StreamFrame(NamedTuple):
    """A picture of a stream.

    Attributes:
        time_s: since the first picture; may go back if the sender starts anew.
        image_HWC: uint8 (H, W, 3), RGB, upright.
    """

    time_s: float
    image_HWC: NDArray[np.uint8]


def is_stream(name: str) -> bool:
    """Whether a name on the command line stands for a stream, rather than a file or folder."""
    return name == "-" or _ADDRESS.match(name) is not None or is_pipe(name) or _is_camera(name)


def is_pipe(name: str) -> bool:
    """Whether a name is that of a pipe in the file system."""
    try:
        return stat.S_ISFIFO(os.stat(name).st_mode)
    except (OSError, ValueError):
        return False


def shown_name(name: str) -> str:
    """The name of a stream without user name and password, which do not belong into logs."""
    if name == "-":
        return "stdin"
    return _PASSWORD.sub("//***@", name) if _ADDRESS.match(name) else name


def _is_camera(name: str) -> bool:
    return name.isascii() and name.isdigit() and not os.path.exists(name)


class _Pipe(io.FileIO):
    """A pipe open for reading.

    Attributes:
        is_empty: nothing has come so far.
    """

    is_empty = True

    def read(self, size: int | None = -1, /) -> bytes | Any:
        """See `io.FileIO.read`."""
        data = super().read(size)
        self.is_empty = self.is_empty and not data
        return data


class StreamReader:
    """A stream open for reading, in a `with` block.

    Args:
        name: see `is_stream`. Opening a pipe waits for its writer.
        options: limits of the decoder.
        live: see above; None finds out.

    Attributes:
        fps: frame rate that the stream states; 0 if it states none.
        live: see above.
        num_damaged: packets so far that could not be decoded, and were left out.

    Raises:
        DecodeError: it cannot be opened, or has no pictures.
    """

    def __init__(self, name: str, options: DecodeOptions, *, live: bool | None = None) -> None:
        self._name = shown_name(name)
        self._options = options
        self.num_damaged = 0
        self._is_http = name.lower().startswith("http")
        self._container = self._open(name)
        try:
            self._stream = self._find_pictures()
        except DecodeError:
            self._container.close()
            raise
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else 0.0
        is_playlist = self._container.format.name in ("hls", "dash")  # its own size is not that of the stream
        length_known = bool(self._container.duration) or (self._container.size > 0 and not is_playlist)
        endless = _ADDRESS.match(name) is not None and not length_known
        self.live = (endless or name.lower().startswith("rtsp") or _is_camera(name)) if live is None else live

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[StreamFrame]:
        """All pictures, to the end of the stream.

        Raises:
            DecodeError: the connection broke, or nothing came for TIMEOUT_S.
        """
        upright, tick_s = Upright(), float(self._stream.time_base or 0)
        first: int | None = None
        time_s = -1 / (self.fps or 1.0)
        for frame in self._pictures():
            orientation = upright.of(frame)
            # Streams without times, such as bare H.264, are paced by their frame rate.
            time_s += 1 / (self.fps or 1.0)
            if frame.pts is not None and tick_s:
                first = frame.pts if first is None else first
                time_s = (frame.pts - first) * tick_s
            size = scaled_size(frame.width, frame.height, self._options.short_side)
            yield StreamFrame(time_s, to_rgb(frame, orientation, size))

    def _pictures(self) -> Iterator[VideoFrame]:
        context = self._stream.codec_context
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except ERRORS as error:
                # FFmpeg reports this at the end of a response without a length.
                if not (self._is_http and isinstance(error, OSError) and error.errno == errno.EIO):
                    raise DecodeError(self._name, _reason(error), NAME) from None
                packet = None
            try:
                # Empty packets would end decoding.
                if packet is None or packet.size:
                    yield from context.decode(packet)
            except ERRORS:
                # A lost packet: decoding recovers at the next key frame.
                self.num_damaged += 1
            if packet is None:
                return

    def _open(self, name: str) -> InputContainer:
        try:
            if name == "-":
                return self._open_pipe(_Pipe(sys.stdin.fileno(), closefd=False))
            if is_pipe(name):
                return self._open_pipe(_Pipe(name))
            if _is_camera(name):
                return self._open_camera(int(name))
            container: InputContainer = av.open(name, options=_NETWORK, timeout=TIMEOUT_S, **LENIENT)
            return container
        except ERRORS as error:
            reason = _reason(error)
            if _is_camera(name):
                reason = f"camera number {name} cannot be opened: {reason}"
            raise DecodeError(self._name, reason, NAME) from None

    @staticmethod
    def _open_pipe(file: _Pipe) -> InputContainer:
        # Its content may come from anywhere, and must not lead to other files.
        one_file = {"format_whitelist": ONE_FILE["format_whitelist"]}
        try:
            container: InputContainer = av.open(file, options=one_file, **LENIENT)
        except av.error.InvalidDataError as error:
            if file.is_empty:
                raise ValueError("no data: the stream is empty") from None
            hint = "a pipe can carry MPEG-TS and Matroska, but not an mp4 file whose index comes last"
            raise ValueError(f"{_reason(error)}; {hint}") from None
        return container

    def _open_camera(self, number: int) -> InputContainer:
        kind = CAMERA_FORMATS.get(sys.platform, "")
        if kind not in av.formats_available:
            raise ValueError(f"PyAV cannot read cameras here ({sys.platform})")
        place = f"/dev/video{number}" if sys.platform == "linux" else str(number)
        return av.open(place, format=kind, timeout=TIMEOUT_S)

    def _find_pictures(self) -> VideoStream:
        stream: Any = self._container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise DecodeError(self._name, "no video stream" if stream is None else "video of an unknown codec", NAME)
        context = stream.codec_context
        check_size(self._name, context.width, context.height, self._options, NAME)
        context.thread_count = 1  # threads would delay frames
        context.options = {"max_pixels": str(self._options.max_pixels)}
        found: VideoStream = stream
        return found


def _reason(error: BaseException) -> str:
    if isinstance(error, av.error.ExitError):
        return f"no data for {TIMEOUT_S:g} seconds"
    return plain_reason(error)
