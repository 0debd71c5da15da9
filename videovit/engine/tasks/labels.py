"""What is shown, written and drawn for a window: its classes, and the people in it with theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from videovit.engine.tasks.prediction import Ranked

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2 as fractions of the frame."""


@dataclass(frozen=True)
class Person:
    """A person in a window.

    Attributes:
        corners: of the box in the middle frame of the window.
        score: of the person detector.
        top: classes; empty if the box is outside of the crop that the model sees.
    """

    corners: Corners
    score: float
    top: Ranked

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"box": list(self.corners), "score": self.score, "top": ranked_as_list(self.top)}


@dataclass(frozen=True)
class Labels:
    """A window of a video.

    Attributes:
        start_s, end_s: in seconds of player time; of a stream, since its first frame.
        top: classes of the whole frame; of a detector, of all people together.
        people: None if the model is no detector.
    """

    start_s: float
    end_s: float
    top: Ranked
    people: tuple[Person, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        found: dict[str, Any] = {"start_s": self.start_s, "end_s": self.end_s, "top": ranked_as_list(self.top)}
        if self.people is not None:
            found["people"] = [person.as_dict() for person in self.people]
        return found


@dataclass(frozen=True)
class VideoLabels:
    """A whole video.

    Attributes:
        path: of the video.
        views: number of views, and how their scores were joined.
        top: classes of the whole video.
        windows: in order.
    """

    path: str
    views: str
    top: Ranked
    windows: list[Labels]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        windows = [window.as_dict() for window in self.windows]
        return {"path": self.path, "views": self.views, "top": ranked_as_list(self.top), "windows": windows}


def ranked_as_list(top: Ranked) -> list[dict[str, Any]]:
    """Classes as JSON has them."""
    return [{"class": name, "score": score} for name, score in top]
