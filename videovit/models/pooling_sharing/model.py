"""PSViT: a vision transformer that pools its tokens between stages and reuses attention maps inside them.

Layers are those of ViT. A sharing layer has no query and key projections: it applies the map of the layer before it,
head by head, to values of its own.

B images, C channels, H W pixels (T = 1), N tokens, M heads, D head width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videovit.errors import UserError
from videovit.models.cpu.derived import forget_derived
from videovit.models.layers.attend import apply_map, attend, attention_map
from videovit.models.layers.basic import DropPath, Linear, Mlp, add_branch, matmul_dtype
from videovit.models.layers.heads import ClassifierHead
from videovit.models.layers.position import resize_pos_embed
from videovit.models.layers.transformer import drop_path_rates
from videovit.models.pooling_sharing.plan import BASIC, PlanError, PsvitShape, parse_plan

Layers = Sequence[tuple[str, nn.Module]]
"""The layers of a stage in order: kind, `B` or `S`, and block."""

_PATCHES_8: dict[str, Any] = {"patch_size": 8}
_GRID: dict[str, Any] = {"patch_size": 8, "pooling": "2d", "cls": "none"}
PSVIT_PRESETS: dict[str, dict[str, Any]] = {
    "psvit_1d_tiny": {"shape": PsvitShape((192, 288, 384), (3, 6, 6)), "plan": "BSBB|BSBBB|BSSBS"},
    "psvit_1d_small": {"shape": PsvitShape((144, 256, 384), (3, 4, 6), **_PATCHES_8), "plan": "BSBB|BSSSS|BSBBB"},
    "psvit_1d_base": {"shape": PsvitShape((288, 512, 768), (6, 8, 12), **_PATCHES_8), "plan": "BBBS|BBBB|BBBBBB"},
    "psvit_tiny_8": {"shape": PsvitShape((64, 144, 192), (1, 3, 3), **_PATCHES_8), "plan": "BSBB|BBBB|BBBBB"},
    "psvit_small_16": {"shape": PsvitShape((288, 512, 768), (6, 8, 12)), "plan": "BSB|BSBBB|BSBSB"},
    "psvit_2d_tiny": {"shape": PsvitShape((96, 192, 384), (3, 6, 12), **_GRID), "plan": "BB|BSBB|BBSBB"},
    "psvit_2d_small": {"shape": PsvitShape((192, 384, 768), (3, 6, 12), **_GRID), "plan": "BSBS|BSBB|BB"},
    "psvit_2d_base": {"shape": PsvitShape((288, 576, 1152), (6, 9, 18), **_GRID), "plan": "BSBSBS|BSBSBS|BSBBSB"},
}
"""Arguments of `PSViT` that come to the published counts: all reconstructions, see `docs/psvit.md`."""


class ImageOnlyError(UserError):
    """PSViT was given clips of more than one frame."""


class SharingAttention(nn.Module):
    """Attention with its own map, with the map of another layer, or with some heads of either.

    Args:
        dim: channels of a token.
        num_heads: M.
        own_heads: heads that compute their own map; None: all (a basic layer).
        qkv_bias: biases of the projections into queries, keys and values.
        dropout: after the output projection.

    Source: PSViT (arXiv 2108.03428), section on attention sharing.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        own_heads: tuple[int, ...] | None = None,
        qkv_bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.width = num_heads, dim // num_heads
        self.scale = self.width**-0.5
        self.own_heads = own_heads
        num_own = num_heads if own_heads is None else len(own_heads)
        self.qk = Linear(dim, 2 * num_own * self.width, bias=qkv_bias) if num_own else None
        self.v = Linear(dim, dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.dropout = dropout

    def forward(
        self, x_BNC: Tensor, map_BMNN: Tensor | None = None, keep_map: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            x_BNC: tokens, normalised.
            map_BMNN: map of the layer before, after its softmax; None: this layer's own (basic layers only). A basic
                layer that is handed a map uses it for all heads.
            keep_map: return the map that was used, also where computing without one would be quicker.

        Returns:
            (B, N, C), and the map (B, M, N, N) where one was handed in or is kept, else None.
        """
        x_BNC = x_BNC.to(matmul_dtype(x_BNC))
        v_BNMD = self.v(x_BNC).unflatten(-1, (self.num_heads, self.width))
        if map_BMNN is None and not keep_map:
            q_BNMD, k_BNMD = self._queries_and_keys(x_BNC)
            out_BNMD = attend(q_BNMD, k_BNMD, v_BNMD, self.scale)
        else:
            if map_BMNN is None:
                map_BMNN = self._map(x_BNC)
            elif self.own_heads:
                own = torch.tensor(self.own_heads, device=x_BNC.device)
                map_BMNN = map_BMNN.index_copy(1, own, self._map(x_BNC).to(map_BMNN.dtype))
            out_BNMD = apply_map(map_BMNN, v_BNMD)
        out = self.proj(out_BNMD.flatten(2))
        return nn.functional.dropout(out, self.dropout, self.training and self.dropout > 0), map_BMNN

    def _queries_and_keys(self, x_BNC: Tensor) -> tuple[Tensor, ...]:
        if self.qk is None:
            raise ValueError("a sharing layer has no map of its own: hand it one")
        qk: Tensor = self.qk(x_BNC)
        return qk.unflatten(-1, (2, -1, self.width)).unbind(2)

    def _map(self, x_BNC: Tensor) -> Tensor:
        q_BNMD, k_BNMD = self._queries_and_keys(x_BNC)
        return attention_map(q_BNMD, k_BNMD, self.scale)


class PsvitBlock(nn.Module):
    """Pre-norm attention and MLP, each with a shortcut.

    Args:
        dim: channels of a token.
        num_heads: attention heads.
        mlp_ratio: hidden over token channels.
        dropout: inside attention and MLP.
        drop_path: probability of leaving a branch out.
        attention: further arguments of `SharingAttention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SharingAttention(dim, num_heads, dropout=dropout, **attention)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dim, dropout=dropout)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x_BNC: Tensor, map_BMNN: Tensor | None = None, keep_map: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, N, C) and the attention map that was used; arguments as in `SharingAttention.forward`."""
        branch, map_BMNN = self.attn(self.norm1(x_BNC), map_BMNN, keep_map)
        x_BNC = add_branch(x_BNC, branch, self.drop_path.draw(x_BNC))
        return add_branch(x_BNC, self.mlp(self.norm2(x_BNC)), self.drop_path.draw(x_BNC)), map_BMNN


class TokenPool(nn.Module):
    """From the tokens of one stage to fewer, wider ones of the next: a convolution of stride 2.

    Args:
        shape: of the model.
        stage: the stage that it leads to, 1 or more.
    """

    def __init__(self, shape: PsvitShape, stage: int) -> None:
        super().__init__()
        before, after, kernel = shape.dims[stage - 1], shape.dims[stage], shape.pool_kernel
        self.flat, self.apart = shape.pooling == "1d", shape.cls == "apart"
        convolution = nn.Conv1d if self.flat else nn.Conv2d
        padding = kernel // 2 if kernel % 2 else 0
        self.conv: nn.Module
        if shape.pool_conv == "dense":
            self.conv = convolution(before, after, kernel, stride=2, padding=padding)
        else:
            depthwise = convolution(before, before, kernel, stride=2, padding=padding, groups=before)
            self.conv = nn.Sequential(depthwise, convolution(before, after, 1))
        self.cls = Linear(before, after) if self.apart else None

    def forward(self, x_BNC: Tensor, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Pool.

        Args:
            x_BNC: tokens, a class token that is kept apart in front.
            grid: rows and columns of the others.

        Returns:
            Tokens in the same order, and their rows and columns.
        """
        cls_B1C = None if self.cls is None else self.cls(x_BNC[:, :1])
        x_BCN = (x_BNC[:, 1:] if self.apart else x_BNC).transpose(1, 2)
        if self.flat:
            x_BCN = self.conv(x_BCN)
            grid = (1, x_BCN.shape[-1])
        else:
            x_BCHW = self.conv(x_BCN.unflatten(-1, grid))
            grid = (x_BCHW.shape[-2], x_BCHW.shape[-1])
            x_BCN = x_BCHW.flatten(2)
        x_BNC = x_BCN.transpose(1, 2)
        return (x_BNC if cls_B1C is None else torch.cat([cls_B1C.to(x_BNC.dtype), x_BNC], dim=1)), grid


class PsvitTrunk(nn.Module):
    """All of a PSViT but its layers: from pixels to tokens, from stage to stage, from tokens to logits.

    Args:
        shape: widths, heads, sizes and what the paper leaves open.
        dropout: of the first tokens.
        head_dropout: in front of the classifier.
        act_checkpoint: recompute each layer in the backward pass instead of keeping its activations.
    """

    def __init__(
        self, shape: PsvitShape, *, dropout: float = 0.0, head_dropout: float = 0.0, act_checkpoint: bool = False
    ) -> None:
        super().__init__()
        self.shape, self.dropout, self.act_checkpoint = shape, dropout, act_checkpoint
        d = shape.dims
        self.patch_embed = nn.Conv2d(shape.in_channels, d[0], shape.patch_size, shape.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d[0])) if shape.num_cls else None
        stages = range(len(d) if shape.pos_embed == "all" else 1)
        tables = (nn.Parameter(torch.zeros(1, shape.num_tokens(stage), d[stage])) for stage in stages)
        self.pos_embed = nn.ParameterList(tables)
        self.pools = nn.ModuleList(TokenPool(shape, stage) for stage in range(1, len(d)))
        self.norm = nn.LayerNorm(d[-1], eps=1e-6)
        self.head = ClassifierHead(d[-1], shape.num_classes, dropout=head_dropout)

    def train(self, mode: bool = True) -> Any:
        """Switch between training and evaluation; also forgets what was derived from the weights."""
        forget_derived(self)
        return super().train(mode)

    def init_weights(self) -> None:
        """As DeiT: truncated normal (0.02) for linear layers and tables, zero biases; convolutions as PyTorch."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for table in (self.cls_token, *self.pos_embed):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def _embed(self, x_BCTHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """First tokens, and rows and columns of those that the first pooling sees.

        Raises:
            ImageOnlyError: the clips have more than one frame.
        """
        if x_BCTHW.shape[2] != 1:
            raise ImageOnlyError(f"PSViT reads images: expected clips of 1 frame, found {x_BCTHW.shape[2]}")
        x_BCHW = self.patch_embed(x_BCTHW.squeeze(2))
        rows, columns = x_BCHW.shape[-2:]
        x_BNC = x_BCHW.flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            cls_B1C = self.cls_token.to(x_BNC.dtype).expand(x_BNC.shape[0], -1, -1)
            x_BNC = torch.cat([cls_B1C, x_BNC], dim=1)
        joint = 1 if self.shape.cls == "joint" else 0
        grid = (rows, columns) if self.shape.pooling == "2d" else (1, rows * columns + joint)
        x_BNC = x_BNC + self._positions(0, (rows, columns))
        return nn.functional.dropout(x_BNC, self.dropout, self.training and self.dropout > 0), grid

    def _enter(self, stage: int, x_BNC: Tensor, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Tokens and grid as the layers of `stage` (1 or more) see them, of those that the stage before left."""
        x_BNC, grid = self.pools[stage - 1](x_BNC, grid)
        return (x_BNC + self._positions(stage, grid) if self.shape.pos_embed == "all" else x_BNC), grid

    def _positions(self, stage: int, grid: tuple[int, int]) -> Tensor:
        """Position table of a stage, stretched where the image is not of the size it was made for."""
        table = self.pos_embed[stage]
        num_cls = self.shape.num_cls if stage == 0 or self.shape.cls == "apart" else 0
        rows = table.shape[1] - num_cls
        side = math.isqrt(rows) if stage == 0 or self.shape.pooling == "2d" else 0
        made_for = (1, side, side) if side else (1, 1, rows)
        if made_for == (1, *grid):
            return table
        stretched = resize_pos_embed(table[:, num_cls:], made_for, (1, *grid))
        return torch.cat([table[:, :num_cls], stretched], dim=1)

    def encode(self, x_BCTHW: Tensor, stages: Sequence[Layers]) -> tuple[Tensor, tuple[int, int, int]]:
        """Run the layers of a path.

        Args:
            x_BCTHW: (B, C, 1, H, W), normalised.
            stages: for each stage its layers in order.

        Returns:
            tokens: (B, N, C) of the last layer, normalised.
            grid: (1, rows, columns) of what the stage would pool.
        """
        x_BNC, grid = self._embed(x_BCTHW)
        for stage, layers in enumerate(stages):
            if stage:
                x_BNC, grid = self._enter(stage, x_BNC, grid)
            map_BMNN = None
            for i, (kind, block) in enumerate(layers):
                given = None if kind == BASIC else map_BMNN
                is_shared = any(kind != BASIC for kind, _ in layers[i + 1 : i + 2])
                x_BNC, map_BMNN = self._run(block, x_BNC, given, is_shared)
        return self.norm(x_BNC), (1, *grid)

    def _run(
        self, block: nn.Module, x_BNC: Tensor, map_BMNN: Tensor | None, keep_map: bool
    ) -> tuple[Tensor, Tensor | None]:
        if self.act_checkpoint and self.training and torch.is_grad_enabled():
            done: tuple[Tensor, Tensor | None] = checkpoint(block, x_BNC, map_BMNN, keep_map, use_reentrant=False)
            return done
        return block(x_BNC, map_BMNN, keep_map)

    def classify(self, x_BNC: Tensor) -> Tensor:
        """Logits (B, K) of normalised tokens."""
        return self.head(x_BNC[:, 0] if self.shape.head_input == "cls" else x_BNC.mean(dim=1))


class PSViT(PsvitTrunk):
    """A PSViT with fixed layers.

    Args:
        shape: widths, heads, sizes and what the paper leaves open.
        plan: layers, such as `BSBB|BSBBB|BSSBS`.
        dropout: of the first tokens, and inside attention and MLP.
        drop_path: rate of the last layer; grows linearly from 0.
        head_dropout: in front of the classifier.
        act_checkpoint: recompute each layer in the backward pass instead of keeping its activations.

    Source: PSViT (arXiv 2108.03428). Plans and what `PsvitShape` marks are reconstructions.
    """

    def __init__(
        self,
        *,
        shape: PsvitShape,
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
        for stage, layers in enumerate(self.plan):
            for kind in layers:
                block = PsvitBlock(
                    shape.dims[stage],
                    shape.heads[stage],
                    own_heads=None if kind == BASIC else shape.own_heads(stage),
                    mlp_ratio=shape.mlp_ratio,
                    qkv_bias=shape.qkv_bias,
                    dropout=dropout,
                    drop_path=rates[len(self.blocks)],
                )
                self.blocks.append(block)
        self.init_weights()

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, C, 1, H, W)."""
        return self.classify(self.forward_features(x_BCTHW)[0])

    def forward_features(self, x_BCTHW: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Tokens of the last layer, normalised.

        Args:
            x_BCTHW: (B, C, 1, H, W), normalised.

        Returns:
            tokens: (B, N, C), a class token that is kept apart first.
            grid: (1, rows, columns) of the others; with 1d pooling one row, with a joint class token one of its tokens.
        """
        return self.encode(x_BCTHW, self._stages())

    def _stages(self) -> list[Layers]:
        blocks = iter(self.blocks)
        return [[(kind, next(blocks)) for kind in layers] for layers in self.plan]


def shape_from_config(cfg: Any) -> PsvitShape:
    """The shape that the sections DATA, PSVIT and MODEL describe.

    Raises:
        PlanError: widths, heads and sizes do not fit together.
        ImageOnlyError: DATA.NUM_FRAMES is not 1.
    """
    if cfg.DATA.NUM_FRAMES != 1:
        raise ImageOnlyError(f"DATA.NUM_FRAMES is {cfg.DATA.NUM_FRAMES}: PSViT reads images, expected 1")
    p = cfg.PSVIT
    try:
        return PsvitShape(
            dims=tuple(p.DIMS),
            heads=tuple(p.HEADS),
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
            shared_heads=tuple(p.SHARED_HEADS),
            mlp_ratio=p.MLP_RATIO,
            qkv_bias=p.QKV_BIAS,
        )
    except PlanError as error:
        raise PlanError(f"PSVIT: {error}") from error


def psvit_from_config(cfg: Any) -> PSViT:
    """`PSViT` from the sections DATA, PSVIT and MODEL of a config."""
    return PSViT(
        shape=shape_from_config(cfg),
        plan=cfg.PSVIT.PLAN,
        dropout=cfg.PSVIT.DROPOUT_RATE,
        drop_path=cfg.PSVIT.DROPPATH_RATE,
        head_dropout=cfg.MODEL.DROPOUT_RATE,
        act_checkpoint=cfg.MODEL.ACT_CHECKPOINT,
    )
