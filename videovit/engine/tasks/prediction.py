"""What is predicted of a video, and how it is shown."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from videovit.engine.reporting.log import format_table
from videovit.messages import printable

Ranked = list[tuple[str, float]]
"""(class name, score), best first."""
MAX_SHOWN = 3  # classes in a repr


@dataclasses.dataclass(frozen=True, repr=False)
class Prediction:
    """The best classes of a whole video, and of each of its windows.

    Attributes:
        path: of the video; "array" for frames in memory.
        top: (class name, score), best first; scores of the windows are joined by DATA.ENSEMBLE_METHOD.
        windows: (start_s, end_s, top) of each window, in seconds of player time.
        views: number of views, and how their scores were joined.
        scores: (K,) of the whole video, on the CPU.
        window_scores: (W, K) of each window, on the CPU.
        error: why the video could not be read; all but `path` is empty then.
    """

    path: str
    top: Ranked
    windows: list[tuple[float, float, Ranked]]
    views: str = ""
    scores: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0), compare=False)
    window_scores: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0, 0), compare=False)
    error: str = ""

    def as_dict(self) -> dict[str, object]:
        """As the JSON file has it."""
        if self.error:
            return {"path": self.path, "error": self.error}
        return {
            "path": self.path,
            "views": self.views,
            "top": [{"class": name, "score": score} for name, score in self.top],
            "windows": [
                {"start_s": a, "end_s": b, "top": [{"class": n, "score": s} for n, s in top]}
                for a, b, top in self.windows
            ],
        }

    def __repr__(self) -> str:
        best = ", ".join(f"{name} {score:.3f}" for name, score in self.top[:MAX_SHOWN])
        views = f" ({self.views})" if self.views else ""
        return printable(f"<Prediction {self.path}: {self.error or best + views}>")


def format_prediction(prediction: Prediction, *, in_percent: bool = True) -> str:
    """Format a table for one video.

    Args:
        prediction: of the video.
        in_percent: whether scores are shares of 1, rather than logits (MODEL.HEAD_ACT none).
    """
    rows = [[name, f"{100 * score:.1f}" if in_percent else f"{score:.2f}"] for name, score in prediction.top]
    header = ["class", "score %" if in_percent else "logit"]
    return f"{printable(prediction.path)}  ({prediction.views})\n" + format_table(header, rows)
