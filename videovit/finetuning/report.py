"""The report at the end of a run: classes, wrong videos, and the next commands."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

from videovit.config import Config
from videovit.engine.reporting.log import format_table
from videovit.finetuning.data import Say

MOST_CLASSES = 50  # rows of the table
# Of per_class.csv, whatever the kind of labels.
COLUMNS = ("class", "videos", "average precision", "precision", "recall", "F1", "most often taken for")


def report(cfg: Config, say: Say) -> None:
    """Print the table per class and the next commands."""
    folder = Path(cfg.OUTPUT_DIR)
    header, rows = _read_csv(folder / "per_class.csv")
    columns = [header.index(name) for name in COLUMNS if name in header]
    header, rows = [header[k] for k in columns], [[row[k] for k in columns] for row in rows]
    if rows:
        more = f"\n... and {len(rows) - MOST_CLASSES} more" if len(rows) > MOST_CLASSES else ""
        say(f"\n{format_table(header, rows[:MOST_CLASSES])}{more}")
    files = ("predictions.csv", "per_class.csv", "confusion_matrix.png", "curves.png", "stdout.log")
    present = ", ".join(name for name in files if (folder / name).is_file())
    run = shlex.quote(str(folder))
    say(
        f"\nLook at it:     {present} in {run}"
        f"\nOn one page:    videovit report {run}"
        f"\nPredict:        videovit predict --model {run} VIDEO"
        f"\nTrain longer:   videovit run --cfg {shlex.quote(str(folder / 'config.yaml'))} "
        f"SOLVER.MAX_EPOCH {2 * cfg.SOLVER.MAX_EPOCH}"
        f"\nTest again:     videovit run --cfg {shlex.quote(str(folder / 'config.yaml'))} TRAIN.ENABLE False"
    )


def _read_csv(file: Path) -> tuple[list[str], list[list[str]]]:
    if not file.is_file():
        return [], []
    with open(file, newline="", encoding="utf-8") as opened:
        header, *rows = csv.reader(opened)
    return header, rows
