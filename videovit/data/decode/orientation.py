"""Which way up a video is shown: cameras store pictures as the sensor lies, and a matrix beside them.

A picture is turned upright by up to three steps, in this order: rows become columns, left and right change places, top
and bottom change places. Front cameras mirror: then the number of these steps is odd, and no turn alone does it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from av.sidedata.sidedata import Type
from numpy.typing import NDArray

MOST_READ = 1 << 26  # bytes; headers of files that are not long are far smaller


class Orientation(NamedTuple):
    """The steps that a picture needs."""

    swap: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def turn(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture (H, W, 3) upright: a view."""
        if self.swap:
            image = image.swapaxes(0, 1)
        return image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


class Upright:
    """Tells the orientation of frames of PyAV's, one after the other; turns that are no quarter turns are rounded.

    A frame that was asked for its matrix is in a circle with it, and stays in memory until Python looks for circles. So
    a tiny copy is asked, and only of the first frame and of those that say that they are turned otherwise.
    """

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._orientation = Orientation()

    def of(self, frame: Any) -> Orientation:
        """Of one frame."""
        if frame.rotation != self._rotation:
            self._rotation = frame.rotation
            tiny = frame.reformat(16, 16, "gray", interpolation="POINT", threads=1)
            matrix = tiny.side_data.get(Type.DISPLAYMATRIX)
            self._orientation = Orientation() if matrix is None else _orientation(np.frombuffer(matrix, dtype=np.int32))
        return self._orientation


def _orientation(matrix: NDArray[np.signedinteger]) -> Orientation:
    """Of a matrix as mp4 files store it, (a, b, _, c, d, ...): (x, y) is shown at (a x + c y, b x + d y)."""
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    return Orientation(True, c < 0, b < 0) if abs(b) > abs(a) else Orientation(False, a < 0, d < 0)


def is_mirrored(path: str) -> bool:
    """Whether an mp4 file says that a track of it is shown mirrored, by a look at its header."""
    header = _read_box(path, b"moov")
    place = header.find(b"tkhd")
    while place >= 0:
        start = place + (56 if header[place + 4 : place + 5] == b"\1" else 44)  # times of 8 bytes or of 4
        matrix = np.frombuffer(header[start : start + 20], dtype=">i4")
        if len(matrix) == 5 and sum(_orientation(matrix)) % 2:
            return True
        place = header.find(b"tkhd", place + 4)
    return False


def _read_box(path: str, kind: bytes) -> bytes:
    """The content of the first box of a kind at the top of a file; nothing where there is none."""
    with open(path, "rb") as file:
        while len(head := file.read(16)) >= 8:
            size, begin = int.from_bytes(head[:4], "big"), 8
            if size == 1:
                size, begin = int.from_bytes(head[8:16], "big"), 16
            file.seek(begin - len(head), 1)
            if head[4:8] == kind:
                return file.read(min(max(size - begin, 0), MOST_READ))
            if size < begin:  # up to the end of the file, or damaged
                break
            file.seek(size - begin, 1)
    return b""
