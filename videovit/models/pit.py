"""PiT: a vision transformer whose tokens become fewer and wider from stage to stage, for images and clips.

    overlapping patches -> stage of blocks -> pool -> stage of blocks -> pool -> stage of blocks -> class token -> head

Between stages a depthwise convolution halves the sides of the grid and doubles the channels; the class token, which
has no place on the grid, goes through a linear layer instead. In a clip, patches and pooling may extend over time; with
one frame, and weights inflated at the center, the logits are those of the image model.

B clips, C channels, T H W grid in tokens (in x_BCTHW: pixels), N tokens, X class tokens, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from videovit.config import Config
from videovit.errors import UserError
from videovit.models.contract import AttentionTokens, Grid, centers
from videovit.models.layers.basic import PatchEmbed, Triple, triple
from videovit.models.layers.position import resize_pos_embed
from videovit.models.layers.transformer import Block, ClassTokenModel, drop_path_rates

PIT_PRESETS: dict[str, dict[str, Any]] = {
    "pit_ti": {"dims": (64, 128, 256), "num_heads": (2, 4, 8)},
    "pit_xs": {"dims": (96, 192, 384), "num_heads": (2, 4, 8)},
    "pit_s": {"dims": (144, 288, 576), "num_heads": (3, 6, 12)},
    "pit_b": {
        "dims": (256, 512, 1024),
        "num_heads": (4, 8, 16),
        "depths": (3, 6, 4),
        "patch_kernel": (1, 14, 14),
        "patch_stride": (1, 7, 7),
    },
}
"""Arguments of `PiT` for published models, each of which also exists with `distilled=True`."""


class TokenPool(nn.Module):
    """Fewer and wider tokens: a depthwise convolution on the grid, a linear layer on the class tokens.

    Args:
        dim: channels in.
        dim_out: channels out, a multiple of `dim`.
        kernel, stride: of the convolution, over (T, H, W); padded by half the kernel.

    Raises:
        UserError: `dim_out` is no multiple of `dim`.

    Source: PiT (arXiv 2103.16302), section 3.2.
    """

    def __init__(self, dim: int, dim_out: int, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        if dim_out % dim:
            raise UserError(f"the channels of a stage, {dim_out}, must be a multiple of those before, {dim}")
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(dim, dim_out, kernel, stride, padding, groups=dim)
        self.fc = nn.Linear(dim, dim_out)

    def grid(self, grid: Grid) -> Grid:
        """The grid that a grid is pooled to."""
        sizes = zip(grid, self.conv.kernel_size, self.conv.stride, strict=True)
        T, H, W = ((n + 2 * (k // 2) - k) // s + 1 for n, k, s in sizes)
        return T, H, W

    def forward(self, x_BNC: Tensor, num_cls: int, grid: Grid) -> tuple[Tensor, Grid]:
        """Pool.

        Args:
            x_BNC: class tokens, then the grid row by row.
            num_cls: X.
            grid: (T, H, W).

        Returns:
            (B, X + N', C'), and the new grid.
        """
        x_BCTHW: Tensor = self.conv(torch.unflatten(x_BNC[:, num_cls:].transpose(1, 2), 2, grid))
        T, H, W = x_BCTHW.shape[2:]
        tokens = [self.fc(x_BNC[:, :num_cls]), x_BCTHW.flatten(2).transpose(1, 2)]
        return torch.cat(tokens, dim=1), (T, H, W)


class PiTBlock(Block):
    """A block, and for the first one of a later stage the pooling before it, so that both count as one layer."""

    def __init__(self, dim: int, num_heads: int, *, pool: TokenPool | None = None, **sizes: Any) -> None:
        super().__init__(dim, num_heads, **sizes)
        self.pool = pool


class PiT(ClassTokenModel):
    """Pooling-based vision transformer.

    Args:
        dims: channels of a token in each stage; each a multiple of the one before.
        num_heads: in each stage.
        depths: blocks of each stage.
        num_classes: K.
        clip_size: (T, H, W) in pixels that the position tables are made for; they are stretched for other sizes.
        patch_kernel, patch_stride: of the patch embedding, over (T, H, W); padded in time only, by half the kernel.
        pool_kernel, pool_stride: between stages, over (T, H, W).
        in_channels: of the clip.
        mlp_ratio: hidden channels of the MLPs over those of a token.
        distilled: add a distillation token with a classifier of its own.
        dropout: of the first tokens, and inside attention and MLP.
        drop_path: rate of the last block; grows linearly from 0.
        head_dropout: before the classifier.
        act_checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        UserError: stages that do not agree in number or width, or a clip smaller than a patch.

    Source: PiT (arXiv 2103.16302); clips are this project's extension.
    """

    position_tables: ClassVar[tuple[str, ...]] = ("pos_embed_spatial", "pos_embed_temporal")

    def __init__(
        self,
        *,
        dims: Sequence[int] = (144, 288, 576),
        num_heads: Sequence[int] = (3, 6, 12),
        depths: Sequence[int] = (2, 6, 4),
        num_classes: int = 1000,
        clip_size: Triple = (1, 224, 224),
        patch_kernel: Triple = (1, 16, 16),
        patch_stride: Triple = (1, 8, 8),
        pool_kernel: Triple = (1, 3, 3),
        pool_stride: Triple = (1, 2, 2),
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        distilled: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        act_checkpoint: bool = False,
    ) -> None:
        if not len(dims) == len(num_heads) == len(depths):
            raise UserError(
                f"widths {list(dims)}, heads {list(num_heads)} and depths {list(depths)} must name as many stages"
            )
        super().__init__(
            dim=dims[0],
            dim_out=dims[-1],
            num_classes=num_classes,
            distilled=distilled,
            head_dropout=head_dropout,
            act_checkpoint=act_checkpoint,
        )
        self.in_channels = in_channels
        padding = (patch_kernel[0] // 2, 0, 0)
        self.patch_embed = PatchEmbed(in_channels, dims[0], patch_kernel, patch_stride, padding)
        self.grid: Grid = self.patch_embed.grid(clip_size)
        T, H, W = self.grid
        self.pos_embed_spatial = nn.Parameter(torch.empty(1, H * W, dims[0]))
        # Zeros, so that training starts from a model of single images, whose weights have no such table.
        self.pos_embed_temporal = nn.Parameter(torch.zeros(1, T, dims[0])) if T > 1 else None
        self.pos_dropout = nn.Dropout(dropout)
        rates = iter(drop_path_rates(drop_path, sum(depths)))
        self.blocks = nn.ModuleList()
        for stage, (dim, heads, depth) in enumerate(zip(dims, num_heads, depths, strict=True)):
            for i in range(depth):
                pool = TokenPool(dims[stage - 1], dim, pool_kernel, pool_stride) if stage and i == 0 else None
                block = PiTBlock(dim, heads, pool=pool, mlp_ratio=mlp_ratio, dropout=dropout, drop_path=next(rates))
                self.blocks.append(block)
        # As published, layers keep PyTorch's initial values.
        for table in (self.pos_embed_spatial, self.cls_token):
            assert table is not None  # a PiT always has a class token
            nn.init.trunc_normal_(table, std=0.02)

    def units_to_shard(self) -> Iterator[nn.Module]:
        """All blocks but the last; pools are units of their own, since they run outside of their block's forward."""
        for block in list(self.blocks)[:-1]:
            if isinstance(block, PiTBlock) and block.pool is not None:
                yield block.pool
            yield block

    def attention_tokens(self, x: Tensor) -> list[AttentionTokens]:
        """Blocks have the tokens of their stage; see `AttentionModel.attention_tokens`."""
        grid = self.patch_embed.grid(self.as_clips(x).shape[2:])
        layers = []
        for block in self.blocks:
            assert isinstance(block, PiTBlock)
            grid = grid if block.pool is None else block.pool.grid(grid)
            layers.append(AttentionTokens(self.num_cls, centers(grid), centers(grid)))
        return layers

    def _encode(self, x_BCTHW: Tensor) -> tuple[Tensor, Grid]:
        for tokens_BNC, grid in self._encode_stages(x_BCTHW):
            x_BNC, last_grid = tokens_BNC, grid
        return x_BNC, last_grid

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        return [self.as_map(x_BNC, grid) for x_BNC, grid in self._encode_stages(x_BCTHW)]

    def _encode_stages(self, x_BCTHW: Tensor) -> Iterator[tuple[Tensor, Grid]]:
        """Tokens, class tokens first, and their grid at the end of each stage."""
        x_BTHWC = self.patch_embed(x_BCTHW)
        T, H, W = x_BTHWC.shape[1:4]
        grid = (T, H, W)
        # As published, class tokens have no position.
        x_BNC = self.with_cls(self.pos_dropout(x_BTHWC.flatten(1, 3) + self.positions(grid)))
        for block in self.blocks:
            assert isinstance(block, PiTBlock)
            if block.pool is not None:
                yield x_BNC, grid
                x_BNC, grid = block.pool(x_BNC, self.num_cls, grid)
            x_BNC = self.run_block(block, x_BNC)
        yield x_BNC, grid

    def positions(self, grid: Grid) -> Tensor:
        """(1, N, C): positions in space plus, for clips, in time, stretched if `grid` is not that of the tables."""
        T, H, W = self.grid
        space = resize_pos_embed(self.pos_embed_spatial, (1, H, W), (1, *grid[1:]))
        if self.pos_embed_temporal is None:
            return space.repeat(1, grid[0], 1)
        time = resize_pos_embed(self.pos_embed_temporal, (T, 1, 1), (grid[0], 1, 1))
        return (time[:, :, None] + space[:, None]).flatten(1, 2)


def pit_from_config(cfg: Config) -> PiT:
    """`PiT` from the sections DATA, PIT and MODEL of a config.

    Raises:
        UserError: sizes that do not fit together.
    """
    p = cfg.PIT
    crop = cfg.DATA.TRAIN_CROP_SIZE
    return PiT(
        dims=p.EMBED_DIMS,
        num_heads=p.NUM_HEADS,
        depths=p.DEPTHS,
        num_classes=cfg.MODEL.NUM_CLASSES,
        clip_size=(cfg.DATA.NUM_FRAMES, crop, crop),
        patch_kernel=triple(p.PATCH_KERNEL),
        patch_stride=triple(p.PATCH_STRIDE),
        pool_kernel=triple(p.POOL_KERNEL),
        pool_stride=triple(p.POOL_STRIDE),
        in_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
        mlp_ratio=p.MLP_RATIO,
        distilled=p.DISTILLED,
        dropout=p.DROPOUT_RATE,
        drop_path=p.DROPPATH_RATE,
        head_dropout=cfg.MODEL.DROPOUT_RATE,
        act_checkpoint=cfg.MODEL.ACT_CHECKPOINT,
    )
