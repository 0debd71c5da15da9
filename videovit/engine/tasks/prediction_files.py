"""Where predictions go: tables on the console, JSON, and CSV with one row per class."""

from __future__ import annotations

import contextlib
import csv
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import simplejson

from videovit.engine.reporting.json_lines import writing
from videovit.engine.tasks.labelers import format_video, format_window
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


class Outputs:
    """Prints predictions, and writes them to files, in a `with` block.

    Every video, and every window of a stream, is written at once, except to a JSON list: that is written at the end of
    the block, also after an error or Ctrl-C.

    Args:
        json: name of the JSON file; a list, or lines if it ends in .jsonl; empty for none.
        csv: name of the CSV file; empty for none.
        in_percent: whether scores are shares of 1, rather than logits.
        as_lines: write JSON lines whatever the name.

    Raises:
        UserError: a file cannot be written.
    """

    def __init__(self, json: str, csv: str, *, in_percent: bool, as_lines: bool = False) -> None:
        self._in_percent = in_percent
        self._on_console = CONSOLE not in (json, csv)
        self._as_lines = as_lines or json == CONSOLE or json.endswith(".jsonl")
        self._records: list[dict[str, Any]] = []
        self._files = contextlib.ExitStack()
        # A list is opened at once, too: whether it can be written is known before the first video is read.
        self._json = self._files.enter_context(TextFile(json)) if json else None
        self._csv = PredictionCsv(self._files.enter_context(TextFile(csv))) if csv else None

    def add_video(self, video: VideoLabels) -> None:
        """Print and write the labels of a whole video."""
        self._add_record(video.as_dict())
        if self._csv is not None:
            self._csv.write_video(video)
        # Last, so that Ctrl-C loses nothing that was shown.
        if self._on_console:
            print(format_video(video, in_percent=self._in_percent), end="\n\n", flush=True)

    def add_error(self, path: str, error: str) -> None:
        """Write that a video could not be read."""
        self._add_record({"path": path, "error": error})
        if self._csv is not None:
            self._csv.write_error(path, error)

    def add_window(self, name: str, number: int, labels: Labels, *, delay_s: float, num_skipped: int) -> None:
        """Print and write a window of a stream.

        Args:
            name: of the stream.
            number: of the window, from 1.
            labels: of the window.
            delay_s: seconds since its last frame had been read.
            num_skipped: windows skipped so far.
        """
        late = {"delay_s": round(delay_s, 3), "skipped": num_skipped}
        self._add_record({"path": name, "window": number, **labels.as_dict(), **late})
        if self._csv is not None:
            self._csv.write_window(name, number, labels)
        if self._on_console:
            skipped = f", {num_skipped} skipped so far" if num_skipped else ""
            line = format_window(labels, in_percent=self._in_percent)
            print(f"{line}  (delay {delay_s:.2f} s{skipped})", flush=True)

    def _add_record(self, record: dict[str, Any]) -> None:
        if self._json is not None and self._as_lines:
            self._json.write(simplejson.dumps(record, ignore_nan=True) + "\n")
        elif self._json is not None:
            self._records.append(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._files:
            if self._json is not None and not self._as_lines:
                # Videos that could not be read come last.
                records = sorted(self._records, key=lambda record: "error" in record)
                self._json.write(simplejson.dumps(records, indent=1) + "\n")
