"""What a detector finds in an image or video, in Python."""

from __future__ import annotations

import dataclasses
from typing import Any

from videovit.messages import plural, printable

FoundObject = dict[str, Any]
"""`class` (name), `label` (1..K), `score`, `box` (x, y, width, height in pixels) and from a detector of masks `mask`
(run lengths, as in COCO's results)."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image, or a picture of a video.

    Attributes:
        time_s: player time in seconds; 0 of an image.
        objects: best first.
    """

    time_s: float
    objects: list[FoundObject]


@dataclasses.dataclass(frozen=True, repr=False)
class ObjectPrediction:
    """The objects in an image, or in every picture of a video.

    Attributes:
        path: of the file; "array" for pixels in memory.
        pictures: one of an image; empty if the file could not be read.
        error: why it could not be read.
    """

    path: str
    pictures: list[Picture]
    error: str = ""

    @property
    def objects(self) -> list[FoundObject]:
        """Those of an image; of a video, those of all its pictures, one after the other."""
        return [row for picture in self.pictures for row in picture.objects]

    def __repr__(self) -> str:
        what = f"{plural(len(self.objects), 'object')} in {plural(len(self.pictures), 'picture')}"
        return printable(f"<ObjectPrediction {self.path}: {self.error or what}>")
