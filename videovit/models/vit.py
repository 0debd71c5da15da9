"""ViT and DeiT: a plain vision transformer for images and clips.

A clip is cut into boxes of patch_size pixels, all of which attend to each other in every block (joint space-time
attention), so an image is a clip with T = 1. Parameter names are PySlowFast's: this is an MViT that pools nothing.

B clips, C channels, T H W grid in tokens (in x_BCTHW: pixels), N tokens, X class tokens, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from videovit.config import Config
from videovit.errors import UserError
from videovit.models.contract import AttentionTokens, Grid, MaskableModel, centers
from videovit.models.layers.basic import PatchEmbed, Triple, take_tokens, triple
from videovit.models.layers.position import resize_pos_embed
from videovit.models.layers.transformer import Block, ClassTokenModel, drop_path_rates, init_linear

VIT_PRESETS: dict[str, dict[str, Any]] = {
    "deit_ti": {"dim": 192, "num_heads": 3},
    "deit_s": {"dim": 384, "num_heads": 6},
    "deit_b": {"dim": 768, "num_heads": 12},
    # The baseline of PS-ViT-B with equal depth and width (arXiv 2108.01684, Table 7).
    "vit_as_ps_vit_b": {"dim": 384, "num_heads": 6, "depth": 14, "mlp_ratio": 3.0, "qkv_bias": False},
    # MViT's baseline on Kinetics (arXiv 2104.11227, Table 4).
    "vit_b_8x8": {"dim": 768, "num_heads": 12, "clip_size": (8, 224, 224), "num_classes": 400},
}
"""Arguments of `ViT` for published models."""


class ViT(ClassTokenModel, MaskableModel):
    """Plain vision transformer with a joint position table.

    Args:
        dim: channels of a token.
        depth: blocks.
        num_heads: of each.
        num_classes: K.
        clip_size: (T, H, W) in pixels that the position table is made for; it is stretched for other sizes.
        patch_size: frames, rows and columns of a patch, without overlap.
        in_channels: of the clip.
        mlp_ratio: hidden channels of the MLPs over `dim`.
        qkv_bias: biases of the projections into queries, keys and values.
        distilled: add a distillation token with a classifier of its own.
        dropout: of the first tokens, and inside attention and MLP.
        drop_path: rate of the last block; grows linearly from 0.
        head_dropout: before the classifier.
        act_checkpoint: recompute each block in the backward pass instead of keeping its activations.
        stages: blocks, counted from 1, after which `forward_stages` has a map; empty: after the last.

    Raises:
        UserError: a clip smaller than a patch, heads that do not divide `dim`, or stages that are no blocks in order.

    Source: ViT (arXiv 2010.11929); DeiT (arXiv 2012.12877); for clips MViT's baseline (arXiv 2104.11227, Table 4).
    """

    position_tables: ClassVar[tuple[str, ...]] = ("pos_embed",)

    def __init__(
        self,
        *,
        dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        num_classes: int = 1000,
        clip_size: Triple = (1, 224, 224),
        patch_size: Triple = (1, 16, 16),
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        distilled: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        act_checkpoint: bool = False,
        stages: Sequence[int] = (),
    ) -> None:
        super().__init__(
            dim=dim,
            dim_out=dim,
            num_classes=num_classes,
            distilled=distilled,
            head_dropout=head_dropout,
            act_checkpoint=act_checkpoint,
        )
        self.in_channels = in_channels
        self.stages = tuple(stages) or (depth,)
        if list(self.stages) != sorted(set(self.stages)) or not 1 <= self.stages[0] <= self.stages[-1] <= depth:
            raise UserError(
                where="VIT.STAGES", found=list(stages), expected=f"increasing numbers of blocks, 1 to {depth}"
            )
        self.patch_embed = PatchEmbed(in_channels, dim, patch_size, patch_size, (0, 0, 0))
        self.grid: Grid = self.patch_embed.grid(clip_size)
        T, H, W = self.grid
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_cls + T * H * W, dim))
        self.pos_dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, dropout=dropout, drop_path=rate)
            for rate in drop_path_rates(drop_path, depth)
        )
        self._init_weights()

    def _init_weights(self) -> None:
        """Truncated normal (0.02) for linear layers, tokens and positions, zero biases; PyTorch's convolution."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module)
        for table in (self.cls_token, self.pos_embed):
            assert table is not None  # a ViT always has a class token
            nn.init.trunc_normal_(table, std=0.02)

    def attention_tokens(self, x: Tensor) -> list[AttentionTokens]:
        """All blocks have the tokens of the patches; see `AttentionModel.attention_tokens`."""
        patches = centers(self.patch_embed.grid(self.as_clips(x).shape[2:]))
        return [AttentionTokens(self.num_cls, patches, patches)] * len(self.blocks)

    def _encode(self, x_BCTHW: Tensor) -> tuple[Tensor, Grid]:
        *_, last = self._run_blocks(x_BCTHW)
        return last

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        outputs = enumerate(self._run_blocks(x_BCTHW), 1)
        return [self.as_map(x_BNC, grid) for i, (x_BNC, grid) in outputs if i in self.stages]

    def _run_blocks(self, x_BCTHW: Tensor) -> Iterator[tuple[Tensor, Grid]]:
        """Tokens, class tokens first, and their grid after every block."""
        x_BTHWC = self.patch_embed(x_BCTHW)
        T, H, W = x_BTHWC.shape[1:4]
        grid = (T, H, W)
        for x_BNC in self._blocks_on(x_BTHWC.flatten(1, 3), self.positions(grid)):
            yield x_BNC, grid

    def _blocks_on(self, x_BNC: Tensor, positions: Tensor) -> Iterator[Tensor]:
        """Tokens (B, X + N, C) after every block, from patches (B, N, C) and their positions (1 or B, X + N, C)."""
        x_BNC = self.pos_dropout(self.with_cls(x_BNC) + positions)
        for block in self.blocks:
            x_BNC = self.run_block(block, x_BNC)
            yield x_BNC

    @property
    def patch_stride(self) -> Grid:
        """See `MaskableModel.patch_stride`."""
        return triple(self.patch_embed.proj.stride)

    @property
    def output_stride(self) -> Grid:
        """That of the patches: all blocks have the same tokens."""
        return self.patch_stride

    def encode_visible(self, x_BCTHW: Tensor, visible_BL: Tensor) -> Tensor:
        """See `MaskableModel.encode_visible`."""
        table_1NC = self.positions(self.patch_embed.grid(x_BCTHW.shape[2:]))
        cls_BXC = table_1NC[:, : self.num_cls].expand(len(x_BCTHW), -1, -1)
        positions = torch.cat([cls_BXC, take_tokens(table_1NC[:, self.num_cls :], visible_BL)], dim=1)
        *_, x_BNC = self._blocks_on(self.patch_embed.take(x_BCTHW, visible_BL), positions)
        normed: Tensor = self.norm(x_BNC)
        return normed

    def encode_replaced(self, x_BCTHW: Tensor, hidden_BTHW: Tensor, token_11C: Tensor) -> Tensor:
        """See `MaskableModel.encode_replaced`."""
        x_BTHWC = self.patch_embed(x_BCTHW)
        grid = x_BTHWC.shape[1:4]
        x_BTHWC = torch.where(hidden_BTHW[..., None], token_11C[0, 0].to(x_BTHWC.dtype), x_BTHWC)
        *_, x_BNC = self._blocks_on(x_BTHWC.flatten(1, 3), self.positions(triple(grid)))
        return torch.unflatten(x_BNC[:, self.num_cls :], 1, grid)

    def positions(self, grid: Grid) -> Tensor:
        """(1, X + N, C): the position table, stretched if `grid` is not the one it was made for."""
        if grid == self.grid:
            return self.pos_embed
        table = resize_pos_embed(self.pos_embed[:, self.num_cls :], self.grid, grid)
        return torch.cat([self.pos_embed[:, : self.num_cls], table], dim=1)


def vit_from_config(cfg: Config) -> ViT:
    """`ViT` from the sections DATA, VIT and MODEL of a config.

    Raises:
        UserError: sizes that do not fit together.
    """
    v = cfg.VIT
    crop = cfg.DATA.TRAIN_CROP_SIZE
    return ViT(
        dim=v.EMBED_DIM,
        depth=v.DEPTH,
        num_heads=v.NUM_HEADS,
        num_classes=cfg.MODEL.NUM_CLASSES,
        clip_size=(cfg.DATA.NUM_FRAMES, crop, crop),
        patch_size=triple(v.PATCH_SIZE),
        in_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
        mlp_ratio=v.MLP_RATIO,
        qkv_bias=v.QKV_BIAS,
        distilled=v.DISTILLED,
        dropout=v.DROPOUT_RATE,
        drop_path=v.DROPPATH_RATE,
        head_dropout=cfg.MODEL.DROPOUT_RATE,
        act_checkpoint=cfg.MODEL.ACT_CHECKPOINT,
        stages=v.STAGES,
    )
