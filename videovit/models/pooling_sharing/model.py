"""PSViT: a vision transformer that pools its tokens between stages and reuses attention maps inside them.

B images, C channels, H W pixels (T = 1), N tokens, X class tokens, K classes.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videovit.config import Config
from videovit.errors import UserError
from videovit.models.contract import AttentionModel, AttentionTokens, Features, Grid, centers
from videovit.models.layers.heads import ClassifierHead
from videovit.models.layers.maps import attention_maps
from videovit.models.layers.position import resize_pos_embed
from videovit.models.layers.transformer import drop_path_rates, init_linear
from videovit.models.pooling_sharing.blocks import SharingBlock, Sides, TokenPool
from videovit.models.pooling_sharing.plan import (
    BASIC,
    PoolingSharingShape,
    parse_plan,
)

Layers = Sequence[tuple[str, nn.Module]]
"""The layers of a stage in order: kind, `B` or `S`, and block."""

_PATCHES_8: dict[str, Any] = {"patch_size": 8}
_GRID: dict[str, Any] = {"patch_size": 8, "pooling": "2d", "cls": "none"}


def _preset(dims: tuple[int, ...], heads: tuple[int, ...], plan: str, **choices: Any) -> dict[str, Any]:
    return {"shape": PoolingSharingShape(dims, heads, **choices), "plan": plan}


POOLING_SHARING_PRESETS: dict[str, dict[str, Any]] = {
    "psvit_1d_tiny": _preset((192, 288, 384), (3, 6, 6), "BSBB|BSBBB|BSSBS"),
    "psvit_1d_small": _preset((144, 256, 384), (3, 4, 6), "BSBB|BSSSS|BSBBB", **_PATCHES_8),
    "psvit_1d_base": _preset((288, 512, 768), (6, 8, 12), "BBBS|BBBB|BBBBBB", **_PATCHES_8),
    "psvit_tiny_8": _preset((64, 144, 192), (1, 3, 3), "BSBB|BBBB|BBBBB", **_PATCHES_8),
    "psvit_small_16": _preset((288, 512, 768), (6, 8, 12), "BSB|BSBBB|BSBSB"),
    "psvit_2d_tiny": _preset((96, 192, 384), (3, 6, 12), "BB|BSBB|BBSBB", **_GRID),
    "psvit_2d_small": _preset((192, 384, 768), (3, 6, 12), "BSBS|BSBB|BB", **_GRID),
    "psvit_2d_base": _preset((288, 576, 1152), (6, 9, 18), "BSBSBS|BSBSBS|BSBBSB", **_GRID),
}
"""Arguments of `PSViT` that give the published counts; all are reconstructions, see `docs/pooling_sharing.md`."""


class PoolingSharingModel(AttentionModel):
    """A PSViT except its layers: from pixels to tokens, from stage to stage, from tokens to logits.

    Args:
        shape: widths, heads, sizes and what the paper leaves open.
        dropout: of the first tokens.
        head_dropout: before the classifier.
        act_checkpoint: recompute each layer in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        shape: PoolingSharingShape,
        *,
        dropout: float = 0.0,
        head_dropout: float = 0.0,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.dropout, self.act_checkpoint = shape, dropout, act_checkpoint
        self.in_channels = shape.in_channels
        side = shape.image_size // shape.patch_size
        self.grid = (1, side, side)
        d = shape.dims
        self.patch_embed = nn.Conv2d(shape.in_channels, d[0], shape.patch_size, shape.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d[0])) if shape.num_cls else None
        stages = range(len(d) if shape.pos_embed == "all" else 1)
        tables = (nn.Parameter(torch.zeros(1, shape.num_tokens(stage), d[stage])) for stage in stages)
        self.pos_embed = nn.ParameterList(tables)
        self.pools = nn.ModuleList(TokenPool(shape, stage) for stage in range(1, len(d)))
        self.norm = nn.LayerNorm(d[-1], eps=1e-6)
        self.head = ClassifierHead(d[-1], shape.num_classes, dropout=head_dropout)

    @abstractmethod
    def path_layers(self) -> list[Layers]:
        """For each stage the layers that a forward pass runs, in order."""

    @abstractmethod
    def cells(self) -> list[list[list[nn.Module]]]:
        """For each stage and place in it the blocks that can stand there."""

    def init_weights(self) -> None:
        """As DeiT: truncated normal (0.02) for linear layers and tables, zero biases; convolutions as PyTorch."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module)
        for table in (self.cls_token, *self.pos_embed):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def layers(self) -> list[list[nn.Module]]:
        """One layer per cell; a pooling belongs to the first cell of the stage that it leads to."""
        layers: list[list[nn.Module]] = []
        for stage, cells in enumerate(self.cells()):
            for i, blocks in enumerate(cells):
                pool = [self.pools[stage - 1]] if stage and i == 0 else []
                layers.append([*pool, *blocks])
        return layers

    def head_modules(self) -> list[nn.Module]:
        """The last norm and the classifier."""
        return [self.norm, self.head]

    def no_weight_decay(self) -> frozenset[str]:
        """The class token and the position tables of all stages."""
        tables = {f"pos_embed.{stage}" for stage in range(len(self.pos_embed))}
        return frozenset(tables if self.cls_token is None else {"cls_token", *tables})

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """See `AttentionModel.attention_maps`; a sharing layer repeats the map that it was given."""
        return attention_maps(self, x)

    def attention_tokens(self, x: Tensor) -> list[AttentionTokens]:
        """Layers have the tokens of their stage; see `AttentionModel.attention_tokens`.

        With 1d pooling a token is at the patch in the middle of the patches that it was pooled from. A joint class
        token is pooled with its neighbors; the first token, which holds it, counts as the class token of every stage.
        """
        size = self.as_clips(x).shape[-2:]
        rows, columns = (side // self.shape.patch_size for side in size)
        layers: list[AttentionTokens] = []
        for stage, blocks in enumerate(self.path_layers()):
            where = self._token_centers(stage, rows, columns)
            layers += [AttentionTokens(self.shape.num_cls, where, where)] * len(blocks)
        return layers

    def _token_centers(self, stage: int, rows: int, columns: int) -> Tensor:
        """Positions of a stage's tokens without class token, (1, N, 3), for an image of rows x columns patches."""
        pooled, pools = self.shape.pooled, range(stage)
        if self.shape.pooling == "2d":
            for _ in pools:
                rows, columns = pooled(rows), pooled(columns)
            return centers((1, rows, columns))
        joint = 1 if self.shape.cls == "joint" else 0
        number = joint + rows * columns
        # Where the windows of the first and the second token begin, and how long they are, in the first sequence.
        first, stride = 0.0, 1
        for _ in pools:
            number = pooled(number)
            first += stride * (0.0 if self.shape.pool_kernel % 2 else (self.shape.pool_kernel - 1) / 2)
            stride *= 2
        places = (first + stride * torch.arange(joint, number)).long() - joint
        return centers((1, rows, columns))[:, places]

    def _logits(self, x_BCTHW: Tensor) -> Tensor:
        x_BNC, _ = self._encode(x_BCTHW)
        # The mean is over all tokens, class tokens included.
        logits: Tensor = self.head(x_BNC[:, 0] if self.shape.head_input == "cls" else x_BNC.mean(dim=1))
        return logits

    def _features(self, x_BCTHW: Tensor) -> Features:
        """A joint class token was pooled with the others: it cannot be separated and counts as one of the grid."""
        x_BNC, sides = self._encode(x_BCTHW)
        num_apart = self._num_apart
        return Features(x_BNC[:, num_apart:], (1, *sides), x_BNC[:, :num_apart] if num_apart else None)

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        x_BNC, sides = self._embed(x_BCTHW)
        maps = []
        for stage, layers in enumerate(self.path_layers()):
            x_BNC, sides = self._run_stage(stage, layers, x_BNC, sides)
            tokens_BCN = x_BNC[:, self._num_apart :].transpose(1, 2)
            maps.append(torch.unflatten(tokens_BCN, -1, (1, *sides)))
        return maps

    @property
    def _num_apart(self) -> int:
        """Class tokens that are not part of the grid."""
        return 1 if self.shape.cls == "apart" else 0

    def _encode(self, x_BCTHW: Tensor) -> tuple[Tensor, Sides]:
        """Tokens (B, X + N, C) of the last layer, normalized, a class token that is kept apart first; sides of N."""
        x_BNC, sides = self._embed(x_BCTHW)
        for stage, layers in enumerate(self.path_layers()):
            x_BNC, sides = self._run_stage(stage, layers, x_BNC, sides)
        return self.norm(x_BNC), sides

    def _embed(self, x_BCTHW: Tensor) -> tuple[Tensor, Sides]:
        """First tokens, and rows and columns of those that the first pooling reduces.

        Raises:
            UserError: the clips have more than one frame.
        """
        if x_BCTHW.shape[2] != 1:
            raise UserError(f"PSViT reads images: expected clips of 1 frame, found {x_BCTHW.shape[2]}")
        x_BCHW = self.patch_embed(x_BCTHW.squeeze(2))
        rows, columns = x_BCHW.shape[-2:]
        x_BNC = x_BCHW.flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            cls_B1C = self.cls_token.to(x_BNC.dtype).expand(x_BNC.shape[0], -1, -1)
            x_BNC = torch.cat([cls_B1C, x_BNC], dim=1)
        joint = 1 if self.shape.cls == "joint" else 0
        sides = (rows, columns) if self.shape.pooling == "2d" else (1, rows * columns + joint)
        x_BNC = x_BNC + self._positions(0, (rows, columns))
        return nn.functional.dropout(x_BNC, self.dropout, self.embedding_trains and self.dropout > 0), sides

    def _run_stage(self, stage: int, layers: Layers, x_BNC: Tensor, sides: Sides) -> tuple[Tensor, Sides]:
        """Tokens and sides at the end of a stage; both as the stage before left them."""
        if stage:
            x_BNC, sides = self.pools[stage - 1](x_BNC, sides)
            if self.shape.pos_embed == "all":
                x_BNC = x_BNC + self._positions(stage, sides)
        map_BMNN: Tensor | None = None
        for i, (kind, block) in enumerate(layers):
            given = None if kind == BASIC else map_BMNN
            # Only a map that the next layer shares is worth computing as a whole.
            is_shared = any(kind != BASIC for kind, _ in layers[i + 1 : i + 2])
            x_BNC, map_BMNN = self._run(block, x_BNC, given, is_shared)
        return x_BNC, sides

    def _positions(self, stage: int, sides: Sides) -> Tensor:
        """Position table of a stage, stretched unless the image has the size that it was made for."""
        table: Tensor = self.pos_embed[stage]
        num_cls, made_for = self.table_grid(stage)
        if made_for == (1, *sides):
            return table
        stretched = resize_pos_embed(table[:, num_cls:], made_for, (1, *sides))
        return torch.cat([table[:, :num_cls], stretched], dim=1)

    def table_grid(self, stage: int) -> tuple[int, Grid]:
        """Rows of class tokens at the start of a stage's position table, and the grid of the others."""
        num_cls = self.shape.num_cls if stage == 0 or self.shape.cls == "apart" else 0
        rows = self.pos_embed[stage].shape[1] - num_cls
        side = math.isqrt(rows) if stage == 0 or self.shape.pooling == "2d" else 0
        return num_cls, (1, side, side) if side else (1, 1, rows)

    def _run(
        self, block: nn.Module, x_BNC: Tensor, map_BMNN: Tensor | None, keep_map: bool
    ) -> tuple[Tensor, Tensor | None]:
        result: tuple[Tensor, Tensor | None]
        if self.act_checkpoint and self.training and torch.is_grad_enabled():
            result = checkpoint(block, x_BNC, map_BMNN, keep_map, use_reentrant=False)
        else:
            result = block(x_BNC, map_BMNN, keep_map)
        return result


class PSViT(PoolingSharingModel):
    """A PSViT with fixed layers.

    Args:
        shape: widths, heads, sizes and what the paper leaves open.
        plan: layers, such as `BSBB|BSBBB|BSSBS`.
        dropout: of the first tokens, and inside attention and MLP.
        drop_path: rate of the last layer; grows linearly from 0.
        head_dropout: before the classifier.
        act_checkpoint: recompute each layer in the backward pass instead of keeping its activations.

    Raises:
        UserError: not a legal plan of this shape.

    Source: PSViT (arXiv 2108.03428). Plans and what `PoolingSharingShape` marks are reconstructions.
    """

    def __init__(
        self,
        *,
        shape: PoolingSharingShape,
        plan: str,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__(shape, dropout=dropout, head_dropout=head_dropout, act_checkpoint=act_checkpoint)
        self.plan = parse_plan(plan, len(shape.dims))
        rates = drop_path_rates(drop_path, sum(map(len, self.plan)))
        self.blocks = nn.ModuleList()
        for stage, kinds in enumerate(self.plan):
            for kind in kinds:
                rate = rates[len(self.blocks)]
                self.blocks.append(SharingBlock.of_stage(shape, stage, kind, dropout=dropout, drop_path=rate))
        self.init_weights()

    def path_layers(self) -> list[Layers]:
        """All layers, as the plan orders them."""
        blocks = iter(self.blocks)
        return [[(kind, next(blocks)) for kind in kinds] for kinds in self.plan]

    def cells(self) -> list[list[list[nn.Module]]]:
        """One block per place."""
        return [[[block] for _, block in layers] for layers in self.path_layers()]


def shape_from_config(cfg: Config) -> PoolingSharingShape:
    """The shape in the sections DATA, PSVIT and MODEL.

    Raises:
        UserError: widths, heads and sizes do not fit together, or DATA.NUM_FRAMES is not 1.
    """
    if cfg.DATA.NUM_FRAMES != 1:
        raise UserError(f"DATA.NUM_FRAMES is {cfg.DATA.NUM_FRAMES}: PSViT reads images, expected 1")
    p = cfg.PSVIT
    try:
        return PoolingSharingShape(
            dims=p.DIMS,
            heads=p.HEADS,
            image_size=cfg.DATA.TRAIN_CROP_SIZE,
            patch_size=p.PATCH_SIZE,
            in_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
            num_classes=cfg.MODEL.NUM_CLASSES,
            pooling=p.POOLING,
            pool_kernel=p.POOL_KERNEL,
            pool_conv=p.POOL_CONV,
            cls=p.CLS,
            head_input=p.HEAD_INPUT,
            pos_embed=p.POS_EMBED,
            shared_heads=p.SHARED_HEADS,
            mlp_ratio=p.MLP_RATIO,
            qkv_bias=p.QKV_BIAS,
        )
    except UserError as error:
        raise UserError(error, where="PSVIT") from error


def pooling_sharing_from_config(cfg: Config) -> PSViT:
    """`PSViT` from the sections DATA, PSVIT and MODEL of a config.

    Raises:
        UserError: as `shape_from_config`; or PSVIT.PLAN is not a legal plan.
    """
    return PSViT(
        shape=shape_from_config(cfg),
        plan=cfg.PSVIT.PLAN,
        dropout=cfg.PSVIT.DROPOUT_RATE,
        drop_path=cfg.PSVIT.DROPPATH_RATE,
        head_dropout=cfg.MODEL.DROPOUT_RATE,
        act_checkpoint=cfg.MODEL.ACT_CHECKPOINT,
    )
