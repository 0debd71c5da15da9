"""Accuracy by length, resolution and frame rate of the videos of a test, from the headers of the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from videovit.analysis.mistakes import group_by_value
from videovit.data.decode import DecodeError, DecodeOptions, open_video
from videovit.engine.reporting.progress import Progress
from videovit.messages import plural
from videovit.report.run_files import VideoOutcome


@dataclass(frozen=True)
class Shape:
    """What the header of a video says: seconds, pixels of the shorter side, frames per second."""

    duration_s: float
    short_side: int
    fps: float


PROPERTIES: tuple[tuple[str, str, str, int], ...] = (
    ("duration_s", "Accuracy by length", "length (s)", 1),
    ("short_side", "Accuracy by resolution", "short side (pixels)", 0),
    ("fps", "Accuracy by frame rate", "frames per second", 1),
)
"""Of `Shape`: field, title of its table, name of its column, digits."""


def read_shapes(paths: Mapping[int, str], options: DecodeOptions, *, images: bool = False) -> dict[int, Shape]:
    """Read the headers of videos; those that cannot be read are left out.

    Args:
        paths: by number of the video.
        options: limits of the decoder.
        images: they are still images.
    """
    found: dict[int, Shape] = {}
    progress = Progress("headers of videos", len(paths))
    for _, (video, path) in progress.over(paths.items()):
        shape = read_shape(path, options, images=images)
        if shape is not None:
            found[video] = shape
        progress.count(1)
    return found


def read_shape(path: str, options: DecodeOptions, *, images: bool = False) -> Shape | None:
    """Open a video and decode its first frame, which says how large it is when upright; None if that fails."""
    try:
        with open_video(path, "image" if images else "pyav", replace(options, short_side=0)) as video:
            height, width = video.frames(np.zeros(1, dtype=np.int64)).shape[1:3]
            return Shape(video.num_frames / video.fps, int(min(height, width)), float(video.fps))
    except DecodeError:
        return None


def tables_by_file(
    predictions: Sequence[VideoOutcome], shapes: Mapping[int, Shape], *, images: bool = False
) -> list[dict[str, Any]]:
    """A table per property; still images have only a resolution.

    Args:
        predictions: of the test.
        shapes: by number of the video.
        images: they are still images.
    """
    known = [row for row in predictions if row.video in shapes]
    properties = [words for words in PROPERTIES if words[0] == "short_side" or not images]
    return [_table(known, len(predictions), shapes, *words) for words in properties] if known else []


def _table(
    known: Sequence[VideoOutcome],
    total: int,
    shapes: Mapping[int, Shape],
    name: str,
    title: str,
    column: str,
    digits: int,
) -> dict[str, Any]:
    values_V = np.array([round(float(getattr(shapes[row.video], name)), 2) for row in known])
    arrays = np.array([row.right for row in known]), np.array([row.score for row in known])
    groups = group_by_value(values_V, *arrays)
    notes = ["accuracy: of the class with the highest score, with 95 % intervals by Wilson"]
    if len(known) < total:
        notes.append(f"{plural(total - len(known), 'video')} could not be opened and are left out")
    if len(groups) == 1:
        notes.append("all videos are alike in this")
    return {
        "title": title,
        "columns": [column, "videos", "accuracy (%)", "from", "to", "mean confidence (%)"],
        "rows": [
            [
                " to ".join(dict.fromkeys(f"{value:.{digits}f}" for value in (group.low, group.high))),
                group.number,
                100 * group.accuracy,
                100 * group.interval[0],
                100 * group.interval[1],
                100 * group.confidence,
            ]
            for group in groups
        ],
        "notes": notes,
    }
