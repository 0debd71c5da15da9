"""Reports per class: tables as CSV, plots as PNG.

V videos, K classes. The rows of a confusion matrix are true classes, its columns predicted ones.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videovit.engine.reporting.json_lines import writing
from videovit.messages import printable, table_cell

MAX_NAME_LENGTH = 40  # letters of a class name in a plot
MAX_NAMES = 720  # classes with legible names in a plot of 60 inches
DPI = 110


def confusion_matrix(
    labels_V: NDArray[np.int64], predictions_V: NDArray[np.int64], num_classes: int
) -> NDArray[np.int32]:
    """(K, K): number of videos of class i that were predicted as class j.

    Args:
        labels_V: (V,) true classes.
        predictions_V: (V,) predicted classes.
        num_classes: K.
    """
    # Half the memory of what bincount returns: 256 MB for 8,000 classes.
    counts_KK = np.zeros((num_classes, num_classes), dtype=np.int32)
    np.add.at(counts_KK, (labels_V, predictions_V), 1)
    return counts_KK


def write_confusion(folder: Path, counts_KK: NDArray[np.int32], names: Sequence[str], suffix: str = "") -> list[Path]:
    """Write `confusion_matrix.csv` with the counts, and `.png` with the share of each row.

    Args:
        folder: exists.
        counts_KK: see `confusion_matrix`.
        names: K class names.
        suffix: of the file names.

    Returns:
        The files.
    """
    files = [folder / f"confusion_matrix{suffix}.{kind}" for kind in ("csv", "png")]
    write_csv(
        files[0],
        ["true \\ predicted", *names],
        ([name, *row.tolist()] for name, row in zip(names, counts_KK, strict=True)),
    )
    draw_confusion(files[1], counts_KK, names)
    return files


def write_per_class(
    folder: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], *, measure: str, suffix: str = ""
) -> list[Path]:
    """Write `per_class.csv` with the given rows, and `.png` with a bar per class, the worst on top.

    Args:
        folder: exists.
        header: names of the columns; the first two are the name and the number of the class.
        rows: one per class; an empty string stands for a missing number.
        measure: the column that is plotted, in percent.
        suffix: of the file names.

    Returns:
        The files.
    """
    files = [folder / f"per_class{suffix}.{kind}" for kind in ("csv", "png")]
    write_csv(files[0], header, ([f"{v:.2f}" if isinstance(v, float) else v for v in row] for row in rows))
    column = list(header).index(measure)
    shown = {short_name(row[0], number=row[1]): row[column] for row in rows if row[column] != ""}
    draw_per_class(files[1], shown, measure)
    return files


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with a header, in UTF-8; see `table_cell` for names that a spreadsheet would compute."""
    with writing(path), open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([table_cell(value) for value in row] for row in (header, *rows))


def short_name(name: str, length: int = MAX_NAME_LENGTH, *, number: object = None) -> str:
    """A class name as a plot shows it; a name that no font can show is replaced by its number, if that is known."""
    from videovit.analysis.lettering import lettered  # imports Matplotlib

    return lettered(printable(name)[:length], "" if number is None else f"class {number}")


@contextmanager
def plain_names() -> Iterator[None]:
    """See `analysis.lettering.plain_text`; Matplotlib is imported only when the block begins."""
    from videovit.analysis.lettering import plain_text

    with plain_text():
        yield


@plain_names()
def draw_confusion(path: Path, counts_KK: NDArray[np.int32], names: Sequence[str]) -> None:
    """Plot the matrix in shades, each row scaled to its videos. It grows with K, so that all names stay legible.

    Above MAX_NAMES classes it shows their numbers instead, and the highest share of neighboring cells.
    """
    num_classes = len(names)
    side, font, room = _sizes(names)
    share_KK = _shares(counts_KK)
    figure, axes = _figure(width=side, height=side, left=room, below=room)
    edges = (-0.5, num_classes - 0.5)
    image = axes.imshow(
        share_KK, cmap="viridis", vmin=0.0, vmax=100.0, interpolation="nearest", extent=(*edges, *reversed(edges))
    )
    if num_classes <= MAX_NAMES:
        shown = [short_name(name, number=k) for k, name in enumerate(names)]
        axes.set_xticks(range(num_classes), shown, rotation=90, fontsize=font)
        axes.set_yticks(range(num_classes), shown, fontsize=font)
    axes.set(xlabel="predicted", ylabel="true", title=f"{int(counts_KK.sum())} videos, {num_classes} classes")
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.6, pad=0.1 / side, aspect=30)
    if num_classes <= 20:
        for i, j in zip(*np.nonzero(counts_KK), strict=True):
            color = "black" if share_KK[i, j] > 60 else "white"
            axes.text(j, i, f"{counts_KK[i, j]}", ha="center", va="center", fontsize=font, color=color)
    with writing(path):
        figure.savefig(path, dpi=DPI)


def _shares(counts_KK: NDArray[np.int32]) -> NDArray[np.float64]:
    """Percent of each row; of several neighboring cells the highest, if there are more than MAX_NAMES classes."""
    step = -(-len(counts_KK) // MAX_NAMES)
    starts = np.arange(0, len(counts_KK), step)
    rows = []
    for start in starts:  # row by row, since 8,000 classes as a whole would take gigabytes
        some = counts_KK[start : start + step]
        share = 100.0 * some / np.maximum(some.sum(axis=1, keepdims=True), 1)
        rows.append(np.maximum.reduceat(share.max(axis=0), starts))
    return np.stack(rows)


@plain_names()
def draw_per_class(path: Path, values: dict[str, float], measure: str) -> None:
    """Plot a bar per class, the lowest on top; without names above MAX_NAMES classes.

    Args:
        path: of the PNG file.
        values: name of the class -> value in percent.
        measure: what the values are.
    """
    ordered = sorted(values.items(), key=lambda item: -item[1])
    side, font, room = _sizes(list(values))
    figure, axes = _figure(width=5.0, height=side, left=room, below=0.3)
    heights = [value for _, value in ordered]
    if len(ordered) <= MAX_NAMES:
        axes.barh(range(len(ordered)), heights)
        axes.set_yticks(range(len(ordered)), [short_name(name) for name, _ in ordered], fontsize=font)
    else:
        axes.fill_betweenx(range(len(ordered)), heights, step="mid")
    axes.set(xlabel=f"{measure} (%)", xlim=(0, 100), ylim=(-1, len(ordered)))
    with writing(path):
        figure.savefig(path, dpi=DPI)


def _sizes(names: Sequence[str]) -> tuple[float, float, float]:
    """Height of all names in inches, font size in points, and width of the longest name in inches."""
    if len(names) > MAX_NAMES:
        return 12.0, 9.0, 0.5
    font = 9.0 if len(names) <= 30 else 6.0
    longest = max((len(short_name(name)) for name in names), default=0)
    return min(max(3.0, len(names) * font * 1.3 / 72), 60.0), font, longest * font * 0.6 / 72


def _figure(*, width: float, height: float, left: float, below: float) -> tuple[Any, Any]:
    """A figure around axes of this size in inches, with margins for names on two sides.

    Computed here, since matplotlib's layout engines take seconds for hundreds of names.
    """
    from matplotlib.figure import Figure

    whole_w, whole_h = width + left + 1.7, height + below + 1.1
    figure = Figure(figsize=(whole_w, whole_h))
    place = ((left + 0.5) / whole_w, (below + 0.6) / whole_h, width / whole_w, height / whole_h)
    return figure, figure.add_axes(place)
