"""A folder of features: the rows of many videos in few files, and an index.

    features.json              what was computed, and the type and shape of a row
    features.yaml              the config
    index.jsonl                a line per video: path, fps, times of its rows, and where they are
    unreadable.jsonl           a line per video that could not be read
    videos/NAME.npy            the rows of a video; or
    shards/00012.safetensors   the rows of many videos, one below the other, as "features" (HDF5: the same)
    parts/                     00012.jsonl: what index.jsonl has of a complete block of videos;
                               00012.open.jsonl, 00012.rows: of a block in progress

Rows are appended to a block before the line that counts them, and files get their names only when they are complete. A
process may be killed anywhere: its block continues with the videos that are missing.

R rows.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import simplejson
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from videovit.data.files.listed_paths import is_inside
from videovit.engine.reporting.json_lines import append_record, read_records, replacing, writing
from videovit.errors import UserError

Rows = NDArray[np.float32 | np.float16]
Record = dict[str, Any]
"""A line of an index: video (its number), path, and error, or fps, start_s, end_s, file, first_row."""

SETTINGS, CONFIG, INDEX, UNREADABLE = "features.json", "features.yaml", "index.jsonl", "unreadable.jsonl"
TENSOR = "features"
DTYPES: dict[str, type[np.float32] | type[np.float16]] = {"f32": np.float32, "f16": np.float16}
SUFFIXES = {"npy": ".npy", "safetensors": ".safetensors", "hdf5": ".h5"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the videos of a list are divided into blocks and files.

    Attributes:
        folder: of the features.
        paths: of all videos.
        format: npy, safetensors or hdf5.
        dtype: f32 or f16.
        row_shape: shape of a row.
        one_row: whether each video has a single row, which its npy file holds without an axis of rows.
        per_block: videos.
    """

    folder: Path
    paths: Sequence[str]
    format: str
    dtype: str
    row_shape: tuple[int, ...]
    one_row: bool
    per_block: int

    @property
    def num_blocks(self) -> int:
        return -(-len(self.paths) // self.per_block)

    def videos_of(self, block: int) -> range:
        """The numbers of the videos of a block."""
        return range(block * self.per_block, min((block + 1) * self.per_block, len(self.paths)))

    def part(self, block: int, suffix: str = ".jsonl") -> Path:
        """A file of a block in `parts`."""
        return self.folder / "parts" / f"{block:05d}{suffix}"

    def unfinished(self) -> list[int]:
        """The blocks that are not complete."""
        return [block for block in range(self.num_blocks) if not self.part(block).is_file()]

    def tidy(self) -> None:
        """Remove what is left of blocks that are complete: a process may have ended before it did that."""
        for pattern in ("*.rows", "*.open.jsonl"):
            for path in self.part(0).parent.glob(pattern):
                path.unlink(missing_ok=True)

    @cached_property
    def names(self) -> Callable[[str], str]:
        """Path of a video -> name of its npy file in the folder: the path below the folder that holds all videos.

        The suffix of the video stays where two names would be equal without it.
        """
        top = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in self.paths])

        def short(path: str) -> str:
            return os.path.splitext(os.path.relpath(path, top))[0]

        twice = {name for name, count in Counter(map(short, self.paths)).items() if count > 1}

        def name(path: str) -> str:
            return f"videos/{os.path.relpath(path, top) if short(path) in twice else short(path)}.npy"

        return name


class Block:
    """A block of videos in progress; continues one that was left.

    Args:
        layout: of the features.
        number: of the block.

    Attributes:
        done: numbers of the videos that are in it.

    Raises:
        UserError: its files cannot be written.
    """

    def __init__(self, layout: Layout, number: int) -> None:
        self._layout, self._number = layout, number
        self._lines, self._rows = layout.part(number, ".open.jsonl"), layout.part(number, ".rows")
        self._row_bytes = int(np.prod(layout.row_shape)) * np.dtype(DTYPES[layout.dtype]).itemsize
        with writing(self._rows):
            self._rows.parent.mkdir(parents=True, exist_ok=True)
            self._rows.touch()
            self._records = self._whole_records(self._rows.stat().st_size // self._row_bytes)
            self._num_rows = sum(len(record.get("start_s", ())) for record in self._records)
            os.truncate(self._rows, self._num_rows * self._row_bytes)  # without what no line counts
        self.done = {record["video"] for record in self._records}

    def _whole_records(self, num_rows: int) -> list[Record]:
        """The records up to the first one whose rows are not there: a power cut may lose rows, but keep their line."""
        records = read_records(self._lines)
        ends = list(itertools.accumulate(len(record.get("start_s", ())) for record in records))
        whole = [record for record, end in zip(records, ends, strict=True) if end <= num_rows]
        if len(whole) < len(records):
            with replacing(self._lines) as partial:
                _write_lines(partial, whole)
        return whole

    def add(self, record: Record, rows: Rows | None = None) -> None:
        """Add a video.

        Args:
            record: video, path, and error, or fps, start_s, end_s.
            rows: (R, ...), one per start; None if it could not be read.

        Raises:
            UserError: the disk is full, or refuses.
        """
        if rows is not None:
            with writing(self._rows), open(self._rows, "ab") as file:
                file.write(np.ascontiguousarray(rows, dtype=DTYPES[self._layout.dtype]).tobytes())
            record = {**record, "first_row": self._num_rows}
            self._num_rows += len(rows)
        append_record(self._lines, record)
        self._records.append(record)
        self.done.add(record["video"])

    def finish(self) -> None:
        """Write the files of a complete block.

        Raises:
            UserError: the disk is full, or refuses.
        """
        layout, final = self._layout, layout_shard(self._layout, self._number)
        shape = (self._num_rows, *layout.row_shape)
        rows: Rows = np.zeros(shape, DTYPES[layout.dtype])
        if self._num_rows:
            rows = np.memmap(self._rows, DTYPES[layout.dtype], "r", shape=shape)
        records = sorted(self._records, key=lambda record: record["video"])
        if layout.format == "npy":
            records = [self._write_npy(record, rows) for record in records]
        elif self._num_rows:
            with _made(final), replacing(final) as partial:
                WRITERS[layout.format](partial, rows)
            where = {"file": str(final.relative_to(layout.folder))}
            records = [record if "error" in record else {**record, **where} for record in records]
        with replacing(layout.part(self._number)) as partial:
            _write_lines(partial, records)
        for path in (self._rows, self._lines):
            path.unlink(missing_ok=True)

    def _write_npy(self, record: Record, rows: Rows) -> Record:
        if "error" in record:
            return record
        first, number = record["first_row"], len(record["start_s"])
        own = rows[first] if self._layout.one_row else rows[first : first + number]
        name = self._layout.names(record["path"])
        path = self._layout.folder / name
        with _made(path), replacing(path) as partial:
            np.save(partial, own, allow_pickle=False)
        return {**record, "file": name, "first_row": 0}


def layout_shard(layout: Layout, block: int) -> Path:
    """The file with the rows of a block."""
    return layout.folder / "shards" / f"{block:05d}{SUFFIXES[layout.format]}"


def write_index(layout: Layout) -> tuple[int, int]:
    """Join the lines of all blocks in index.jsonl and unreadable.jsonl.

    Returns:
        How many videos have rows, and how many could not be read.

    Raises:
        UserError: the disk is full, or refuses.
    """
    counts = [0, 0]
    with (
        replacing(layout.folder / INDEX) as index,
        replacing(layout.folder / UNREADABLE) as unreadable,
        open(index, "w", encoding="utf-8") as good,
        open(unreadable, "w", encoding="utf-8") as bad,
    ):
        for block in range(layout.num_blocks):
            with open(layout.part(block), encoding="utf-8") as part:
                for line in part:
                    # Names may hold the word, too; only those lines are parsed.
                    failed = '"error"' in line and "error" in json.loads(line)
                    counts[failed] += 1
                    (bad if failed else good).write(line)
    return counts[0], counts[1]


def _write_lines(path: Path, records: Sequence[Record]) -> None:
    path.write_text("".join(simplejson.dumps(record) + "\n" for record in records), encoding="utf-8")


@contextlib.contextmanager
def _made(path: Path) -> Iterator[None]:
    """The folder of a file, made before the block."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    yield


def import_h5py() -> Any:
    """The package h5py.

    Raises:
        UserError: it is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise UserError(
            "needs the package h5py", where="FEATURES.FORMAT hdf5", hint="pip install videovit[hdf5]"
        ) from error
    return h5py


def _write_safetensors(path: Path, rows: Rows) -> None:
    save_file({TENSOR: np.ascontiguousarray(rows)}, path)


def _write_hdf5(path: Path, rows: Rows) -> None:
    with import_h5py().File(path, "w") as file:
        file.create_dataset(TENSOR, data=rows)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {"safetensors": _write_safetensors, "hdf5": _write_hdf5}


class FeatureFolder:
    """Features that were written before.

    Args:
        folder: of the features, complete.

    Attributes:
        settings: what features.json holds.

    Raises:
        UserError: it is not such a folder, or not complete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.settings: Mapping[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            self._row_shape = tuple(int(size) for size in self.settings["row_shape"])
            self._layer = str(self.settings["layer"])
        except FileNotFoundError as error:
            raise UserError(f"has no {SETTINGS}", where=folder, expected="the --output of videovit features") from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"cannot be read: {error}", where=folder / SETTINGS) from error
        if not (folder / INDEX).is_file():
            raise UserError(f"has no {INDEX}", where=folder, hint="videovit features is not finished there")

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of a row."""
        return self._row_shape

    def records(self) -> Iterator[Record]:
        """The lines of the index, one after the other, in the order of the list.

        Raises:
            UserError: a line is damaged.
        """
        with open(self.folder / INDEX, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    record = json.loads(line)
                    complete = {"video", "path", "file", "first_row", "start_s", "end_s"} <= record.keys()
                except (ValueError, AttributeError, RecursionError):
                    complete = False
                if not complete:
                    raise UserError("a damaged line", where=f"{self.folder / INDEX}:{number}")
                yield record

    def files(self) -> Iterator[tuple[str, list[Record]]]:
        """Every file of rows, and its videos in the order of their rows."""
        for file, group in itertools.groupby(self.records(), key=lambda record: record["file"]):
            yield file, sorted(group, key=lambda record: record["first_row"])

    def rows(self, file: str, first: int, number: int) -> Rows:
        """Rows (R, ...) of a file.

        Raises:
            UserError: it is missing or damaged.
        """
        path = self.folder / file
        if not is_inside(os.path.normpath(path), os.path.normpath(self.folder)):
            raise UserError("leads out of the folder", where=path)
        try:
            rows = np.asarray(READERS[path.suffix](path, first, number)).reshape(-1, *self._row_shape)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(f"cannot be read: {error}", where=path) from error
        if len(rows) != number:
            raise UserError("is damaged", where=path, found=len(rows), expected=f"{number} rows from row {first}")
        return rows

    def rows_of(self, record: Record) -> Rows:
        """The rows (R, ...) of a video."""
        return self.rows(record["file"], record["first_row"], len(record["start_s"]))


def _read_npy(path: Path, first: int, number: int) -> Any:
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    return rows if number == 1 and first == 0 else rows[first : first + number]


def _read_safetensors(path: Path, first: int, number: int) -> Any:
    with safe_open(path, framework="numpy") as file:
        return file.get_slice(TENSOR)[first : first + number]


def _read_hdf5(path: Path, first: int, number: int) -> Any:
    with import_h5py().File(path, "r") as file:
        return file[TENSOR][first : first + number]


READERS = {".npy": _read_npy, ".safetensors": _read_safetensors, ".h5": _read_hdf5}
