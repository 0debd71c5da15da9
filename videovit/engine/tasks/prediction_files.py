"""Files of predictions: CSV with one row per class, and JSON."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import simplejson

from videovit.engine.reporting.json_lines import writing
from videovit.engine.tasks.labels import Labels, Person, VideoLabels
from videovit.engine.tasks.prediction import Ranked
from videovit.messages import table_cell

COLUMNS = (
    *("path", "window", "start_s", "end_s", "person", "x1", "y1", "x2", "y2", "person_score"),
    *("rank", "class", "score", "error"),
)
"""Of the CSV file. `window` counts from 1, and is empty in rows about a whole video; `person` counts from 1 in each
window, and is empty in rows about the whole frame; corners are fractions of the frame; `rank` 1 is the best class."""
CONSOLE = "-"
"""Name that stands for standard output."""


class TextFile:
    """A text file, or standard output, in a `with` block; every `write` reaches it at once.

    Args:
        path: `CONSOLE` for standard output.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._file: TextIO = sys.stdout
        if path != CONSOLE:
            with writing(self._path):
                self._path.resolve().parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w", encoding="utf-8", newline="")

    def write(self, text: str) -> None:
        """Write text.

        Raises:
            UserError: the file cannot be written.
        """
        if self._file is sys.stdout:
            self._file.write(text)
            self._file.flush()
            return
        with writing(self._path):
            self._file.write(text)
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not sys.stdout:
            self._file.close()


class PredictionCsv:
    """Writes predictions as CSV, with a header.

    Args:
        file: where to.
    """

    def __init__(self, file: TextFile) -> None:
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(COLUMNS)

    def write_video(self, video: VideoLabels) -> None:
        """Rows of a whole video, then of its windows."""
        self._write(video.path, {}, video.top)
        for number, window in enumerate(video.windows, start=1):
            self.write_window(video.path, number, window)

    def write_window(self, path: str, number: int, window: Labels) -> None:
        """Rows of a window, then of its people."""
        place = {"window": number, "start_s": f"{window.start_s:.3f}", "end_s": f"{window.end_s:.3f}"}
        self._write(path, place, window.top)
        for index, person in enumerate(window.people or (), start=1):
            self._write(path, {**place, "person": index, **_box(person)}, person.top, always=True)

    def write_error(self, path: str, error: str) -> None:
        """A row of a video that could not be read."""
        self._row({"path": path, "error": error})

    def _write(self, path: str, place: dict[str, Any], top: Ranked, *, always: bool = False) -> None:
        for rank, (name, score) in enumerate(top, start=1):
            self._row({"path": path, **place, "rank": rank, "class": name, "score": f"{score:.6f}"})
        # A person without classes was found all the same.
        if always and not top:
            self._row({"path": path, **place})

    def _row(self, cells: dict[str, Any]) -> None:
        self._rows.writerow([table_cell(cells.get(column, "")) for column in COLUMNS])


def _box(person: Person) -> dict[str, str]:
    corners = zip(("x1", "y1", "x2", "y2"), person.corners, strict=True)
    return {**{name: f"{value:.4f}" for name, value in corners}, "person_score": f"{person.score:.4f}"}


def json_line(record: dict[str, Any]) -> str:
    """A record as a line of its own; numbers that are not finite become null."""
    return simplejson.dumps(record, ignore_nan=True) + "\n"
