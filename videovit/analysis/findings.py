"""All analyses of a model: sums over clips, their report, and its pictures.

I iterations, B clips, N points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from videovit.analysis import drawing
from videovit.analysis.attention import DISTANCES, AttentionStatistics, LayerStatistics
from videovit.analysis.sampling_points import PointStatistics, as_fractions
from videovit.analysis.similarity import MapSimilarity, sharing_candidates
from videovit.config.schema.evaluation import Analysis
from videovit.errors import UserError
from videovit.models.contract import AttentionModel, VideoModel
from videovit.models.layers.maps import observe_attention
from videovit.models.progressive_sampling import ProgressiveSamplingViT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A clip whose sampling points are drawn.

    Attributes:
        video: number in the test list.
        title: class and file.
        frames_THW3: uint8, the crop that the model saw.
        points_IN3: from `as_fractions`.
    """

    video: int
    title: str
    frames_THW3: np.ndarray
    points_IN3: np.ndarray


class Findings:
    """What the analyses have found in the clips so far; None for analyses that were not requested.

    Args:
        options: which ones, and how.
        model: analyses that do not apply to it are left out.
        titles: of the videos that may be drawn, by their number in the list.

    Raises:
        UserError: none of the requested analyses applies to the model.
    """

    def __init__(self, options: Analysis, model: VideoModel, titles: Mapping[int, str] | None = None) -> None:
        self._options, self._titles = options, titles or {}
        what = options.WHAT
        has_maps, has_points = isinstance(model, AttentionModel), isinstance(model, ProgressiveSamplingViT)
        self.attention = AttentionStatistics(options.DISTANCE) if "attention" in what and has_maps else None
        self.similarity = MapSimilarity() if "similarity" in what and has_maps else None
        self.points = PointStatistics() if "points" in what and has_points else None
        self.pictures: list[Picture] = []
        self.num_clips = 0
        if self.attention is None and self.similarity is None and self.points is None:
            possible = [*(["attention", "similarity"] if has_maps else []), *(["points"] if has_points else [])]
            raise UserError(
                f"{', '.join(what) or 'nothing'} cannot be analyzed in a {type(model).__name__}",
                where="ANALYSIS.WHAT",
                expected=f"one of {', '.join(possible)}" if possible else "a vision transformer",
            )

    def update(self, model: VideoModel, x_BCTHW: Tensor, frames_BTHWC: Tensor, videos: Sequence[int]) -> None:
        """Add clips.

        Args:
            model: in evaluation mode.
            x_BCTHW: its input.
            frames_BTHWC: uint8, the frames that the input was made from.
            videos: number of each clip's video in the list.
        """
        if isinstance(model, AttentionModel) and (self.attention is not None or self.similarity is not None):
            self._observe(model, x_BCTHW)
        if isinstance(model, ProgressiveSamplingViT) and self.points is not None:
            T, H, W = x_BCTHW.shape[2:]
            points_IBN3 = as_fractions(model.sampling_points(x_BCTHW).float(), (T, H, W))
            self.points.update(points_IBN3)
            for clip, video in enumerate(videos):
                if video in self._titles:
                    frames, points = frames_BTHWC[clip].cpu().numpy(), points_IBN3[:, clip].cpu().numpy()
                    self.pictures.append(Picture(video, self._titles[video], frames, points))
        self.num_clips += len(x_BCTHW)

    def _observe(self, model: AttentionModel, x_BCTHW: Tensor) -> None:
        tokens = model.attention_tokens(x_BCTHW)
        last = len(tokens) - 1

        def add(layer: int, query: int, map_BMNL: Tensor) -> None:
            here = tokens[layer]
            if self.attention is not None and (layer < last or self._options.LAST_BLOCK):
                self.attention.update(layer, query, map_BMNL, here)
            if self.similarity is not None:
                self.similarity.update(layer, query, map_BMNL, here.num_cls + here.queries_BN3.shape[1])

        observe_attention(model, x_BCTHW, add)
        if self.similarity is not None:
            self.similarity.end_batch()

    def merge(self, others: Sequence[Findings]) -> None:
        """Add what others have found with the same options and model in other clips."""
        parts = [self, *others]
        if self.attention is not None:
            self.attention = self.attention.merge([o.attention for o in others if o.attention is not None])
        if self.similarity is not None:
            self.similarity = self.similarity.merge([o.similarity for o in others if o.similarity is not None])
        if self.points is not None:
            self.points = self.points.merge([o.points for o in others if o.points is not None])
        self.pictures = sorted((one for part in parts for one in part.pictures), key=lambda one: one.video)
        self.num_clips = sum(part.num_clips for part in parts)

    def report(self) -> dict[str, Any]:
        """All numbers, as they are written to `analysis.json`; layers count from 1."""
        report: dict[str, Any] = {"num_clips": self.num_clips}
        if self.attention is not None:
            layers = [describe_layer(number, layer) for number, layer in enumerate(self.attention.layers(), 1)]
            report["attention"] = {"norm": self.attention.norm, "layers": layers}
        if self.similarity is not None:
            pairs = self.similarity.pairs()
            report["similarity"] = {
                "num_layers": self.similarity.num_layers,
                "pairs": [
                    {"layers": [one + 1, two + 1], "cosine": like.cosine, "correlation": like.correlation}
                    for (one, two), like in sorted(pairs.items())
                ],
                "sharing_candidates": [
                    {"layer": layer + 1, "map_of": layer, "cosine": like.cosine, "correlation": like.correlation}
                    for layer, like in sharing_candidates(pairs)
                ],
            }
        if self.points is not None:
            report["points"] = {"moved": self.points.moved().tolist(), "density": self.points.density().tolist()}
        return report

    def figures(self, name: str, report: dict[str, Any]) -> dict[str, Figure]:
        """The pictures of a report, by file name without `.png`."""
        figures: dict[str, Figure] = {}
        if report.get("attention", {}).get("layers"):
            figures["attention"] = drawing.draw_attention({name: report})
        if self.similarity is not None:
            figures["similarity"] = drawing.draw_similarity(report)
        if self.points is not None:
            figures["points_density"] = drawing.draw_density(report)
            for one in self.pictures:
                figures[f"points_{one.video:05d}"] = drawing.draw_points(one.frames_THW3, one.points_IN3, one.title)
        return figures


def describe_layer(number: int, layer: LayerStatistics) -> dict[str, Any]:
    """One layer as JSON values. Distances in time are left out if there is one point in time."""
    kinds = [k for k, kind in enumerate(DISTANCES) if kind == "space" or layer.uniform_K[1] > 0]
    return {
        "layer": number,
        "heads": len(layer.entropy_M),
        "queries": layer.num_queries,
        "keys": layer.num_keys,
        "entropy": layer.entropy_M.mean().item(),
        "uniform_entropy": layer.uniform_entropy,
        "entropy_per_head": layer.entropy_M.tolist(),
        "distance": {DISTANCES[k]: layer.distance_KM[k].mean().item() for k in kinds},
        "uniform_distance": {DISTANCES[k]: layer.uniform_K[k].item() for k in kinds},
        "distance_per_head": {DISTANCES[k]: layer.distance_KM[k].tolist() for k in kinds},
        "cls_share": layer.cls_share_M.mean().item(),
    }
