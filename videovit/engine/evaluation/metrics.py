"""What the scores of a test are worth: top-k accuracy, mean average precision, and the ensemble of a video's views.

Shape letters: B clips, V videos, N views, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videovit.data.records import Batch
from videovit.engine import distributed
from videovit.engine.evaluation.class_report import confusion_matrix, write_confusion, write_per_class
from videovit.errors import UserError


class MissingViewsError(UserError):
    """A video was not evaluated with all of its views."""


class NonFiniteScoresError(UserError):
    """A model gave NaN or infinite scores, to which no accuracy belongs."""


class NoPositivesError(UserError):
    """No class occurs in the evaluated videos, so there is no precision to average."""


def topk_correct(scores_BK: Tensor, labels_B: Tensor, ks: tuple[int, ...] = (1, 5)) -> list[Tensor]:
    """Whether the label is among the k highest scores; of equal scores the first class is the higher one.

    So it is with the class that `argmax` predicts, which the other measures go by; `topk` takes any of them.

    Args:
        scores_BK: (B, K) scores or logits, finite.
        labels_B: (B,) class indices.
        ks: the values of k; one above K counts as K.

    Returns:
        For each k a (B,) bool tensor.
    """
    wanted_B1 = scores_BK.gather(1, labels_B[:, None])
    is_before_BK = torch.arange(scores_BK.shape[1], device=labels_B.device) < labels_B[:, None]
    rank_B = ((scores_BK > wanted_B1) | ((scores_BK == wanted_B1) & is_before_BK)).sum(dim=1)
    return [rank_B < k for k in ks]


def class_accuracy(predictions_V: np.ndarray, labels_V: np.ndarray, num_classes: int) -> np.ndarray:
    """(K,) float: percent of the videos of each class that are predicted right, NaN for a class without videos."""
    counts = np.bincount(labels_V, minlength=num_classes).astype(float)
    hits = np.bincount(labels_V[predictions_V == labels_V], minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, 100.0 * hits / counts, np.nan)


def average_precision(scores_VK: NDArray[np.floating], targets_VK: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Area under the precision-recall steps of each class, without interpolation.

    Videos with equal scores come together: precision is taken after the last of them.

        score      0.9  0.7  0.7  0.2
        target      1    0    1    1        precision 1, 2/3, 3/4 at recall 1/3, 2/3, 1:
        recall     1/3      2/3    1        AP = (1 + 2/3 + 3/4) / 3

    Args:
        scores_VK: (V, K), finite.
        targets_VK: (V, K), whether the class occurs.

    Returns:
        (K,) in percent, NaN for a class that occurs in no video.

    Source: the average precision of scikit-learn, which PySlowFast uses for Charades.
    """
    order = np.argsort(-scores_VK, axis=0, kind="stable")
    ranked = np.take_along_axis(scores_VK, order, axis=0)
    hits = np.take_along_axis(targets_VK, order, axis=0)
    true_so_far = hits.cumsum(axis=0).astype(np.float64)
    precision = true_so_far / np.arange(1, len(hits) + 1)[:, None]
    result = np.full(scores_VK.shape[1], np.nan)
    for k in np.flatnonzero(hits.any(axis=0)):
        ends = np.append(np.flatnonzero(np.diff(ranked[:, k])), len(hits) - 1)
        gained = np.diff(true_so_far[ends, k], prepend=0.0)
        result[k] = 100.0 * (gained * precision[ends, k]).sum() / true_so_far[-1, k]
    return result


class Evaluator(Protocol):
    """Collects what a model says about a data set, and judges it."""

    def update(self, scores: Tensor, batch: Batch) -> None:
        """Take the scores of a batch, after the activation of the head."""

    def gather(self) -> Self:
        """Join what all ranks collected; a collective call."""

    def result(self, *, skipped: Collection[int] = ()) -> dict[str, float]:
        """The measures, the most important one first, then num_videos, num_views and num_skipped.

        Args:
            skipped: videos that could not be read.
        """

    def state(self) -> dict[str, Tensor]:
        """What `TEST.SAVE_RESULTS_PATH` keeps."""

    def write_report(self, folder: Path, names: Sequence[str], *, suffix: str = "") -> list[Path]:
        """Write tables and pictures of the classes, `names`, into `folder`; the files."""


class ViewEnsemble(ABC):
    """Adds up the scores of a video's views, each (video, view) once. What the sum is worth, a subclass says.

    Args:
        num_videos: V; videos are numbered 0..V-1.
        num_views: views of each video, clips x crops.
        num_classes: K.
        method: "sum" (mean of the scores) or "max".

    Source: multi-view testing of Non-local Networks (arXiv 1711.07971, section 5.1).
    """

    labels: Tensor

    def __init__(self, *, num_videos: int, num_views: int, num_classes: int, method: str = "sum") -> None:
        if method not in ("sum", "max"):
            raise ValueError(f"DATA.ENSEMBLE_METHOD: found {method!r}, expected 'sum' or 'max'")
        self.method = method
        self.scores_VK = torch.zeros(num_videos, num_classes)
        self.seen_VN = torch.zeros(num_videos, num_views, dtype=torch.bool)

    def update(self, scores_BK: Tensor, batch: Batch) -> None:
        """Add the scores (B, K) of the B views of a batch; a (video, view) that came before is ignored."""
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
            else:
                self.scores_VK[video] = torch.maximum(self.scores_VK[video], scores_K)

    def gather(self) -> Self:
        """Join the videos of all ranks (each video is evaluated by one rank); every rank gets the whole."""
        mine = self.seen_VN.any(dim=1).nonzero()[:, 0]
        parts = distributed.gather((mine, self.scores_VK[mine], self.labels[mine], self.seen_VN[mine]))
        for videos, scores, labels, seen in parts:
            self.scores_VK[videos], self.labels[videos], self.seen_VN[videos] = scores, labels, seen
        return self

    def result(self, *, skipped: Collection[int] = ()) -> dict[str, float]:
        """The measures over all videos but the skipped ones.

        Args:
            skipped: videos that the caller has reported as unreadable.

        Returns:
            What the subclass measures, in percent; num_videos and num_views evaluated, num_skipped videos.

        Raises:
            MissingViewsError: a view of another video is missing.
            NonFiniteScoresError: a score is NaN or infinite.
        """
        kept = torch.tensor([v for v in range(len(self.labels)) if v not in skipped], dtype=torch.int64)
        missing = (~self.seen_VN[kept]).nonzero()
        if len(missing):
            video, view = int(kept[missing[0, 0]]), int(missing[0, 1])
            raise MissingViewsError(
                f"{len(missing)} of {self.seen_VN[kept].numel()} views were not evaluated, first: video {video}, "
                f"view {view}"
            )
        if not len(kept):
            raise MissingViewsError("no video was evaluated")
        broken = kept[~torch.isfinite(self.scores_VK[kept]).all(dim=1)].tolist()
        if broken:
            raise NonFiniteScoresError(
                f"the model's scores of {len(broken)} of {len(kept)} videos are not finite, first: videos "
                f"{', '.join(map(str, broken[:5]))} of the list, from 0; are the weights broken, or fp16 too narrow "
                "(TEST.MIXED_PRECISION)?"
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

    @abstractmethod
    def write_report(self, folder: Path, names: Sequence[str], *, suffix: str = "") -> list[Path]:
        """See `Evaluator`; about the videos that were evaluated."""

    def state(self) -> dict[str, Tensor]:
        """Scores (V, K), summed or maximal over the views, and labels."""
        return {"scores": self.scores_VK, "labels": self.labels}


class TopK(ViewEnsemble):
    """One class a video: top-1 and top-5 accuracy, and the mean over classes of their accuracies."""

    def __init__(self, *, num_videos: int, num_views: int, num_classes: int, method: str = "sum") -> None:
        super().__init__(num_videos=num_videos, num_views=num_views, num_classes=num_classes, method=method)
        self.labels = torch.full((num_videos,), -1, dtype=torch.int64)

    def measure(self, kept: Tensor) -> dict[str, float]:
        """top1_acc, top5_acc and mean_class_acc (over the classes that occur), in percent."""
        top1, top5 = topk_correct(self.scores_VK[kept], self.labels[kept])
        per_class_K = class_accuracy(
            self.scores_VK[kept].argmax(dim=1).numpy(), self.labels[kept].numpy(), self.scores_VK.shape[1]
        )
        return {
            "top1_acc": 100.0 * top1.float().mean().item(),
            "top5_acc": 100.0 * top5.float().mean().item(),
            "mean_class_acc": float(np.nanmean(per_class_K)),
        }

    def write_report(self, folder: Path, names: Sequence[str], *, suffix: str = "") -> list[Path]:
        """Confusion matrix and table of classes: videos, accuracy, and what a class is most often taken for."""
        kept = self.seen_VN.any(dim=1).numpy()
        labels_V, predictions_V = self.labels.numpy()[kept], self.predictions()[kept]
        counts_KK = confusion_matrix(labels_V, predictions_V, len(names))
        rows: list[list[Any]] = []
        for k, accuracy in enumerate(class_accuracy(predictions_V, labels_V, len(names)).tolist()):
            others = counts_KK[k].copy()
            others[k] = 0
            wrong = int(others.argmax())
            taken = [names[wrong], 100.0 * others[wrong] / counts_KK[k].sum()] if others[wrong] else ["", ""]
            rows.append([names[k], k, int(counts_KK[k].sum()), "" if np.isnan(accuracy) else accuracy, *taken])
        header = ["class", "number", "videos", "accuracy", "most often taken for", "percent of videos"]
        tables = write_per_class(folder, header, rows, measure="accuracy", suffix=suffix)
        return write_confusion(folder, counts_KK, names, suffix) + tables

    def predictions(self) -> np.ndarray:
        """(V,) int64: the class with the highest score of each video, -1 where no view was seen."""
        best = self.scores_VK.argmax(dim=1)
        best[~self.seen_VN.any(dim=1)] = -1
        return best.numpy()


class MultiLabel(ViewEnsemble):
    """Any number of classes a video: mean average precision, over the classes that occur."""

    def __init__(self, *, num_videos: int, num_views: int, num_classes: int, method: str = "max") -> None:
        super().__init__(num_videos=num_videos, num_views=num_views, num_classes=num_classes, method=method)
        self.labels = torch.zeros(num_videos, num_classes)

    def measure(self, kept: Tensor) -> dict[str, float]:
        """map in percent, and num_classes, how many classes it is the mean of.

        Raises:
            NoPositivesError: no class occurs in these videos.
        """
        precision_K = average_precision(self.scores_VK[kept].numpy(), self.labels[kept].numpy() > 0)
        occurring = precision_K[~np.isnan(precision_K)]
        if not len(occurring):
            raise NoPositivesError(f"none of the {len(kept)} evaluated videos has any class; is it the right list?")
        return {"map": float(occurring.mean()), "num_classes": len(occurring)}

    def write_report(self, folder: Path, names: Sequence[str], *, suffix: str = "") -> list[Path]:
        """Table of classes: videos that show them, and average precision."""
        kept = self.seen_VN.any(dim=1)
        targets_VK = self.labels[kept].numpy() > 0
        precision_K = average_precision(self.scores_VK[kept].numpy(), targets_VK).tolist()
        rows = [
            [name, k, int(targets_VK[:, k].sum()), "" if np.isnan(precision_K[k]) else precision_K[k]]
            for k, name in enumerate(names)
        ]
        header = ["class", "number", "videos", "average precision"]
        return write_per_class(folder, header, rows, measure="average precision", suffix=suffix)


EVALUATORS: dict[str, Callable[..., Evaluator]] = {"top-k": TopK, "multi-label": MultiLabel}
"""By `DatasetSpec.evaluation`; arguments are those of ViewEnsemble."""
