"""MViT and MViTv2: multiscale vision transformers for clips and images.

An image is a clip of one frame; everything that differs between the members of the family is a value. The class token
and the grid of patch tokens travel side by side, the grid as (B, T, H, W, C).

Work that cannot change the result is not done: keys and values of tokens that a strided pooling skips, and, where the
class token alone is read, the grid's queries and MLP in the last block. On the `meta` device all of it is done, so that
a counter reports the cost as published.

B clips, C channels, T H W grid in tokens (in x_BCTHW: pixels), N tokens, K classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videovit.errors import UserError
from videovit.models.cpu.derived import Derived, forget_derived, forget_passing
from videovit.models.layers.basic import PatchEmbed, SizeError
from videovit.models.layers.heads import ClassifierHead
from videovit.models.layers.position import resize_pos_embed
from videovit.models.mvit.attention import MultiscaleAttention, PoolMode
from videovit.models.mvit.block import MultiscaleBlock
from videovit.models.mvit.schedule import BlockSpec, expand, share_maps

Triple = tuple[int, int, int]


class UnsupportedModelError(UserError):
    """A config switches on something that `MViT` does not have."""


class MViT(nn.Module):
    """Multiscale vision transformer, first and second version, for clips and images.

    State-dict names are PySlowFast's; the patch embedding is 5-D for images as well (one frame).

    Args:
        blocks: one spec per block, from `mvit_schedule.expand`.
        num_classes: K.
        clip_size: (T, H, W) in pixels that position tables are made for; other sizes stretch them.
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
        norm_stem: a LayerNorm in front of the first block.
        mean_pooling: classify the mean of the grid tokens though there is a class token (the norm follows the mean).
        dropout: of the first tokens, and inside attention and MLP.
        drop_path: rate of the last block; grows linearly from 0.
        head_dropout: in front of the classifier.
        head_init_scale: factor on its initial weights.
        norm_eps: of all LayerNorms but the pooling ones.
        pool_norm_eps: of the LayerNorms behind pooling convolutions (1e-5 in old PySlowFast and pytorchvideo 0.1.5).
        act_checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        SizeError: clips smaller than a patch, or than the step to the next one.

    Source: MViT (arXiv 2104.11227); MViTv2 (arXiv 2112.01526).
    """

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
    ) -> None:
        super().__init__()
        self.specs = tuple(blocks)
        dim, dim_out = self.specs[0].dim, self.specs[-1].dim_out
        self.mean_pooling, self.act_checkpoint, self.dropout = mean_pooling, act_checkpoint, dropout
        self.patch_embed = PatchEmbed(in_channels, dim, patch_kernel, patch_stride, patch_padding)
        self.patch_embed.grid(clip_size)
        self.grid: Triple = tuple(n // s for n, s in zip(clip_size, patch_stride, strict=True))
        if min(self.grid) < 1:
            raise SizeError(
                f"clips of {tuple(clip_size)} (T, H, W) are shorter than a step from patch to patch, "
                f"{tuple(patch_stride)}: DATA.NUM_FRAMES and DATA.TRAIN_CROP_SIZE must reach MVIT.PATCH_STRIDE (for "
                "images: DATA.NUM_FRAMES 1 and MVIT.PATCH_2D True, or a stride of 1 in time)"
            )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if cls_token else None
        self._add_pos_embed(dim, use_abs_pos and sep_pos_embed, use_abs_pos and not sep_pos_embed)
        self.norm_stem = nn.LayerNorm(dim, eps=norm_eps) if norm_stem else None
        rates = torch.linspace(0, drop_path, len(self.specs), device="cpu").tolist()
        self.blocks = nn.ModuleList()
        grid = self.grid
        for spec, rate in zip(self.specs, rates, strict=True):
            block = MultiscaleBlock(
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
            grid = tuple(max(1, n // s) for n, s in zip(grid, spec.stride_q, strict=True))
        self.norm = nn.LayerNorm(dim_out, eps=norm_eps)
        self.head = ClassifierHead(dim_out, num_classes, dropout=head_dropout, init_scale=head_init_scale)
        self._derived = Derived()
        self._init_weights(rel_pos_zero_init)

    def _add_pos_embed(self, dim: int, separate: bool, joint: bool) -> None:
        T, H, W = self.grid
        num_cls = 0 if self.cls_token is None else 1

        def table(num_rows: int, wanted: bool) -> nn.Parameter | None:
            return nn.Parameter(torch.zeros(1, num_rows, dim)) if wanted else None

        self.pos_embed_spatial = table(H * W, separate)
        self.pos_embed_temporal = table(T, separate)
        self.pos_embed_class = table(1, separate and num_cls == 1)
        self.pos_embed = table(num_cls + T * H * W, joint)

    def _init_weights(self, rel_pos_zero_init: bool) -> None:
        """As published: truncated normal (0.02) for linear layers and tables, zero biases, PyTorch's own for convs."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, MultiscaleAttention) and not rel_pos_zero_init:
                module.init_rel_pos()
        for table in (
            self.cls_token,
            self.pos_embed,
            self.pos_embed_spatial,
            self.pos_embed_temporal,
            self.pos_embed_class,
        ):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)
        self.head.init_weights()

    def train(self, mode: bool = True) -> "MViT":
        """Switch between training and evaluation; also forgets what was derived from the weights."""
        forget_derived(self)
        return super().train(mode)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Logits of a batch of clips.

        Args:
            x_BCTHW: (B, C, T, H, W), normalised; images with T = 1.

        Returns:
            (B, K).
        """
        reads_cls = self.cls_token is not None and not self.mean_pooling
        x_BTHWC, cls_B1C = self._encode(x_BCTHW, cls_only=reads_cls and not x_BCTHW.is_meta)
        if reads_cls:
            features_BC = self.norm(cls_B1C)[:, 0]
        elif self.mean_pooling:
            features_BC = self.norm(x_BTHWC.mean(dim=(1, 2, 3)))
        else:
            features_BC = self.norm(x_BTHWC).mean(dim=(1, 2, 3))
        logits: Tensor = self.head(features_BC)
        return logits

    def forward_features(self, x_BCTHW: Tensor) -> tuple[Tensor, Triple]:
        """Tokens of the last block, normalised.

        Args:
            x_BCTHW: (B, C, T, H, W), normalised.

        Returns:
            tokens: (B, N, C), class token first where there is one, then the grid row by row.
            grid: (T, H, W), so that N is T * H * W, or one more.
        """
        x_BTHWC, cls_B1C = self._encode(x_BCTHW, cls_only=False)
        grid = tuple(x_BTHWC.shape[1:4])
        tokens = x_BTHWC.flatten(1, 3)
        return self.norm(tokens if cls_B1C is None else torch.cat([cls_B1C, tokens], dim=1)), grid

    def _encode(self, x_BCTHW: Tensor, cls_only: bool) -> tuple[Tensor | None, Tensor | None]:
        """All blocks; with `cls_only` the last one computes the class token alone."""
        x_BTHWC, cls_B1C = self._embed(x_BCTHW)
        last = len(self.blocks) - 1
        maps = None
        for i, block in enumerate(self.blocks):
            given = maps if self.specs[i].shares_map else None
            keep = i < last and self.specs[i + 1].shares_map
            arguments = (x_BTHWC, cls_B1C, cls_only and i == last, given, keep)
            if self.act_checkpoint and self.training and torch.is_grad_enabled():
                x_BTHWC, cls_B1C, maps = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x_BTHWC, cls_B1C, maps = block(*arguments)
            forget_passing(block)
        if cls_only and torch.is_grad_enabled():
            # What only grid queries read would get no gradient at all: optimisers would then skip its weight decay, and
            # DistributedDataParallel would wait for it. It gets the zeros that it would have got.
            unread = self.blocks[last].attn.unused_by_cls()
            cls_B1C = cls_B1C + 0.0 * sum(p.sum() for p in unread) if unread else cls_B1C
        return x_BTHWC, cls_B1C

    def _embed(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """First tokens: patches plus positions."""
        x_BTHWC = self.patch_embed(x_BCTHW)
        grid = tuple(x_BTHWC.shape[1:4])
        cls_B1C = None if self.cls_token is None else self.cls_token
        if self.pos_embed is not None or self.pos_embed_spatial is not None:
            tables = (self.pos_embed, self.pos_embed_spatial, self.pos_embed_temporal)
            x_BTHWC = x_BTHWC + self._derived("positions", tables, lambda: self._positions(grid), size=grid)
            cls_pos = self.pos_embed_class if self.pos_embed is None else self.pos_embed[:, :1]
            cls_B1C = None if cls_B1C is None else cls_B1C + cls_pos
        if cls_B1C is not None:
            cls_B1C = cls_B1C.to(x_BTHWC.dtype).repeat(x_BTHWC.shape[0], 1, 1)
        if self.dropout:
            x_BTHWC, cls_B1C = (
                None if t is None else nn.functional.dropout(t, self.dropout, self.training) for t in (x_BTHWC, cls_B1C)
            )
        if self.norm_stem is not None:
            x_BTHWC = self.norm_stem(x_BTHWC)
            cls_B1C = None if cls_B1C is None else self.norm_stem(cls_B1C)
        return x_BTHWC, cls_B1C

    def _positions(self, grid: Triple) -> Tensor:
        """Absolute positions of a grid, (1, T, H, W, C), stretched where it is not the trained one."""
        T, H, W = self.grid
        if self.pos_embed is not None:
            num_cls = 0 if self.cls_token is None else 1
            return resize_pos_embed(self.pos_embed[:, num_cls:], self.grid, grid).unflatten(1, grid)
        space = resize_pos_embed(self.pos_embed_spatial, (1, H, W), (1, *grid[1:])).unflatten(1, (1, *grid[1:]))
        time = resize_pos_embed(self.pos_embed_temporal, (T, 1, 1), (grid[0], 1, 1)).unflatten(1, (grid[0], 1, 1))
        return space + time


def mvit_from_config(cfg: Any) -> MViT:
    """`MViT` from the sections DATA, MVIT and MODEL of a config.

    Args:
        cfg: `videovit.config.Config`.

    Returns:
        The model, initialised.

    Raises:
        ScheduleError: sparse lists that do not fit together.
        SizeError: clips smaller than a patch.
        UnsupportedModelError: a variant of SlowFast's that is not built here.
    """
    m = cfg.MVIT
    unsupported = {
        "MVIT.POOL_FIRST": m.POOL_FIRST,
        "MVIT.LAYER_SCALE_INIT_VALUE": m.LAYER_SCALE_INIT_VALUE > 0,
        "MVIT.USE_FIXED_SINCOS_POS": m.USE_FIXED_SINCOS_POS,
        "MVIT.MODE conv_unshared": m.MODE == "conv_unshared",
    }
    if any(unsupported.values()):
        named = ", ".join(key for key, wanted in unsupported.items() if wanted)
        raise UnsupportedModelError(f"switched on but not available: {named}")
    blocks = expand(
        depth=m.DEPTH,
        embed_dim=m.EMBED_DIM,
        num_heads=m.NUM_HEADS,
        dim_mul=m.DIM_MUL,
        head_mul=m.HEAD_MUL,
        pool_q_stride=m.POOL_Q_STRIDE,
        pool_kv_stride=m.POOL_KV_STRIDE,
        pool_kv_stride_adaptive=m.POOL_KV_STRIDE_ADAPTIVE,
        pool_kvq_kernel=m.POOL_KVQ_KERNEL,
        kernel_rule=m.POOL_KERNEL_RULE,
        dim_mul_in_attention=m.DIM_MUL_IN_ATT,
    )
    blocks = share_maps(blocks, m.SHARE_ATTENTION)
    patch_kernel, patch_stride, patch_padding = m.PATCH_KERNEL, m.PATCH_STRIDE, m.PATCH_PADDING
    if m.PATCH_2D:
        patch_kernel, patch_stride, patch_padding = (1, *patch_kernel), (1, *patch_stride), (0, *patch_padding)
    crop = cfg.DATA.TRAIN_CROP_SIZE
    return MViT(
        blocks=blocks,
        num_classes=cfg.MODEL.NUM_CLASSES,
        clip_size=(cfg.DATA.NUM_FRAMES, crop, crop),
        in_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
        patch_kernel=tuple(patch_kernel),
        patch_stride=tuple(patch_stride),
        patch_padding=tuple(patch_padding),
        pool_mode=m.MODE,
        cls_token=m.CLS_EMBED_ON,
        use_abs_pos=m.USE_ABS_POS,
        sep_pos_embed=m.SEP_POS_EMBED,
        rel_pos_spatial=m.REL_POS_SPATIAL,
        rel_pos_temporal=m.REL_POS_TEMPORAL,
        rel_pos_zero_init=m.REL_POS_ZERO_INIT,
        residual_pooling=m.RESIDUAL_POOLING,
        separate_qkv=m.SEPARATE_QKV,
        qkv_bias=m.QKV_BIAS,
        mlp_ratio=m.MLP_RATIO,
        norm_stem=m.NORM_STEM,
        mean_pooling=m.USE_MEAN_POOLING,
        dropout=m.DROPOUT_RATE,
        drop_path=m.DROPPATH_RATE,
        head_dropout=cfg.MODEL.DROPOUT_RATE,
        head_init_scale=m.HEAD_INIT_SCALE,
        pool_norm_eps=m.POOL_NORM_EPS,
        act_checkpoint=cfg.MODEL.ACT_CHECKPOINT,
    )
