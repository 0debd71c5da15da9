"""How concentrated and how far-reaching attention is: entropy and distance per layer.

Both are of attention between grid tokens: rows and columns of class tokens are left out, and each row that remains is
divided by its sum, so that it is a distribution again. What was left out is reported as `cls_share`.

B clips, M heads, N query tokens, L key tokens, K distances (space, time, joint).

Source: PiT (arXiv 2103.16302), section 3.3, for images; time and joint distances are this project's extension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from videovit.models.contract import AttentionTokens

Norm = Literal["l1", "l2"]
DISTANCES = ("space", "time", "joint")

_CHUNK = 400_000  # attention weights processed at once: few enough to stay in the cache of a CPU


def entropy(map_BMNL: Tensor) -> Tensor:
    """Entropy of attention in nats, H = -(1/N) sum_i sum_j a_ij ln a_ij.

    It is 0 if every query attends to one key, and ln L if every query attends to all keys equally.

    Args:
        map_BMNL: rows sum to 1.

    Returns:
        (M,), the mean over clips and queries.
    """
    return -torch.xlogy(map_BMNL, map_BMNL).sum(-1).mean((0, 2))


def distances(queries_BN3: Tensor, keys_BL3: Tensor, norm: Norm = "l1") -> Tensor:
    """Distances from every query to every key, |p_i - p_j|.

    Args:
        queries_BN3: positions (t, y, x) as fractions of the clip.
        keys_BL3: those of the keys.
        norm: l1 adds the differences of the axes, l2 is the Euclidean length.

    Returns:
        (B, K, N, L): over (y, x), over t, and over all three axes.
    """
    t, y, x = (queries_BN3[:, :, None] - keys_BL3[:, None]).abs().unbind(-1)
    if norm == "l1":
        space = y + x
        return torch.stack([space, t, space + t], dim=1)
    return torch.stack([torch.hypot(y, x), t, (t * t + y * y + x * x).sqrt()], dim=1)


def attention_distance(map_BMNL: Tensor, distances_BKNL: Tensor) -> Tensor:
    """Mean distance that attention reaches, D = (1/N) sum_i sum_j a_ij |p_i - p_j|.

    Args:
        map_BMNL: rows sum to 1.
        distances_BKNL: from `distances`; B = 1 if they are the same for all clips.

    Returns:
        (K, M), the mean over clips and queries.
    """
    B, _, N, _ = map_BMNL.shape
    if distances_BKNL.shape[0] == 1:  # linear in the map, so clips can be added first
        total_KM = distances_BKNL[0].flatten(1) @ map_BMNL.sum(0).flatten(1).T
    else:
        total_KM = torch.einsum("bmnl,bknl->km", map_BMNL, distances_BKNL)
    return total_KM / (B * N)


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of one layer over a data set; means over clips and queries.

    Attributes:
        num_queries, num_keys: grid tokens, without class tokens.
        entropy_M: in nats, per head.
        distance_KM: space, time, joint; in sides of the frame and lengths of the clip, per head.
        cls_share_M: attention of grid queries that goes to class tokens, 0 to 1.
        uniform_K: distances if every query attended to all keys equally.
    """

    num_queries: int
    num_keys: int
    entropy_M: Tensor
    distance_KM: Tensor
    cls_share_M: Tensor
    uniform_K: Tensor

    @property
    def uniform_entropy(self) -> float:
        """The entropy if every query attended to all keys equally, which is the highest possible."""
        return math.log(self.num_keys)


class AttentionStatistics:
    """Adds up statistics of maps as they come, in constant memory.

    Args:
        norm: of the distance.
    """

    def __init__(self, norm: Norm = "l1") -> None:
        self.norm = norm
        self._layers: dict[int, _Sums] = {}

    def update(self, layer: int, query: int, map_BMNL: Tensor, tokens: AttentionTokens) -> None:
        """Add a part of a map.

        Args:
            layer: number of the layer, from 0.
            query: number of the first query in the part, class tokens included.
            map_BMNL: the part, class tokens included.
            tokens: of the layer.
        """
        num_cls, M = tokens.num_cls, map_BMNL.shape[1]
        skipped = max(0, num_cls - query)
        map_BMNL, first = map_BMNL[:, :, skipped:], query + skipped - num_cls
        sums = self._layers.setdefault(layer, _Sums(torch.zeros(2 + 2 * len(DISTANCES), M, dtype=torch.float64)))
        B, _, N, L = map_BMNL.shape
        rows = max(1, _CHUNK // max(1, B * M * L))
        for start in range(0, N, rows):
            stop = min(N, start + rows)
            queries = tokens.queries_BN3[:, first + start : first + stop]
            sums.add(map_BMNL[:, :, start:stop, num_cls:], queries, tokens.keys_BL3, self.norm)
        sums.num_queries = max(sums.num_queries, first + N)
        sums.num_keys = L - num_cls

    def merge(self, others: Sequence[AttentionStatistics]) -> AttentionStatistics:
        """Statistics of all maps that these and the others have seen."""
        joined = AttentionStatistics(self.norm)
        for part in (self, *others):
            for layer, sums in part._layers.items():
                joined._layers[layer] = joined._layers[layer].plus(sums) if layer in joined._layers else sums
        return joined

    def layers(self) -> list[LayerStatistics]:
        """The means so far, one entry per layer in the order in which they run."""
        return [self._layers[number].means() for number in sorted(self._layers)]


@dataclass
class _Sums:
    """Sums over rows of maps, in float64 on the CPU; one column per head.

    Attributes:
        totals_FM: entropy, attention to class tokens, K distances, K distances of uniform attention.
    """

    totals_FM: Tensor
    num_rows: int = 0
    num_queries: int = 0
    num_keys: int = 0

    def add(self, weights_BMNL: Tensor, queries_BN3: Tensor, keys_BL3: Tensor, norm: Norm) -> None:
        """Add rows; `weights` are those of grid keys alone, so that rows may sum to less than 1."""
        weights_BMNL = weights_BMNL.float()
        mass_BMN1 = weights_BMNL.sum(-1, keepdim=True)
        # A row with all its attention on class tokens counts as 0.
        map_BMNL = weights_BMNL / mass_BMN1.clamp_min(torch.finfo(torch.float32).tiny)
        B, M, N, _ = map_BMNL.shape
        between = distances(queries_BN3.to(map_BMNL.device), keys_BL3.to(map_BMNL.device), norm)
        means = (
            entropy(map_BMNL)[None],
            (1 - mass_BMN1).mean((0, 2, 3))[None],
            attention_distance(map_BMNL, between),
            between.mean((0, 2, 3))[:, None].expand(-1, M),
        )
        self.totals_FM += B * N * torch.cat(means).double().cpu()
        self.num_rows += B * N

    def plus(self, other: _Sums) -> _Sums:
        rows = self.num_rows + other.num_rows
        return _Sums(self.totals_FM + other.totals_FM, rows, self.num_queries, self.num_keys)

    def means(self) -> LayerStatistics:
        K = len(DISTANCES)
        entropy_1M, cls_1M, distance_KM, uniform_KM = torch.split(self.totals_FM / self.num_rows, [1, 1, K, K])
        cls_M = cls_1M[0].clamp_min(0)  # rounding may make it negative
        return LayerStatistics(self.num_queries, self.num_keys, entropy_1M[0], distance_KM, cls_M, uniform_KM[:, 0])
