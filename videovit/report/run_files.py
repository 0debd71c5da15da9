"""What a run left in its folder, as far as it can be read.

Files may come from strangers, or from other versions: each is limited in size, and one that cannot be read is listed
instead of ending the report.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import simplejson

from videovit.config import load_config
from videovit.config.run_folder import config_of_run
from videovit.data.catalog import find_dataset
from videovit.engine.evaluation.predictions import JOINED
from videovit.engine.reporting.history import History, read_history
from videovit.engine.reporting.json_lines import read_records
from videovit.engine.run_context import ENVIRONMENT
from videovit.errors import UserError
from videovit.messages import printable

T = TypeVar("T")
Row = dict[str, str]
Json = dict[str, Any]
Confusion = tuple[list[str], dict[tuple[int, int], int]]

MOST_BYTES = 256 * 2**20  # of a file that is read
MOST_ROWS = 1_000_000  # of a table
MOST_CLASSES = 20_000


@dataclass(frozen=True, slots=True)
class VideoOutcome:
    """A row of `predictions.csv`.

    Attributes:
        video: its row in the list, counted from 0.
        path: as the file has it.
        true: its classes, by number.
        rank: place of the first of them among all classes, from 1; 0 if it has none.
        true_score: of that class.
        predicted: the class with the highest score.
        score: of that class.
        right: whether it is a true one.
    """

    video: int
    path: str
    true: tuple[int, ...]
    rank: int
    true_score: float
    predicted: int
    score: float
    right: bool


@dataclass
class RunFiles:
    """The files of a run.

    Attributes:
        folder: OUTPUT_DIR.
        suffix: of the names of the files of the newest test, which has one if there were several numbers of clips.
        config: text of config.yaml.
        history: epochs of the training.
        test: the last record of a test.
        environments: what the run was computed with, oldest first.
        names: of the classes, by number.
        predictions: of the videos of the test.
        per_class: columns and rows.
        confusion: (true, predicted) -> videos; by class number.
        errors, shuffle_eval, analysis, robustness, use_of_time: JSON files of this name; empty if there is none.
        pictures: sampling points.
        found: pictures of the best and the worst detections of objects.
        unread: files that could not be read, and why.
    """

    folder: Path
    suffix: str = ""
    config: str = ""
    history: History = field(default_factory=lambda: History({}))
    test: Json = field(default_factory=dict)
    environments: list[Json] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    predictions: list[VideoOutcome] = field(default_factory=list)
    per_class: tuple[list[str], list[list[str]]] = field(default_factory=lambda: ([], []))
    confusion: dict[tuple[int, int], int] = field(default_factory=dict)
    errors: Json = field(default_factory=dict)
    shuffle_eval: Json = field(default_factory=dict)
    analysis: Json = field(default_factory=dict)
    robustness: Json = field(default_factory=dict)
    use_of_time: Json = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    found: list[Path] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def errors_name(self) -> str:
        """The name of the file of `errors`."""
        return f"errors{self.suffix}.json"

    @property
    def noun(self) -> str:
        """What a sample of the test is; "video" if the config cannot be read."""
        try:
            return find_dataset(load_config(self.folder / "config.yaml").TEST.DATASET).noun
        except UserError:
            return "video"

    def is_unread(self, name: str) -> bool:
        """Whether a file of the folder could not be read."""
        return any(text.startswith(f"{name}: ") for text in self.unread)


def read_run(folder: Path) -> RunFiles:
    """Read the files of a run.

    Args:
        folder: OUTPUT_DIR.

    Raises:
        UserError: it is not the folder of a run.
    """
    config_of_run(folder)
    # A test with several numbers of clips leaves a set of files for each: the newest belongs to the last test record.
    tested = _newest(folder, "predictions*.csv") or _newest(folder, "per_class*.csv")
    suffix = tested.stem.removeprefix("predictions").removeprefix("per_class") if tested else ""
    run = RunFiles(folder, suffix)
    run.config = _read(run, "config.yaml", _text, "")
    run.history = _read(run, "stats.jsonl", lambda path: read_history(path.parent), run.history)
    records: list[Json] = _read(run, "stats.jsonl", lambda path: read_records(path, word='"_type": "'), [])
    run.test = next((record for record in reversed(records) if record.get("_type") == "test_final"), {})
    nothing: list[Json] = []
    run.environments = _read(run, ENVIRONMENT, read_records, nothing)
    run.per_class = _read(run, f"per_class{suffix}.csv", _table, run.per_class)
    run.predictions = _read(run, f"predictions{suffix}.csv", _predictions, [])
    names: list[str] = []
    if not run.predictions:  # which have the same numbers, and are read in less time if there are many classes
        names, run.confusion = _read(run, f"confusion_matrix{suffix}.csv", _confusion, (names, run.confusion))
    run.names = _names(run, names)
    run.errors = _read_json(run, run.errors_name)
    run.shuffle_eval = _read_json(run, "shuffle_eval.json")
    run.analysis = _read_json(run, "analysis/analysis.json")
    run.robustness = _read_json(run, "robustness.json")
    run.use_of_time = _read_json(run, "use_of_time.json")
    run.pictures = sorted(path for path in (folder / "analysis").glob("points_*.png") if is_inside(run, path))
    found = [folder / f"detections_{which}{suffix}.png" for which in ("best", "worst")]
    run.found = [path for path in found if path.is_file() and is_inside(run, path)]
    return run


def _newest(folder: Path, pattern: str) -> Path | None:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime, default=None)


def _read(run: RunFiles, name: str, read: Callable[[Path], T], absent: T) -> T:
    """Read a file; if that fails, list it and go on without."""
    path = run.folder / name
    if not path.is_file():
        return absent
    try:
        if not is_inside(run, path):
            raise ValueError("a link out of the folder of the run")
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes are more than {MOST_BYTES:,}")
        return read(path)
    except (OSError, ValueError, KeyError, IndexError, csv.Error, RecursionError) as error:
        run.unread.append(printable(f"{name}: {error!r}" if isinstance(error, KeyError) else f"{name}: {error}"))
        return absent


def is_inside(run: RunFiles, path: Path) -> bool:
    """Whether a file is in the folder of the run; a link could bring another file of this machine onto the page."""
    return path.resolve().is_relative_to(run.folder.resolve())


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _read_json(run: RunFiles, name: str) -> Json:
    nothing: Json = {}
    return _read(run, name, _json, nothing)


def _json(path: Path) -> Json:
    value = simplejson.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        rows = [row for _, row in zip(range(MOST_ROWS), reader, strict=False)]
    if any(len(row) != len(header) for row in rows):
        raise ValueError("rows of different length")
    return header, rows


def _confusion(path: Path) -> Confusion:
    """The class names, and the counts that are not 0."""
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        names = next(reader, [])[1 : MOST_CLASSES + 1]
        counts = {
            (i, j): int(count)
            for i, row in zip(range(len(names)), reader, strict=False)
            for j, count in enumerate(row[1 : len(names) + 1])
            if count != "0"
        }
    return names, counts


def _predictions(path: Path) -> list[VideoOutcome]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for _, row in zip(range(MOST_ROWS), reader, strict=False)]
    return [_tested(row, line) for line, row in enumerate(rows, start=2)]


def _tested(row: Row, line: int) -> VideoOutcome:
    for name, limit in (("video", math.inf), ("true_number", MOST_CLASSES), ("predicted_number", MOST_CLASSES)):
        if not all(0 <= int(word) < limit for word in row[name].split(JOINED) if word):
            raise ValueError(f"line {line}: {name} {row[name]}")
    for name in ("true_score", "score"):
        if not all(math.isfinite(float(word)) for word in row[name].split(JOINED) if word):
            raise ValueError(f"line {line}: {name} {row[name]}")
    true, scores, ranks = (
        tuple(filter(None, row[n].split(JOINED))) for n in ("true_number", "true_score", "true_rank")
    )
    # Of several classes, the one that the model ranks first.
    rank, score = min(zip(map(int, ranks), map(float, scores), strict=True), default=(0, 0.0))
    return VideoOutcome(
        int(row["video"]),
        row["path"],
        tuple(map(int, true)),
        rank,
        score,
        int(row["predicted_number"]),
        float(row["score"]),
        {"0": False, "1": True}[row["correct"]],
    )


def _names(run: RunFiles, names: list[str]) -> list[str]:
    """The names of the classes, from the tables that have them; a class that none of them names is its number."""
    header, rows = run.per_class
    known = dict(enumerate(names))
    if "class" in header and "number" in header:
        name, number = header.index("class"), header.index("number")
        numbered = [(int(row[number]), row[name]) for row in rows if row[number].isdecimal()]
        known |= {k: title for k, title in numbered if k < MOST_CLASSES}
    highest = max([*known, *(k for row in run.predictions for k in (*row.true, row.predicted))], default=-1)
    return [known.get(k, str(k)) for k in range(highest + 1)]


def confusion_of(run: RunFiles) -> dict[tuple[int, int], int]:
    """Videos by true and predicted class, for tests with one class per video; empty for others."""
    if run.confusion or not _single(run.predictions):
        return run.confusion
    counts: dict[tuple[int, int], int] = {}
    for row in run.predictions:
        pair = row.true[0], row.predicted
        counts[pair] = counts.get(pair, 0) + 1
    return counts


def _single(rows: list[VideoOutcome]) -> bool:
    return all(len(row.true) == 1 for row in rows)


def worst_mistakes(run: RunFiles, number: int) -> Iterator[VideoOutcome]:
    """The most confident mistakes, the worst first; of equal scores, the first video."""
    wrong = sorted((row for row in run.predictions if not row.right), key=lambda row: (-row.score, row.video))
    yield from wrong[:number]
