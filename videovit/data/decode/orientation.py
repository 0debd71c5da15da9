"""Orientation of videos: cameras store pictures as the sensor sees them, with a display matrix.

A picture is turned upright by up to three steps, in this order: transpose, flip left to right, flip top to bottom.
Front cameras mirror the picture: then the number of steps is odd, which no rotation alone achieves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from av.sidedata.sidedata import Type
from numpy.typing import NDArray

from videovit.data.decode.located import opened

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

MAX_HEADER = 1 << 26  # bytes; only headers of very long files are larger


class Orientation(NamedTuple):
    """The steps that turn a picture upright."""

    swap: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def turned(self) -> bool:
        """Whether the picture as stored is not upright."""
        return any(self)

    @property
    def mirrored(self) -> bool:
        """Whether no rotation alone turns the picture upright."""
        return sum(self) % 2 == 1

    def turn(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The upright picture (H, W, 3), as a view."""
        if self.swap:
            image = image.swapaxes(0, 1)
        return image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


class Upright:
    """Finds the orientation of successive PyAV frames, rounded to quarter turns."""

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._orientation = Orientation()

    def of(self, frame: VideoFrame) -> Orientation:
        """Orientation of a frame; must be called for every decoded frame, in order."""
        # A message in the stream comes with a key frame and holds until the next one.
        known = self._rotation is not None and not frame.key_frame and not frame.rotation
        if not known and frame.rotation != self._rotation:
            self._rotation = frame.rotation
            # Reading the matrix creates a reference cycle, which would keep the frame in memory until Python's next
            # garbage collection. So read it from a tiny copy, and only when the rotation changes.
            tiny = frame.reformat(16, 16, "gray", interpolation="POINT", threads=1)
            side_data: Any = tiny.side_data  # a mapping from Type, which PyAV's annotations do not say
            matrix = side_data.get(Type.DISPLAYMATRIX)
            self._orientation = Orientation() if matrix is None else _orientation(np.frombuffer(matrix, dtype=np.int32))
        return self._orientation


def _orientation(matrix: NDArray[np.signedinteger]) -> Orientation:
    """Orientation of a display matrix (a, b, _, c, d, ...), which shows (x, y) at (a x + c y, b x + d y)."""
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    return Orientation(True, c < 0, b < 0) if abs(b) > abs(a) else Orientation(False, a < 0, d < 0)


def track_orientations(path: str) -> list[Orientation]:
    """Orientation of every track according to the header of an mp4 file."""
    header = _read_box(path, b"moov")
    found = []
    place = header.find(b"tkhd")
    while place >= 0:
        start = place + (
            56 if header[place + 4 : place + 5] == b"\1" else 44
        )  # version 1 has times of 8 bytes, version 0 of 4
        matrix = np.frombuffer(header[start : start + 20], dtype=">i4")
        if len(matrix) == 5:
            found.append(_orientation(matrix))
        place = header.find(b"tkhd", place + 4)
    return found


def _read_box(path: str, kind: bytes) -> bytes:
    """The content of the first top-level box of a kind in a file; empty if there is none."""
    with opened(path) as file:
        while len(head := file.read(16)) >= 8:
            size, begin = int.from_bytes(head[:4], "big"), 8
            if size == 1:
                size, begin = int.from_bytes(head[8:16], "big"), 16
            file.seek(begin - len(head), 1)
            if head[4:8] == kind:
                return file.read(min(max(size - begin, 0), MAX_HEADER))
            if size < begin:  # size 0 means up to the end of the file; others are damaged
                break
            file.seek(size - begin, 1)
    return b""
