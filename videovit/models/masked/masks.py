"""Which cells of a clip are hidden.

T H W grid in cells, N cells, M hidden ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videovit.config import Config
from videovit.models.contract import Grid
from videovit.models.masked.model import num_hidden

Kind = Literal["patches", "patches of each frame", "tubes", "cubes", "blocks", "frames"]
_LOG_ASPECT = math.log(0.3)  # of blocks: 0.3 to 1 / 0.3
_TRIES = 100  # to place one more block


@dataclass(frozen=True)
class MaskSampler:
    """Draws hidden cells: always the same number for a grid.

    Attributes:
        kind: `patches`: single cells. `patches of each frame`: as many in every frame. `tubes`: the same cells in all
            frames. `cubes`: boxes of random sides and durations. `blocks`: rectangles, the same in all frames.
            `frames`: whole frames.
        ratio: share of hidden cells.
        largest_block: cells of one block of an image; None: no limit.

    Source: patches and their tubes: MAE (arXiv 2111.06377), VideoMAE (arXiv 2203.12602). Blocks: BEiT (arXiv
        2106.08254), algorithm 1; cubes: MaskFeat (arXiv 2112.09133), section 3.
    """

    kind: Kind
    ratio: float
    largest_block: int | None = None

    def draw(self, grid: Grid, rng: np.random.Generator) -> NDArray[np.int64]:
        """Numbers (M,) of the hidden cells of one clip, row by row, ascending.

        Args:
            grid: (T, H, W) in cells.
            rng: the only source of randomness.
        """
        T, H, W = grid
        hidden_TX = np.zeros((T, H * W), dtype=bool)
        if self.kind == "patches":
            hidden_TX.flat[self._chosen(T * H * W, rng)] = True
        elif self.kind == "patches of each frame":
            for row in hidden_TX:
                row[self._chosen(H * W, rng)] = True
        elif self.kind == "tubes":
            hidden_TX[:, self._chosen(H * W, rng)] = True
        elif self.kind == "frames":
            hidden_TX[self._chosen(T, rng)] = True
        elif self.kind == "blocks" or T == 1:
            number = num_hidden(H * W, self.ratio)
            sizes = (number // 5, min(number, self.largest_block or number))
            hidden_TX[:] = hide_blocks((1, H, W), number, sizes, rng).reshape(1, -1)
        else:
            sizes = (H * W // 5, H * W)
            hidden_TX = hide_blocks(grid, num_hidden(T * H * W, self.ratio), sizes, rng)
        return np.flatnonzero(hidden_TX)

    def draw_batch(self, grid: Grid, rngs: list[np.random.Generator]) -> Tensor:
        """Hidden cells (B, M), one clip per generator; see `draw`."""
        return torch.from_numpy(np.stack([self.draw(grid, rng) for rng in rngs]))

    def _chosen(self, number: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.permutation(number)[: num_hidden(number, self.ratio)]


def hide_blocks(grid: Grid, number: int, sizes: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """(T, H, W), true for exactly `number` cells in overlapping boxes.

    Boxes are added while one fits into what is left to hide; single cells fill the rest.

    Args:
        grid: (T, H, W) in cells.
        number: of cells to hide.
        sizes: least and most cells of one frame of a box.
        rng: the only source of randomness.
    """
    T, H, W = grid
    hidden_THW = np.zeros(grid, dtype=bool)
    left, tries = number, 0
    while left and tries < _TRIES:
        tries += 1
        # As published: blocks of an image grow smaller with what is left to hide.
        area = rng.uniform(*(sizes if T > 1 else sorted((sizes[0], min(sizes[1], left)))))
        aspect = math.exp(rng.uniform(_LOG_ASPECT, -_LOG_ASPECT))
        h, w, t = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect)), int(rng.integers(1, T + 1))
        if not (0 < h < H and 0 < w < W):
            continue
        begin = [int(rng.integers(0, size - side + 1)) for size, side in zip(grid, (t, h, w), strict=True)]
        box = tuple(slice(start, start + side) for start, side in zip(begin, (t, h, w), strict=True))
        new = hidden_THW[box].size - int(hidden_THW[box].sum())
        if 0 < new <= left:
            hidden_THW[box] = True
            left, tries = left - new, 0
    hidden_THW.flat[rng.permutation(np.flatnonzero(~hidden_THW))[:left]] = True
    return hidden_THW


def masks_from_config(cfg: Config) -> MaskSampler:
    """The masks of the sections MASK and AUG."""
    mask, aug = cfg.MASK, cfg.AUG
    kind: Kind
    if mask.MAE_RND_MASK:
        kind = "tubes" if aug.MASK_TUBE else "patches of each frame" if mask.PER_FRAME_MASKING else "patches"
    else:
        kind = "blocks" if aug.MASK_TUBE else "frames" if aug.MASK_FRAMES else "cubes"
    return MaskSampler(kind, aug.MASK_RATIO, aug.MAX_MASK_PATCHES_PER_BLOCK)
