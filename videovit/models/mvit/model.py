"""MViT and MViTv2: multiscale vision transformers for clips and images.

An image is a clip of one frame; all differences between the members of the family are arguments. The class token and
the grid of patch tokens are separate tensors, the grid as (B, T, H, W, C).

Work that cannot change the result is left out: keys and values of tokens that a strided pooling skips, and, if only the
class token is classified, the grid's queries and MLP in the last block. `plain_()` includes all of it, so that counted
costs are the published ones.

B clips, C channels, T H W grid in tokens (in x_BCTHW: pixels), N tokens, X class tokens (one), K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videovit.errors import UserError
from videovit.models.contract import AttentionTokens, Features, Grid, MaskableModel, centers
from videovit.models.layers.basic import PatchEmbed, Triple, take_tokens, triple
from videovit.models.layers.heads import ClassifierHead
from videovit.models.layers.maps import attention_maps
from videovit.models.layers.pooling import pooled_grid
from videovit.models.layers.position import resize_pos_embed
from videovit.models.layers.transformer import drop_path_rates, init_linear
from videovit.models.mvit.attention import AttentionMaps, MultiscaleAttention, PoolMode
from videovit.models.mvit.block import MultiscaleBlock, Outputs
from videovit.models.mvit.block_specs import NO_POOLING, BlockSpec


class MViT(MaskableModel):
    """Multiscale vision transformer, first and second version, for clips and images.

    State-dict names are PySlowFast's; the patch embedding is 5-D for images as well (one frame).

    Args:
        blocks: one spec per block, from `schedule.expand`.
        num_classes: K.
        clip_size: (T, H, W) in pixels that position tables are made for; they are stretched for other sizes.
        in_channels: of the clip.
        patch_kernel, patch_stride, patch_padding: of the patch embedding, over (T, H, W).
        pool_mode: `conv` (depthwise, with a norm), `max` or `avg` pooling in the attention.
        cls_token: whether there is a class token.
        use_abs_pos: add absolute position tables to the first tokens.
        sep_pos_embed: those as a sum of space and time (and class) instead of one joint table.
        rel_pos_spatial, rel_pos_temporal: relative positions in the attention.
        rel_pos_zero_init: start relative tables at zero.
        residual_pooling: add pooled queries to the attention's output.
        separate_qkv: three projections q, k, v in the state dict.
        qkv_bias: biases of those.
        mlp_ratio: hidden over attention channels.
        norm_stem: a LayerNorm before the first block.
        mean_pooling: classify the mean of the grid tokens instead of the class token (the norm follows the mean).
        dropout: of the first tokens, and inside attention and MLP.
        drop_path: rate of the last block; grows linearly from 0.
        head_dropout: before the classifier.
        head_init_scale: factor on its initial weights.
        norm_eps: of all LayerNorms but the pooling ones.
        pool_norm_eps: of the LayerNorms after pooling convolutions (1e-5 in old PySlowFast and pytorchvideo 0.1.5).
        act_checkpoint: recompute each block in the backward pass instead of keeping its activations.
        decay_tables: let weight decay act on position tables and the class token too.

    Raises:
        UserError: clips smaller than a patch, or than the stride to the next one; windows and a class token.

    Source: MViT (arXiv 2104.11227); MViTv2 (arXiv 2112.01526).
    """

    num_streams = 1  # of tokens, side by side after the last block

    def __init__(
        self,
        *,
        blocks: Sequence[BlockSpec],
        num_classes: int = 400,
        clip_size: Triple = (16, 224, 224),
        in_channels: int = 3,
        patch_kernel: Triple = (3, 7, 7),
        patch_stride: Triple = (2, 4, 4),
        patch_padding: Triple = (1, 3, 3),
        pool_mode: PoolMode = "conv",
        cls_token: bool = True,
        use_abs_pos: bool = True,
        sep_pos_embed: bool = True,
        rel_pos_spatial: bool = False,
        rel_pos_temporal: bool = False,
        rel_pos_zero_init: bool = False,
        residual_pooling: bool = False,
        separate_qkv: bool = False,
        qkv_bias: bool = True,
        mlp_ratio: float = 4.0,
        norm_stem: bool = False,
        mean_pooling: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        head_init_scale: float = 1.0,
        norm_eps: float = 1e-6,
        pool_norm_eps: float = 1e-6,
        act_checkpoint: bool = False,
        decay_tables: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.decay_tables = decay_tables
        self.specs = tuple(blocks)
        dim, dim_out = self.specs[0].dim, self.num_streams * self.specs[-1].dim_out
        self.mean_pooling, self.act_checkpoint, self.dropout = mean_pooling, act_checkpoint, dropout
        self.patch_embed = PatchEmbed(in_channels, dim, patch_kernel, patch_stride, patch_padding)
        self.patch_embed.grid(clip_size)
        T, H, W = (n // s for n, s in zip(clip_size, patch_stride, strict=True))
        self.grid: Grid = (T, H, W)
        if min(self.grid) < 1:
            raise UserError(
                f"clips of {tuple(clip_size)} (T, H, W) are shorter than the stride from patch to patch, "
                f"{tuple(patch_stride)}: DATA.NUM_FRAMES and DATA.TRAIN_CROP_SIZE must reach MVIT.PATCH_STRIDE (for "
                "images: DATA.NUM_FRAMES 1 and MVIT.PATCH_2D True, or a stride of 1 in time)"
            )
        self.has_windows = any(spec.window for spec in self.specs)
        if self.has_windows and cls_token:
            raise UserError("a class token is in no window; MVIT.WINDOW needs MVIT.CLS_EMBED_ON False")
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if cls_token else None
        self._add_pos_embed(dim, use_abs_pos and sep_pos_embed, use_abs_pos and not sep_pos_embed)
        self.norm_stem = nn.LayerNorm(dim, eps=norm_eps) if norm_stem else None
        rates = drop_path_rates(drop_path, len(self.specs))
        self.blocks = nn.ModuleList()
        grid = self.grid
        for number, (spec, rate) in enumerate(zip(self.specs, rates, strict=True)):
            block = self._build_block(
                number,
                spec,
                grid,
                mlp_ratio=mlp_ratio,
                drop_path=rate,
                dropout=dropout,
                eps=norm_eps,
                mode=pool_mode,
                qkv_bias=qkv_bias,
                separate_qkv=separate_qkv,
                residual_pooling=residual_pooling,
                rel_pos_spatial=rel_pos_spatial,
                rel_pos_temporal=rel_pos_temporal,
                pool_norm_eps=pool_norm_eps,
            )
            self.blocks.append(block)
            T, H, W = (max(1, n // s) for n, s in zip(grid, spec.stride_q, strict=True))
            grid = (T, H, W)
        self.norm = nn.LayerNorm(dim_out, eps=norm_eps)
        head = ClassifierHead(dim_out, num_classes, dropout=head_dropout, init_scale=head_init_scale)
        self.head = head
        self._init_weights(rel_pos_zero_init)
        head.init_weights()

    def _build_block(self, number: int, spec: BlockSpec, grid: Grid, **options: Any) -> nn.Module:
        return MultiscaleBlock(spec, grid, **options)

    def _add_pos_embed(self, dim: int, separate: bool, joint: bool) -> None:
        T, H, W = self.grid
        num_cls = 0 if self.cls_token is None else 1

        def table(num_rows: int, exists: bool) -> nn.Parameter | None:
            return nn.Parameter(torch.zeros(1, num_rows, dim)) if exists else None

        self.pos_embed_spatial = table(H * W, separate)
        self.pos_embed_temporal = table(T, separate)
        self.pos_embed_class = table(1, separate and num_cls == 1)
        self.pos_embed = table(num_cls + T * H * W, joint)

    def _init_weights(self, rel_pos_zero_init: bool) -> None:
        """As published: truncated normal (0.02) for linear layers and tables, zero biases, PyTorch's own for convs."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module)
            elif isinstance(module, MultiscaleAttention) and not rel_pos_zero_init:
                module.init_rel_pos()
        for table in self._tables().values():
            nn.init.trunc_normal_(table, std=0.02)

    def _tables(self) -> dict[str, nn.Parameter]:
        """Class token and absolute position tables by name."""
        return dict(self.named_parameters(recurse=False))

    # ------------------------------------------------------------------------------------------------- the contract

    def layers(self) -> Sequence[Sequence[nn.Module]]:
        """One layer per block."""
        return [[block] for block in self.blocks]

    def head_modules(self) -> Sequence[nn.Module]:
        """The last norm and the classifier."""
        return [self.norm, self.head]

    def no_weight_decay(self) -> frozenset[str]:
        """Class token, absolute and relative position tables; nothing with `decay_tables`."""
        if self.decay_tables:
            return frozenset()
        relative = (
            f"{name}.{table}"
            for name, module in self.named_modules()
            if isinstance(module, MultiscaleAttention)
            for table, _ in module.named_parameters(recurse=False)
        )
        return frozenset([*self._tables(), *relative])

    def units_to_shard(self) -> Iterator[nn.Module]:
        """All blocks but the last, some of whose parameters are read outside of it (see `_run_blocks`)."""
        yield from list(self.blocks)[:-1]

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """One map per block, class token first, keys pooled; see `AttentionModel.attention_maps`.

        Raises:
            UserError: blocks attend in windows.
        """
        if self.has_windows:
            raise UserError(
                "blocks that attend in windows have no map of all tokens; build the model with MVIT.WINDOW 0"
            )
        return attention_maps(self, x)

    def attention_tokens(self, x: Tensor) -> list[AttentionTokens]:
        """Queries and keys have grids of their own, each pooled; see `AttentionModel.attention_tokens`."""
        grid, num_cls = self.patch_embed.grid(self.as_clips(x).shape[2:]), 0 if self.cls_token is None else 1
        layers = []
        for spec in self.specs:
            keys = pooled_grid(grid, spec.kernel_kv, spec.stride_kv)
            grid = pooled_grid(grid, spec.kernel_q, spec.stride_q)
            layers.append(AttentionTokens(num_cls, centers(grid), centers(keys)))
        return layers

    def _logits(self, x_BCTHW: Tensor) -> Tensor:
        reads_cls = self.cls_token is not None and not self.mean_pooling
        x_BTHWC, cls_B1C = self._encode(x_BCTHW, cls_only=reads_cls and not self.plain)
        if reads_cls:
            features_BC = self.norm(cls_B1C)[:, 0]
        else:
            assert x_BTHWC is not None  # only `cls_only` leaves the grid out
            # As published: MViTv2 averages normalized tokens, PySlowFast's mean pooling normalizes the average.
            mean_first = self.mean_pooling
            features_BC = self.norm(x_BTHWC.mean((1, 2, 3))) if mean_first else self.norm(x_BTHWC).mean((1, 2, 3))
        logits: Tensor = self.head(features_BC)
        return logits

    def _features(self, x_BCTHW: Tensor) -> Features:
        x_BTHWC, cls_B1C = self._encode(x_BCTHW, cls_only=False)
        assert x_BTHWC is not None
        T, H, W = x_BTHWC.shape[1:4]
        return Features(self.norm(x_BTHWC.flatten(1, 3)), (T, H, W), None if cls_B1C is None else self.norm(cls_B1C))

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for spec, (x_BTHWC, _) in zip((*self.specs[1:], None), self._run_blocks(x_BCTHW, False), strict=True):
            # A stage ends before the next block that lowers the resolution, and with the last block.
            if spec is None or spec.stride_q != NO_POOLING:
                assert x_BTHWC is not None
                maps.append(x_BTHWC.permute(0, 4, 1, 2, 3))
        return maps

    # ----------------------------------------------------------------------------------------------------- the blocks

    def _encode(self, x_BCTHW: Tensor, cls_only: bool) -> tuple[Tensor | None, Tensor | None]:
        """Output of the last block: grid, class token."""
        for grid, cls in self._run_blocks(x_BCTHW, cls_only):
            x_BTHWC, cls_B1C = grid, cls
        return x_BTHWC, cls_B1C

    def _run_blocks(self, x_BCTHW: Tensor, cls_only: bool) -> Iterator[tuple[Tensor | None, Tensor | None]]:
        """Grid (B, T, H, W, C) and class token (B, 1, C) after every block; with `cls_only` the last has no grid."""
        return self._blocks_on(self._embed(x_BCTHW), cls_only)

    def _blocks_on(
        self, tokens: tuple[Tensor | None, Tensor | None], cls_only: bool = False
    ) -> Iterator[tuple[Tensor | None, Tensor | None]]:
        """As `_run_blocks`, from the first tokens."""
        x_BTHWC, cls_B1C = tokens
        last = len(self.blocks) - 1
        maps: AttentionMaps | None = None
        for i, block in enumerate(self.blocks):
            given = maps if self.specs[i].shares_map else None
            keep = i < last and self.specs[i + 1].shares_map
            arguments = (x_BTHWC, cls_B1C, cls_only and i == last, given, keep)
            if self.act_checkpoint and self.training and torch.is_grad_enabled():
                outputs: Outputs = checkpoint(block, *arguments, use_reentrant=False)
            else:
                outputs = block(*arguments)
            x_BTHWC, cls_B1C, maps = outputs
            if cls_only and i == last and torch.is_grad_enabled():
                cls_B1C = self._with_zero_gradients(block, cls_B1C)
            yield x_BTHWC, cls_B1C

    @staticmethod
    def _with_zero_gradients(block: nn.Module, cls_B1C: Tensor | None) -> Tensor | None:
        """The class token, from which what only grid queries read gets zeros as gradients.

        Without a gradient, optimizers would skip their weight decay, and DistributedDataParallel would wait for them.
        """
        assert isinstance(block, MultiscaleBlock) and cls_B1C is not None
        unread = block.attn.unused_by_cls()
        return cls_B1C + 0.0 * sum(p.sum() for p in unread) if unread else cls_B1C

    def _embed(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._with_positions(self.patch_embed(x_BCTHW))

    @property
    def has_positions(self) -> bool:
        """Whether there are absolute position tables."""
        return self.pos_embed is not None or self.pos_embed_spatial is not None

    def _with_positions(self, x_BTHWC: Tensor) -> tuple[Tensor, Tensor | None]:
        """First tokens of patches."""
        if self.has_positions:
            x_BTHWC = x_BTHWC + self.positions(triple(x_BTHWC.shape[1:4]))
        return self._with_cls(x_BTHWC)

    def _with_cls(self, x_BTHWC: Tensor) -> tuple[Tensor, Tensor | None]:
        """First tokens of patches that have their positions."""
        cls_B1C: Tensor | None = self.cls_token
        cls_pos = self.pos_embed_class if self.pos_embed is None else self.pos_embed[:, :1]
        if cls_B1C is not None:
            cls_B1C = cls_B1C if cls_pos is None else cls_B1C + cls_pos
            cls_B1C = cls_B1C.to(x_BTHWC.dtype).repeat(x_BTHWC.shape[0], 1, 1)
        if self.dropout:
            x_BTHWC = nn.functional.dropout(x_BTHWC, self.dropout, self.embedding_trains)
            cls_B1C = None if cls_B1C is None else nn.functional.dropout(cls_B1C, self.dropout, self.embedding_trains)
        if self.norm_stem is not None:
            x_BTHWC = self.norm_stem(x_BTHWC)
            cls_B1C = None if cls_B1C is None else self.norm_stem(cls_B1C)
        return x_BTHWC, cls_B1C

    def positions(self, grid: Grid) -> Tensor:
        """Absolute positions of a grid, (1, T, H, W, C), stretched if `grid` is not that of the tables."""
        T, H, W = self.grid
        if self.pos_embed is not None:
            num_cls = 0 if self.cls_token is None else 1
            return torch.unflatten(resize_pos_embed(self.pos_embed[:, num_cls:], self.grid, grid), 1, grid)
        assert self.pos_embed_spatial is not None and self.pos_embed_temporal is not None
        # One row per place and one per time, summed, instead of a row for every pair: MViT, Table 11.
        space = resize_pos_embed(self.pos_embed_spatial, (1, H, W), (1, *grid[1:]))
        time = resize_pos_embed(self.pos_embed_temporal, (T, 1, 1), (grid[0], 1, 1))
        return torch.unflatten(space, 1, (1, *grid[1:])) + torch.unflatten(time, 1, (grid[0], 1, 1))

    @property
    def patch_stride(self) -> Grid:
        """See `MaskableModel.patch_stride`."""
        return triple(self.patch_embed.proj.stride)

    @property
    def output_stride(self) -> Grid:
        """See `MaskableModel.output_stride`."""
        strides = [self.patch_stride, *(spec.stride_q for spec in self.specs)]
        return triple([math.prod(along) for along in zip(*strides, strict=True)])

    @property
    def reads_grid(self) -> bool:
        """Whether it matters to a block where in the grid a token is."""
        attention = [module for module in self.modules() if isinstance(module, MultiscaleAttention)]
        return any(a.spec.pools_q or a.spec.pools_kv or a.spec.window or a.unused_by_cls() for a in attention)

    def encode_visible(self, x_BCTHW: Tensor, visible_BL: Tensor) -> Tensor:
        """See `MaskableModel.encode_visible`."""
        if self.reads_grid:
            raise UserError("blocks with pooling, windows or relative positions need the grid of all patches")
        x_BLC = self.patch_embed.take(x_BCTHW, visible_BL)
        if self.has_positions:
            table_1NC = self.positions(self.patch_embed.grid(x_BCTHW.shape[2:])).flatten(1, 3)
            x_BLC = x_BLC + take_tokens(table_1NC, visible_BL)
        *_, tokens = self._blocks_on(self._with_cls(x_BLC[:, None, None]))
        grid, cls = (part if part is None else part.flatten(1, -2) for part in tokens)
        normed: Tensor = self.norm(torch.cat([part for part in (cls, grid) if part is not None], dim=1))
        return normed

    def encode_replaced(self, x_BCTHW: Tensor, hidden_BTHW: Tensor, token_11C: Tensor) -> Tensor:
        """See `MaskableModel.encode_replaced`."""
        x_BTHWC = self.patch_embed(x_BCTHW)
        x_BTHWC = torch.where(hidden_BTHW[..., None], token_11C[0, 0].to(x_BTHWC.dtype), x_BTHWC)
        *_, (grid, _) = self._blocks_on(self._with_positions(x_BTHWC))
        assert grid is not None
        return grid
