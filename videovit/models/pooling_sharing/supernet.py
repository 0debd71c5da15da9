"""The PSViT supernet: every cell has a basic and a sharing layer, and a path takes one of them or none.

One set of weights serves all paths. Training draws a path per step; the search compares paths with the weights that
they share. A layer on a path computes what it would compute in a `PSViT` of that plan.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from videovit.config import Config
from videovit.errors import UserError
from videovit.models.layers.transformer import drop_path_rates
from videovit.models.pooling_sharing.blocks import SharingBlock
from videovit.models.pooling_sharing.model import Layers, PoolingSharingModel, shape_from_config
from videovit.models.pooling_sharing.plan import (
    BASIC,
    IDENTITY,
    SHARING,
    PoolingSharingShape,
    draw_plan,
    pad_plan,
    parse_plan,
)


class PSViTSupernet(PoolingSharingModel):
    """All PSViTs of a shape with at most `num_cells` layers per stage.

    Args:
        shape: widths, heads, sizes.
        plan: the path taken until another one is set or, in training, drawn.
        num_cells: cells of each stage.
        sharing_owns: sharing cells have their own norms, values, projection and MLP; else they use those of the basic
            layer of the same cell, which halves the supernet.
        dropout, head_dropout, act_checkpoint: as in `PSViT`.
        drop_path: rate of the last cell; grows linearly from 0.

    Raises:
        UserError: not a legal plan of this supernet; or `shape.shared_heads` without `sharing_owns`.

    Source: the search space of PSViT (arXiv 2108.03428). Its training is not described there; single path, uniformly
        drawn (SPOS, arXiv 1904.00420), is a reconstruction.
    """

    def __init__(
        self,
        *,
        shape: PoolingSharingShape,
        plan: str,
        num_cells: int = 6,
        sharing_owns: bool = True,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__(shape, dropout=dropout, head_dropout=head_dropout, act_checkpoint=act_checkpoint)
        if shape.shared_heads and not sharing_owns:
            raise UserError("shared_heads: head masks need sharing cells with weights of their own (sharing_owns)")
        self.num_cells, self.sharing_owns = num_cells, sharing_owns
        self.set_plan(plan)
        stages = range(len(shape.dims))
        rates = drop_path_rates(drop_path, len(shape.dims) * num_cells)

        def row(stage: int, kind: str) -> nn.ModuleList:
            of_stage = rates[stage * num_cells : (stage + 1) * num_cells]
            return nn.ModuleList(
                SharingBlock.of_stage(shape, stage, kind, dropout=dropout, drop_path=rate) for rate in of_stage
            )

        self.basic = nn.ModuleList(row(stage, BASIC) for stage in stages)
        self.sharing = nn.ModuleList(row(stage, SHARING) for stage in stages) if sharing_owns else None
        self.init_weights()

    def set_plan(self, plan: str) -> None:
        """Take this path, in training until the next one is drawn.

        Args:
            plan: cells; or layers, which then fill the first cells of each stage.

        Raises:
            UserError: not a legal plan of this supernet.
        """
        num_stages = len(self.shape.dims)
        parse_plan(plan, num_stages)
        stages = plan.replace(" ", "").split("|")
        is_cells = all(len(stage) == self.num_cells for stage in stages)
        self.plan = "|".join(stages) if is_cells else pad_plan(plan, num_stages, self.num_cells)
        self._drawn: str | None = None

    @property
    def path(self) -> str:
        """The cells that a forward pass runs: the plan, or in training the path that was drawn."""
        return self._drawn if self.training and self._drawn else self.plan

    def draw_path(self, seed: int, epoch: int, step: int) -> None:
        """Train a random path; all are equally likely.

        It is a function of seed, epoch and step alone, hence the same on every rank, and PyTorch's generators stay
        untouched.
        """
        rng = np.random.default_rng(np.random.SeedSequence((seed, epoch, step), spawn_key=(1,)))
        self._drawn = draw_plan(rng, len(self.shape.dims), self.num_cells)

    def path_layers(self) -> list[Layers]:
        """The layers of `path`."""
        return [
            [(kind, self._block(stage, i, kind)) for i, kind in enumerate(cells) if kind != IDENTITY]
            for stage, cells in enumerate(self.path.split("|"))
        ]

    def cells(self) -> list[list[list[nn.Module]]]:
        """Basic and sharing layer of each cell; one block if they share their weights."""
        kinds = BASIC if self.sharing is None else BASIC + SHARING
        return [
            [[self._block(stage, i, kind) for kind in kinds] for i in range(self.num_cells)]
            for stage in range(len(self.shape.dims))
        ]

    def _block(self, stage: int, cell: int, kind: str) -> nn.Module:
        row = (self.basic if kind == BASIC or self.sharing is None else self.sharing)[stage]
        assert isinstance(row, nn.ModuleList)
        return row[cell]


def pooling_sharing_supernet_from_config(cfg: Config) -> PSViTSupernet:
    """`PSViTSupernet` from the sections DATA, PSVIT, SUPERNET and MODEL of a config.

    PSVIT.PLAN is the path of its evaluation.

    Raises:
        UserError: as `shape_from_config`; or PSVIT.PLAN is not a legal plan.
    """
    return PSViTSupernet(
        shape=shape_from_config(cfg),
        plan=cfg.PSVIT.PLAN,
        num_cells=cfg.SUPERNET.NUM_CELLS,
        sharing_owns=cfg.SUPERNET.SHARING_OWNS,
        dropout=cfg.PSVIT.DROPOUT_RATE,
        drop_path=cfg.PSVIT.DROPPATH_RATE,
        head_dropout=cfg.MODEL.DROPOUT_RATE,
        act_checkpoint=cfg.MODEL.ACT_CHECKPOINT,
    )
