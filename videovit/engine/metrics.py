"""Top-k accuracy, and the ensemble of a video's views."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from videovit.config.errors import UserError
from videovit.engine import distributed


class MissingViewsError(UserError):
    """A video was not evaluated with all of its views."""


def topk_correct(scores_BK: Tensor, labels_B: Tensor, ks: tuple[int, ...] = (1, 5)) -> list[Tensor]:
    """Whether the label is among the k highest scores.

    Args:
        scores_BK: (B, K) scores or logits.
        labels_B: (B,) class indices.
        ks: the values of k; one above K counts as K.

    Returns:
        For each k a (B,) bool tensor.
    """
    num_classes = scores_BK.shape[1]
    best = scores_BK.topk(min(max(ks), num_classes), dim=1).indices
    hits = best == labels_B[:, None]
    return [hits[:, : min(k, num_classes)].any(dim=1) for k in ks]


class NonFiniteScoresError(UserError):
    """A model gave NaN or infinite scores, to which no accuracy belongs."""


class ViewEnsemble:
    """Adds up the scores of a video's views, each (video, view) once.

    Args:
        num_videos: V; videos are numbered 0..V-1.
        num_views: views of each video, clips x crops.
        num_classes: K.
        method: "sum" (mean of the scores) or "max".

    Source: multi-view testing of Non-local Networks (arXiv 1711.07971, section 5.1).
    """

    def __init__(self, *, num_videos: int, num_views: int, num_classes: int, method: str = "sum") -> None:
        if method not in ("sum", "max"):
            raise ValueError(f"DATA.ENSEMBLE_METHOD: found {method!r}, expected 'sum' or 'max'")
        self.method = method
        self.scores_VK = torch.zeros(num_videos, num_classes)
        self.labels_V = torch.full((num_videos,), -1, dtype=torch.int64)
        self.seen_VN = torch.zeros(num_videos, num_views, dtype=torch.bool)

    def update(self, scores_BK: Tensor, labels_B: Tensor, videos_B: Tensor, views_B: Tensor) -> None:
        """Add the scores (B, K) of B views; a (video, view) that came before is ignored."""
        scores_BK = scores_BK.detach().float().cpu()
        for scores_K, label, video, view in zip(
            scores_BK, labels_B.tolist(), videos_B.tolist(), views_B.tolist(), strict=True
        ):
            if self.seen_VN[video, view]:
                continue
            first = not self.seen_VN[video].any()
            self.seen_VN[video, view] = True
            self.labels_V[video] = label
            if self.method == "sum" or first:
                self.scores_VK[video] += scores_K
            else:
                self.scores_VK[video] = torch.maximum(self.scores_VK[video], scores_K)

    def gather(self) -> ViewEnsemble:
        """Join the videos of all ranks (each video is evaluated by one rank); every rank gets the whole."""
        mine = self.seen_VN.any(dim=1).nonzero()[:, 0]
        parts = distributed.gather((mine, self.scores_VK[mine], self.labels_V[mine], self.seen_VN[mine]))
        for videos, scores, labels, seen in parts:
            self.scores_VK[videos], self.labels_V[videos], self.seen_VN[videos] = scores, labels, seen
        return self

    def result(self, *, skipped: set[int] | frozenset[int] = frozenset()) -> dict[str, float]:
        """Accuracy in percent over all videos but the skipped ones.

        Args:
            skipped: videos that the caller has reported as unreadable.

        Returns:
            top1_acc and top5_acc in percent, num_videos and num_views evaluated, num_skipped videos.

        Raises:
            MissingViewsError: a view of another video is missing.
        NonFiniteScoresError: a score is NaN or infinite.
        """
        kept = torch.tensor([v for v in range(len(self.labels_V)) if v not in skipped], dtype=torch.int64)
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
        top1, top5 = topk_correct(self.scores_VK[kept], self.labels_V[kept])
        return {
            "top1_acc": 100.0 * top1.float().mean().item(),
            "top5_acc": 100.0 * top5.float().mean().item(),
            "num_videos": len(kept),
            "num_views": int(self.seen_VN[kept].sum()),
            "num_skipped": len(skipped),
        }

    def predictions(self) -> np.ndarray:
        """(V,) int64: the class with the highest score of each video, -1 where no view was seen."""
        best = self.scores_VK.argmax(dim=1)
        best[~self.seen_VN.any(dim=1)] = -1
        return best.numpy()


def class_accuracy(predictions_V: np.ndarray, labels_V: np.ndarray, num_classes: int) -> np.ndarray:
    """(K,) float: percent of the videos of each class that are predicted right, NaN for a class without videos."""
    counts = np.bincount(labels_V, minlength=num_classes).astype(float)
    hits = np.bincount(labels_V[predictions_V == labels_V], minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, 100.0 * hits / counts, np.nan)
