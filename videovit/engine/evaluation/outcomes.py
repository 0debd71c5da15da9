"""Which videos a run got right, from its `predictions.csv`; and whether two runs were tested on the same videos."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videovit.errors import UserError
from videovit.messages import plural


@dataclass(frozen=True)
class Outcomes:
    """Hits of a test, video by video.

    Attributes:
        true: video -> its classes, as `predictions.csv` writes them.
        hit: video -> whether the class with the highest score is a true one.
    """

    true: dict[str, str]
    hit: dict[str, bool]

    def hits(self, videos: Iterable[str] | None = None) -> NDArray[np.float64]:
        """1.0 or 0.0 per video; of all videos, or of some, in their order."""
        return np.array([self.hit[video] for video in (self.hit if videos is None else videos)], dtype=np.float64)


def read_outcomes(folder: Path, *, num_videos: int, top1: float | None) -> Outcomes | None:
    """Read the predictions of a test.

    Args:
        folder: OUTPUT_DIR of the run; tests with several numbers of clips leave several files there.
        num_videos: evaluated in the test.
        top1: accuracy of the test in percent; None if videos have several classes.

    Returns:
        The newest ones with this number of videos and this accuracy; None if there are none.

    Raises:
        UserError: a file is not one that a test writes.
    """
    for path in sorted(folder.glob("predictions*.csv"), key=lambda path: path.stat().st_mtime, reverse=True):
        found = _read(path)
        accuracy = 100.0 * float(found.hits().mean()) if found.hit else 0.0
        if len(found.hit) == num_videos and (top1 is None or abs(accuracy - top1) < 1e-3):
            return found
    return None


def _read(path: Path) -> Outcomes:
    paths: list[str] = []
    true: list[str] = []
    hits: list[bool] = []
    line = 1
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                line = reader.line_num
                paths.append(row["path"])
                true.append(row["true_number"])
                hits.append({"0": False, "1": True}[row["correct"]])
    except (KeyError, csv.Error, UnicodeError) as error:
        raise UserError(
            f"line {line} cannot be read: {error!r}",
            where=path,
            expected="predictions that a test wrote",
            hint="Run the test again",
        ) from error
    videos = _names(paths)
    return Outcomes(dict(zip(videos, true, strict=True)), dict(zip(videos, hits, strict=True)))


def _names(paths: Sequence[str]) -> list[str]:
    """Paths below the folder that all of them share, since runs may have their data in different places.

    A path that is listed again gets a number.
    """
    try:
        root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    except ValueError:  # absolute and relative paths
        root = ""
    counts: dict[str, int] = {}
    names = []
    for path in paths:
        name = os.path.relpath(path, root) if root else path
        counts[name] = counts.get(name, 0) + 1
        names.append(name if counts[name] == 1 else f"{name} ({counts[name]})")
    return names


def check_same_list(first: str, one: Outcomes, second: str, two: Outcomes, num_skipped: tuple[int, int]) -> list[str]:
    """Make sure that two runs were tested on the same videos with the same labels.

    Args:
        first, second: names of the runs.
        one, two: their outcomes.
        num_skipped: videos that each of them left out as unreadable, and which the other may have.

    Returns:
        The videos of both, in the order of the first run.

    Raises:
        UserError: the lists differ.
    """
    expected = "runs that were tested on the same list"
    for name, here, other, there, skipped in (
        (first, one, second, two, num_skipped[1]),
        (second, two, first, one, num_skipped[0]),
    ):
        missing = [video for video in here.hit if video not in there.hit]
        if len(missing) > skipped:
            raise UserError(
                f"{plural(len(missing), 'video')} of {name} are not in the test of {other}, first: {missing[0]}",
                expected=expected,
            )
    shared = [video for video in one.hit if video in two.hit]
    for video in shared:
        if one.true[video] != two.true[video]:
            raise UserError(
                f"{video} has the class {one.true[video]} in {first} and {two.true[video]} in {second}",
                expected=expected,
            )
    return shared
