"""How alike the attention maps of two layers are: what one layer would lose by using the map of another.

Rows are compared query by query and head by head, since attention sharing (PSViT) passes maps on head by head. Two maps
can be compared if their numbers of heads, queries and keys are equal; class tokens are part of both, as they are when a
map is shared.

B clips, M heads, N query tokens, L key tokens, S layers.

Source: PSViT (arXiv 2108.03428) shares maps between adjacent layers because they are strongly correlated; we found no
    definition of its measure. The cosine per row is the one of DeepViT (arXiv 2103.11886), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_ROWS = 256  # queries of a map that are compared, evenly spaced
SAME = 1 - 1e-6  # a layer that shares the map of another has a similarity of 1 to rounding


@dataclass(frozen=True)
class Likeness:
    """How alike rows of two maps are.

    Attributes:
        cosine: of the angle between them, 0 to 1. Flat rows are all alike: two uniform maps have 1.
        correlation: the same without the mean of each row, -1 to 1; 0 if either row is uniform.
    """

    cosine: float
    correlation: float


def row_cosines(first_BMNL: Tensor, second_BMNL: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and correlation of every row of a map with the same row of another.

    Returns:
        Both (B, M, N).
    """
    first, second = first_BMNL.float(), second_BMNL.float()
    first_0, second_0 = (one - one.mean(-1, keepdim=True) for one in (first, second))
    # Of a uniform row, without its mean, only rounding is left.
    flat = torch.minimum(
        *(one.norm(dim=-1) / whole.norm(dim=-1) for one, whole in ((first_0, first), (second_0, second)))
    )
    correlation = torch.cosine_similarity(first_0, second_0, dim=-1, eps=1e-30)
    return torch.cosine_similarity(first, second, dim=-1), torch.where(flat > 1e-5, correlation, 0.0)


class MapSimilarity:
    """Adds up the similarity of all pairs of layers over a data set.

    Of every map of a clip, at most `MAX_ROWS` rows are held until the clip is done. That bounds the memory; with more
    queries, the means are estimates from evenly spaced ones.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], tuple[float, float, int]] = {}
        self._rows: dict[int, list[Tensor]] = {}
        self.num_layers = 0

    def update(self, layer: int, query: int, map_BMNL: Tensor, num_queries: int) -> None:
        """Add a part of a map of the present batch.

        Args:
            layer: number of the layer, from 0.
            query: number of the first query in the part.
            map_BMNL: the part.
            num_queries: N of the whole map.
        """
        step = -(-num_queries // MAX_ROWS)
        first = -query % step  # the first row of the part that is a multiple of the step in the map
        # A copy: a view would keep the whole map.
        self._rows.setdefault(layer, []).append(map_BMNL[:, :, first::step].clone())

    def end_batch(self) -> None:
        """Compare the maps of the present batch with each other, and drop them."""
        maps = {layer: torch.cat(parts, dim=2) for layer, parts in sorted(self._rows.items())}
        self.num_layers = max(self.num_layers, len(maps))
        for one, first in maps.items():
            for two, second in maps.items():
                if one < two and first.shape == second.shape:
                    cosine, correlation = row_cosines(first, second)
                    sums = (cosine.double().sum().item(), correlation.double().sum().item(), cosine.numel())
                    self._add((one, two), sums)
        self._rows.clear()

    def _add(self, pair: tuple[int, int], sums: tuple[float, float, int]) -> None:
        cosine, correlation, number = self._sums.get(pair, (0.0, 0.0, 0))
        self._sums[pair] = (cosine + sums[0], correlation + sums[1], number + sums[2])

    def merge(self, others: Sequence[MapSimilarity]) -> MapSimilarity:
        """The likeness over all maps that this and the others have seen."""
        joined = MapSimilarity()
        for part in (self, *others):
            joined.num_layers = max(joined.num_layers, part.num_layers)
            for pair, sums in part._sums.items():
                joined._add(pair, sums)
        return joined

    def pairs(self) -> dict[tuple[int, int], Likeness]:
        """The mean over clips, heads and queries for every pair of layers, numbered from 0, that can be compared."""
        return {pair: Likeness(cos / number, corr / number) for pair, (cos, corr, number) in self._sums.items()}


def sharing_candidates(pairs: dict[tuple[int, int], Likeness]) -> list[tuple[int, Likeness]]:
    """Layers that could use the map of the layer before them, the one that would lose least first.

    Args:
        pairs: from `MapSimilarity.pairs`.

    Returns:
        Layer, and similarity of its map to that of the layer before; without layers that share already.
    """
    adjacent = [(two, like) for (one, two), like in pairs.items() if two == one + 1 and like.cosine < SAME]
    return sorted(adjacent, key=lambda item: -item[1].cosine)
