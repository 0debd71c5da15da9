"""Masked pre-training: a part of each clip is hidden from the model, which predicts what is there. No labels are read.

B clips, C channels, T H W pixels, M hidden cells.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from videovit.config import Config
from videovit.data.records import Batch
from videovit.engine.objectives.objective import Example, Losses, Objective, StepKey
from videovit.errors import UserError
from videovit.models.contract import Grid, LayeredModel
from videovit.models.masked.masks import MaskSampler, masks_from_config
from videovit.models.masked.model import MaskedModel, Reconstruction


@dataclass(frozen=True)
class MaskedExample(Example):
    """Clips and what is hidden of them; `targets` has one entry per clip, which says nothing.

    Attributes:
        hidden_BM: numbers of the hidden cells.
    """

    hidden_BM: Tensor | None = None

    def described(self) -> object:
        assert self.hidden_BM is not None
        return [zlib.crc32(hidden_M.cpu().numpy().tobytes()) for hidden_M in self.hidden_BM]

    def split(self, number: int) -> list[Self]:
        assert self.hidden_BM is not None
        pieces = super().split(number)
        hidden = self.hidden_BM.tensor_split(number)  # as the clips
        return [replace(piece, hidden_BM=hidden_BM) for piece, hidden_BM in zip(pieces, hidden, strict=False)]


class MaskedModeling(Objective):
    """The mean over clips of the squared error of what is hidden.

    Args:
        masks: draws what is hidden.
        grid_of: (T, H, W) in pixels -> the grid of cells of the model, see `MaskedModel.mask_grid`.
    """

    def __init__(self, masks: MaskSampler, grid_of: Callable[[Sequence[int]], Grid]) -> None:
        self.masks, self._grid_of = masks, grid_of

    def example(self, x_BCTHW: Tensor, batch: Batch) -> Example:
        return MaskedExample(x_BCTHW, torch.zeros(len(x_BCTHW), dtype=torch.int64))

    def prepare(self, example: Example, key: StepKey) -> Example:
        x_BCTHW = example.x_BCTHW
        hidden_BM = self.masks.draw_batch(self._grid_of(x_BCTHW.shape[2:]), [key.rng()] * len(x_BCTHW))
        return MaskedExample(x_BCTHW, example.targets, hidden_BM=hidden_BM.to(x_BCTHW.device))

    def __call__(self, model: nn.Module, example: Example) -> Losses:
        assert isinstance(example, MaskedExample)
        reconstruction: Reconstruction = model(example.x_BCTHW, example.hidden_BM)
        total = reconstruction.losses().mean()
        return Losses(total, {"masked": total})


def build_masked_modeling(cfg: Config, model: LayeredModel) -> MaskedModeling:
    """Masked pre-training of a model, with the masks of the sections MASK and AUG.

    Raises:
        UserError: the model is not one for masked pre-training.
    """
    if not isinstance(model, MaskedModel):
        raise UserError("trains a model of MASK.ENABLE", where="TRAIN.OBJECTIVE", found="masked", expected="auto")
    return MaskedModeling(masks_from_config(cfg), model.mask_grid)
