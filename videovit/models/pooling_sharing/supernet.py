"""The PSViT supernet: in every cell a basic and a sharing layer, of which a path takes one or none.

One set of weights serves all paths; training draws a path per step, the search compares paths with the weights they
share. A layer along a path computes what it would in a `PSViT` of that plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from videovit.models.layers.transformer import drop_path_rates
from videovit.models.pooling_sharing.model import Layers, PsvitBlock, PsvitTrunk, shape_from_config
from videovit.models.pooling_sharing.plan import BASIC, IDENTITY, PlanError, PsvitShape, draw_plan, pad_plan, parse_plan


class PSViTSupernet(PsvitTrunk):
    """All PSViTs of a shape with at most `num_cells` layers a stage.

    Args:
        shape: widths, heads, sizes.
        plan: the path taken until another is set, or in training drawn.
        num_cells: cells of every stage.
        sharing_owns: sharing cells have norms, values, projection and MLP of their own; else they use those of the
            basic layer of the same cell, which halves the supernet.
        dropout, head_dropout, act_checkpoint: as in `PSViT`.
        drop_path: rate of the last cell; grows linearly from 0.

    Source: the search space of PSViT (arXiv 2108.03428); its training is not described there, this is single path,
        uniformly drawn (SPOS, arXiv 1904.00420), a reconstruction.
    """

    def __init__(
        self,
        *,
        shape: PsvitShape,
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
            raise PlanError("shared_heads: head masks need sharing cells with weights of their own (sharing_owns)")
        self.num_cells, self.sharing_owns = num_cells, sharing_owns
        self.set_plan(plan)
        rates = drop_path_rates(drop_path, len(shape.dims) * num_cells)

        def cells(own: tuple[int, ...] | None, stage: int) -> nn.ModuleList:
            blocks = (
                PsvitBlock(
                    shape.dims[stage],
                    shape.heads[stage],
                    own_heads=own,
                    mlp_ratio=shape.mlp_ratio,
                    qkv_bias=shape.qkv_bias,
                    dropout=dropout,
                    drop_path=rates[stage * num_cells + i],
                )
                for i in range(num_cells)
            )
            return nn.ModuleList(blocks)

        stages = range(len(shape.dims))
        self.basic = nn.ModuleList(cells(None, s) for s in stages)
        self.sharing = nn.ModuleList(cells(shape.own_heads(s), s) for s in stages) if sharing_owns else None
        self.init_weights()

    def set_plan(self, plan: str) -> None:
        """Take this path, in training until the next is drawn: cells, or layers, which fill the first cells of a stage.

        Raises:
            PlanError: not a legal plan of this supernet.
        """
        num_stages = len(self.shape.dims)
        parse_plan(plan, num_stages)
        stages = plan.replace(" ", "").split("|")
        fits = all(len(stage) == self.num_cells for stage in stages)
        self.plan = "|".join(stages) if fits else pad_plan(plan, num_stages, self.num_cells)
        self._drawn: str | None = None

    @property
    def path(self) -> str:
        """The cells that are run now: the plan, in training the path that was drawn."""
        return self._drawn if self.training and self._drawn else self.plan

    def draw_path(self, seed: int, epoch: int, step: int) -> None:
        """Train a path that depends on seed, epoch and step alone, hence the same on every rank; all equally likely.

        Nothing is drawn from PyTorch's generators.
        """
        rng = np.random.default_rng(np.random.SeedSequence((seed, epoch, step), spawn_key=(1,)))
        self._drawn = draw_plan(rng, len(self.shape.dims), self.num_cells)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, C, 1, H, W), along the path."""
        return self.classify(self.forward_features(x_BCTHW)[0])

    def forward_features(self, x_BCTHW: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Tokens of the last layer of the path, normalised, and their grid, as `PSViT.forward_features`."""
        return self.encode(x_BCTHW, self._stages())

    def _stages(self) -> list[Layers]:
        return [
            [(kind, self._block(stage, i, kind)) for i, kind in enumerate(cells) if kind != IDENTITY]
            for stage, cells in enumerate(self.path.split("|"))
        ]

    def _block(self, stage: int, cell: int, kind: str) -> nn.Module:
        rows = self.basic if kind == BASIC or self.sharing is None else self.sharing
        block: nn.Module = rows[stage][cell]
        return block

    def weights_along_path(self) -> dict[str, Tensor]:
        """The weights of the path by the names of a `PSViT` of the same plan, sharing memory with these."""
        layers = [(kind, block) for stage in self._stages() for kind, block in stage]
        state = {
            name: tensor.detach()
            for name, tensor in self.state_dict().items()
            if not name.startswith(("basic.", "sharing."))
        }
        for number, (kind, block) in enumerate(layers):
            weights: Mapping[str, Tensor] = block.state_dict()
            for name, tensor in weights.items():
                if kind == BASIC or self.sharing is not None or ".qk." not in name:
                    state[f"blocks.{number}.{name}"] = tensor.detach()
        return state


def psvit_supernet_from_config(cfg: Any) -> PSViTSupernet:
    """`PSViTSupernet` from the sections DATA, PSVIT, SUPERNET and MODEL; PSVIT.PLAN is the path of its evaluation."""
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
