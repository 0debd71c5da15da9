"""`predictions.csv`: what a test predicted for every video, and its most confident mistakes.

Rows are made one after the other from the scores that the evaluator has; nothing is kept but the worst of them.

V videos, K classes.
"""

from __future__ import annotations

import csv
import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from videovit.engine.reporting.json_lines import replacing
from videovit.engine.reporting.log import format_table
from videovit.messages import table_cell

TOP = 5  # classes per row
NUM_WORST = 10  # mistakes in the log
CHUNK = 1024  # videos that are sorted at once
JOINED = "; "  # between the classes of a video that has several


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was predicted for one video.

    Attributes:
        video: its row in the list, counted from 0.
        path: as in the list.
        true: its classes, by number.
        true_scores: of these classes.
        true_ranks: their places among all classes by score, from 1; of equal scores the first class is higher.
        top: the classes with the highest scores, by number, in descending order.
        top_scores: of these classes.
    """

    video: int
    path: str
    true: tuple[int, ...]
    true_scores: tuple[float, ...]
    true_ranks: tuple[int, ...]
    top: tuple[int, ...]
    top_scores: tuple[float, ...]

    @property
    def correct(self) -> bool:
        """Whether the class with the highest score is a true one."""
        return self.top[0] in self.true


def predictions(
    scores_VK: Tensor, labels: Tensor, videos: Tensor, paths: Sequence[str], *, divisor: int = 1
) -> Iterator[Prediction]:
    """The predictions for some videos, in their order.

    Args:
        scores_VK: of all videos.
        labels: of all videos: classes (V,), or (V, K), above 0 for the classes of a video.
        videos: rows to use.
        paths: of all videos.
        divisor: of the scores, after they were compared.
    """
    for start in range(0, len(videos), CHUNK):
        chunk = videos[start : start + CHUNK]
        scores = scores_VK[chunk]
        order = scores.argsort(dim=1, descending=True, stable=True)  # as argmax: the first of equal scores
        ranks = order.argsort(dim=1) + 1
        scores, top = scores / divisor, order[:, :TOP]
        if labels.ndim == 1:
            true = [[label] for label in labels[chunk].tolist()]
        else:
            true = [label.nonzero()[:, 0].tolist() for label in labels[chunk]]
        # All at once: indexing tensors row by row takes most of the time.
        rows = torch.repeat_interleave(torch.arange(len(chunk)), torch.tensor(list(map(len, true))))
        classes = torch.tensor([k for row in true for k in row], dtype=torch.int64)
        true_scores, true_ranks = iter(scores[rows, classes].tolist()), iter(ranks[rows, classes].tolist())
        columns = chunk.tolist(), true, top.tolist(), scores.gather(1, top).tolist()
        for video, of_video, best, best_scores in zip(*columns, strict=True):
            yield Prediction(
                video,
                paths[video],
                tuple(of_video),
                tuple(islice(true_scores, len(of_video))),
                tuple(islice(true_ranks, len(of_video))),
                tuple(best),
                tuple(best_scores),
            )


def write_predictions(path: Path, rows: Iterable[Prediction], names: Sequence[str]) -> list[Prediction]:
    """Write a CSV file, completely or not at all, with a line per video.

    Args:
        path: of the file.
        rows: used once, one after the other.
        names: of the classes.

    Returns:
        The most confident mistakes, the worst first.

    Raises:
        UserError: the file cannot be written.
    """
    shown = [str(table_cell(name)) for name in names]
    true = ["true", "true_number", "true_score", "true_rank"]
    tops = [f"top{place}{what}" for place in range(1, min(TOP, len(names)) + 1) for what in ("", "_score")]
    worst: list[tuple[float, int, Prediction]] = []
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "path", *true, "predicted", "predicted_number", "score", "correct", *tops])
        for row in rows:
            columns = ([shown[k] for k in row.true], row.true, map(_score, row.true_scores), row.true_ranks)
            best = [shown[row.top[0]], row.top[0], _score(row.top_scores[0]), int(row.correct)]
            pairs = zip(row.top, row.top_scores, strict=True)
            writer.writerow(
                [row.video, table_cell(row.path)]
                + [JOINED.join(map(str, column)) for column in columns]
                + best
                + [cell for k, score in pairs for cell in (shown[k], _score(score))]
            )
            if not row.correct:
                entry = (row.top_scores[0], -row.video, row)  # of equal scores, the first video is the worst
                (heapq.heappush if len(worst) < NUM_WORST else heapq.heappushpop)(worst, entry)
        file.flush()
        os.fsync(file.fileno())
    return [row for *_, row in sorted(worst, reverse=True)]


def format_mistakes(rows: Sequence[Prediction], names: Sequence[str]) -> str:
    """Format a table of mistakes: what was predicted, how sure the model was, and what is true."""
    return format_table(
        ["video", "predicted", "score", "true", "score"],
        [
            [
                row.path,
                names[row.top[0]],
                f"{row.top_scores[0]:.3f}",
                JOINED.join(names[k] for k in row.true) or "-",
                JOINED.join(f"{score:.3f}" for score in row.true_scores) or "-",
            ]
            for row in rows
        ],
    )


def _score(value: float) -> str:
    return f"{value:.6g}"
