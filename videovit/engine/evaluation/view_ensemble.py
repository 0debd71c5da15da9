"""Evaluation of whole videos: the scores of a video's views are added up, and the sums are measured.

`TopK` is for one class per video, `MultiLabel` for any number of them; `measures.py` has the formulas.

Shape letters: B clips, V videos, N views, K classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from videovit.config.schema.data import EnsembleMethod
from videovit.data.records import Batch
from videovit.engine import distributed
from videovit.engine.evaluation.class_report import confusion_matrix, write_confusion, write_per_class
from videovit.engine.evaluation.error_report import error_report
from videovit.engine.evaluation.evaluator import ScoreEvaluator
from videovit.engine.evaluation.measures import (
    average_precision,
    precision_recall_f1,
    precision_recall_f1_of_several,
    topk_correct,
)
from videovit.engine.evaluation.predictions import Prediction, predictions
from videovit.errors import UserError
from videovit.messages import plural

THRESHOLD = 0.5  # of the probability of a class, from which on a video with several classes is said to show it


class ViewEnsemble(ScoreEvaluator):
    """Adds up the scores of a video's views, each (video, view) once; subclasses measure the sums.

    Args:
        num_videos: V; videos are numbered 0..V-1.
        num_views: N, views per video: clips x crops.
        num_classes: K.
        method: "sum" (mean of the scores) or "max".
        views: see `Evaluator`.

    Source: multi-view testing of Non-local Networks (arXiv 1711.07971, section 5.1).
    """

    def __init__(
        self, *, num_videos: int, num_views: int, num_classes: int, method: EnsembleMethod = "sum", views: str = ""
    ) -> None:
        self.method, self.views = method, views
        self.scores_VK = torch.zeros(num_videos, num_classes)
        self.seen_VN = torch.zeros(num_videos, num_views, dtype=torch.bool)
        self.labels = self.no_labels(num_videos, num_classes)

    @staticmethod
    @abstractmethod
    def no_labels(num_videos: int, num_classes: int) -> Tensor:
        """Labels of V videos before any of them was seen: (V,) or (V, K)."""

    def update(self, scores_BK: Tensor, batch: Batch) -> None:
        """Add the scores (B, K) of the views of a batch; a (video, view) that came before is ignored."""
        scores_BK, labels = scores_BK.detach().float().cpu(), batch.labels.cpu()
        views = zip(batch.videos_B.tolist(), batch.views_B.tolist(), strict=True)
        for scores_K, label, (video, view) in zip(scores_BK, labels, views, strict=True):
            if self.seen_VN[video, view]:
                continue
            first = not self.seen_VN[video].any()
            self.seen_VN[video, view] = True
            self.labels[video] = label
            if self.method == "sum" or first:
                self.scores_VK[video] += scores_K
            else:  # not for the first view: the initial zeros would win over negative logits
                self.scores_VK[video] = torch.maximum(self.scores_VK[video], scores_K)

    def gather(self) -> Self:
        """Join the videos of all ranks, each of which is evaluated by one rank; every rank gets all of them."""
        mine = self.seen_VN.any(dim=1).nonzero()[:, 0]
        parts = distributed.gather((mine, self.scores_VK[mine], self.labels[mine], self.seen_VN[mine]))
        for videos, scores, labels, seen in parts:
            self.scores_VK[videos], self.labels[videos], self.seen_VN[videos] = scores, labels, seen
        return self

    def result(self, *, skipped: Collection[int] = ()) -> dict[str, float]:
        """The measures over all videos except the skipped ones.

        Args:
            skipped: videos that were reported as unreadable.

        Returns:
            The measures of the subclass, in percent; num_videos, num_views and num_skipped.

        Raises:
            UserError: a view of another video is missing, or a score is NaN or infinite.
        """
        kept = torch.tensor([v for v in range(len(self.labels)) if v not in skipped], dtype=torch.int64)
        missing = (~self.seen_VN[kept]).nonzero()
        if len(missing):
            video, view = int(kept[missing[0, 0]]), int(missing[0, 1])
            raise UserError(
                f"{len(missing)} of {plural(self.seen_VN[kept].numel(), 'view')} were not evaluated, first: "
                f"video {video}, view {view}"
            )
        if not len(kept):
            raise UserError("no video was evaluated")
        broken = kept[~torch.isfinite(self.scores_VK[kept]).all(dim=1)].tolist()
        if broken:
            raise UserError(
                f"the model's scores of {len(broken)} of {plural(len(kept), 'video')} are not finite, first: videos "
                f"{', '.join(map(str, broken[:5]))} of the list, counted from 0",
                hint="The weights may be broken, or the range of fp16 too small (TEST.MIXED_PRECISION)",
            )
        return {
            **self.measure(kept),
            "num_videos": len(kept),
            "num_views": int(self.seen_VN[kept].sum()),
            "num_skipped": len(skipped),
        }

    @abstractmethod
    def measure(self, kept: Tensor) -> dict[str, float]:
        """The measures over the videos `kept`, the most important one first."""

    def predictions_of(self, paths: Sequence[str]) -> Iterator[Prediction]:
        """The predictions for the videos that were read, with scores that are means over the views, or maxima."""
        videos = self.seen_VN.any(dim=1).nonzero()[:, 0]
        return predictions(self.scores_VK, self.labels, videos, paths, divisor=self._num_summed)

    def error_report(self, names: Sequence[str], worst: Sequence[Prediction]) -> dict[str, Any]:
        """See `Evaluator.error_report`."""
        read = self.seen_VN.any(dim=1)
        return error_report(self.scores_VK[read] / self._num_summed, self.labels[read], names, worst)

    @property
    def _num_summed(self) -> int:
        """Views that were added up in a score."""
        return self.seen_VN.shape[1] if self.method == "sum" else 1

    def state(self) -> dict[str, Tensor]:
        """Scores (V, K), summed or maximal over the views, labels, and `read` (V,): False for an unreadable video.

        A video that was not read has scores 0 and the label -1, or no class of several.
        """
        return {"scores": self.scores_VK, "labels": self.labels, "read": self.seen_VN.any(dim=1)}


class TopK(ViewEnsemble):
    """One class per video: top-1 and top-5 accuracy, and the means over the classes of accuracy, precision and F1."""

    columns = {
        "top1_acc": "top-1",
        "top5_acc": "top-5",
        "mean_class_acc": "mean class",
        "macro_precision": "precision",
        "macro_f1": "F1",
    }

    @staticmethod
    def no_labels(num_videos: int, num_classes: int) -> Tensor:
        return torch.full((num_videos,), -1, dtype=torch.int64)

    def measure(self, kept: Tensor) -> dict[str, float]:
        """top1_acc and top5_acc, and means over the classes that occur: mean_class_acc (or recall), macro_precision,
        macro_f1; in percent."""
        top1, top5 = topk_correct(self.scores_VK[kept], self.labels[kept])
        measures_3K = precision_recall_f1(
            self.scores_VK[kept].argmax(dim=1).numpy(), self.labels[kept].numpy(), self.scores_VK.shape[1]
        )
        precision, recall, f1 = np.nanmean(measures_3K, axis=1).tolist()
        return {
            "top1_acc": 100.0 * top1.float().mean().item(),
            "top5_acc": 100.0 * top5.float().mean().item(),
            "mean_class_acc": recall,
            "macro_precision": precision,
            "macro_f1": f1,
        }

    def write_report(self, folder: Path, names: Sequence[str], *, suffix: str = "") -> list[Path]:
        """Confusion matrix, and a table of classes: videos, accuracy, most frequent confusion, precision and F1."""
        kept = self.seen_VN.any(dim=1).numpy()
        labels_V, predictions_V = self.labels.numpy()[kept], self.predictions()[kept]
        counts_KK = confusion_matrix(labels_V, predictions_V, len(names))
        measures_K3 = precision_recall_f1(predictions_V, labels_V, len(names)).T
        rows: list[list[object]] = []
        for k, measures in enumerate(measures_K3.tolist()):
            others = counts_KK[k].copy()
            others[k] = 0
            wrong = int(others.argmax())
            taken = [names[wrong], 100.0 * others[wrong] / counts_KK[k].sum()] if others[wrong] else ["", ""]
            precision, recall, f1 = ("" if np.isnan(value) else value for value in measures)
            # The accuracy of a class is its recall.
            rows.append([names[k], k, int(counts_KK[k].sum()), recall, *taken, precision, recall, f1])
        header = ["class", "number", "videos", "accuracy", "most often taken for", "percent of videos"]
        header += ["precision", "recall", "F1"]
        tables = write_per_class(folder, header, rows, measure="accuracy", suffix=suffix)
        return write_confusion(folder, counts_KK, names, suffix) + tables

    def predictions(self) -> np.ndarray:
        """(V,) int64: the class with the highest score of each video, -1 for a video without any view."""
        best = self.scores_VK.argmax(dim=1)
        best[~self.seen_VN.any(dim=1)] = -1
        return best.numpy()


class MultiLabel(ViewEnsemble):
    """Any number of classes per video: means over the classes that occur of average precision, precision, recall, F1.

    A class is predicted if its score, a probability, is at least THRESHOLD; average precision needs no threshold.
    """

    columns = {"map": "mAP", "macro_precision": "precision", "macro_recall": "recall", "macro_f1": "F1"}

    @staticmethod
    def no_labels(num_videos: int, num_classes: int) -> Tensor:
        return torch.zeros(num_videos, num_classes)

    def measure(self, kept: Tensor) -> dict[str, float]:
        """map, macro_precision, macro_recall and macro_f1 in percent, and num_classes, of which they are means.

        Raises:
            UserError: no class occurs in these videos.
        """
        measures_4K = self._measures(kept)
        occurring = ~np.isnan(measures_4K[0])
        if not occurring.any():
            raise UserError(f"none of the {plural(len(kept), 'evaluated video')} has any class: is it the right list?")
        means = measures_4K[:, occurring].mean(axis=1).tolist()
        return {**dict(zip(self.columns, means, strict=True)), "num_classes": int(occurring.sum())}

    def _measures(self, kept: Tensor) -> np.ndarray:
        """(4, K) in percent: average precision, precision, recall, F1; NaN for a class that does not occur."""
        targets_VK = self.labels[kept].numpy() > 0
        scores_VK = self.scores_VK[kept].numpy()
        num_summed = self.seen_VN.shape[1] if self.method == "sum" else 1
        predicted_VK = scores_VK >= THRESHOLD * num_summed
        return np.stack(
            [average_precision(scores_VK, targets_VK), *precision_recall_f1_of_several(predicted_VK, targets_VK)]
        )

    def write_report(self, folder: Path, names: Sequence[str], *, suffix: str = "") -> list[Path]:
        """Table of classes: number of videos that show them, average precision, precision, recall and F1."""
        kept = self.seen_VN.any(dim=1).nonzero()[:, 0]
        num_videos_K = (self.labels[kept] > 0).sum(dim=0).tolist()
        measures_K4 = self._measures(kept).T.tolist()
        rows: list[list[object]] = [
            [name, k, num_videos_K[k], *("" if np.isnan(value) else value for value in measures_K4[k])]
            for k, name in enumerate(names)
        ]
        header = ["class", "number", "videos", "average precision", "precision", "recall", "F1"]
        return write_per_class(folder, header, rows, measure="average precision", suffix=suffix)
