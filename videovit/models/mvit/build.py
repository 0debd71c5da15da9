"""From the config to MViT: sparse lists become one spec per block."""

from __future__ import annotations

import warnings
from typing import Any, cast

from videovit.config import Config
from videovit.errors import UserError
from videovit.models.layers.basic import triple
from videovit.models.mvit.attention import PoolMode
from videovit.models.mvit.block_specs import expand, in_windows, share_maps
from videovit.models.mvit.model import MViT
from videovit.models.mvit.reversible import ReversibleMViT


def mvit_from_config(cfg: Config) -> MViT:
    """`MViT` from the sections DATA, MVIT and MODEL of a config; `ReversibleMViT` with MVIT.REV.ENABLE.

    Raises:
        UserError: sparse lists that do not fit together, clips smaller than a patch, or a variant of SlowFast's that is
            not implemented here.
    """
    m = cfg.MVIT
    unsupported = {
        "MVIT.POOL_FIRST": m.POOL_FIRST,
        "MVIT.LAYER_SCALE_INIT_VALUE": m.LAYER_SCALE_INIT_VALUE > 0,
        "MVIT.USE_FIXED_SINCOS_POS": m.USE_FIXED_SINCOS_POS,
        "MVIT.MODE conv_unshared": m.MODE == "conv_unshared",
        "MVIT.SHARE_ATTENTION with MVIT.REV.ENABLE": m.REV.ENABLE and bool(m.SHARE_ATTENTION),
        "MVIT.WINDOW with MVIT.REV.ENABLE": m.REV.ENABLE and m.WINDOW > 0,
    }
    if any(unsupported.values()):
        named = ", ".join(key for key, is_on in unsupported.items() if is_on)
        raise UserError(f"switched on but not available: {named}")
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
        # Reversible blocks are as wide at the end as at the beginning, so the transition itself widens.
        dim_mul_in_attention=m.DIM_MUL_IN_ATT or m.REV.ENABLE,
    )
    blocks = share_maps(blocks, m.SHARE_ATTENTION)
    if m.WINDOW:
        blocks = in_windows(blocks, m.WINDOW, m.GLOBAL_BLOCKS)
    patch_kernel, patch_stride, patch_padding = m.PATCH_KERNEL, m.PATCH_STRIDE, m.PATCH_PADDING
    if m.PATCH_2D:
        patch_kernel, patch_stride, patch_padding = (1, *patch_kernel), (1, *patch_stride), (0, *patch_padding)
    crop = cfg.DATA.TRAIN_CROP_SIZE
    arguments: dict[str, Any] = {
        "blocks": blocks,
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "clip_size": (cfg.DATA.NUM_FRAMES, crop, crop),
        "in_channels": cfg.DATA.INPUT_CHANNEL_NUM[0],
        "patch_kernel": triple(patch_kernel),
        "patch_stride": triple(patch_stride),
        "patch_padding": triple(patch_padding),
        "pool_mode": cast(PoolMode, m.MODE),
        "use_abs_pos": m.USE_ABS_POS,
        "sep_pos_embed": m.SEP_POS_EMBED,
        "rel_pos_spatial": m.REL_POS_SPATIAL,
        "rel_pos_temporal": m.REL_POS_TEMPORAL,
        "rel_pos_zero_init": m.REL_POS_ZERO_INIT,
        "residual_pooling": m.RESIDUAL_POOLING,
        "separate_qkv": m.SEPARATE_QKV,
        "qkv_bias": m.QKV_BIAS,
        "mlp_ratio": m.MLP_RATIO,
        "norm_stem": m.NORM_STEM,
        "mean_pooling": m.USE_MEAN_POOLING,
        "dropout": m.DROPOUT_RATE,
        "drop_path": m.DROPPATH_RATE,
        "head_dropout": cfg.MODEL.DROPOUT_RATE,
        "head_init_scale": m.HEAD_INIT_SCALE,
        "pool_norm_eps": m.POOL_NORM_EPS,
        "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
        "decay_tables": not m.ZERO_DECAY_POS_CLS,
    }
    if not m.REV.ENABLE:
        return MViT(cls_token=m.CLS_EMBED_ON, **arguments)
    if m.CLS_EMBED_ON:
        warnings.warn("MVIT.CLS_EMBED_ON True: reversible blocks have no class token, so it is left out", stacklevel=2)
    rev = m.REV
    return ReversibleMViT(
        transitions=rev.BUFFER_LAYERS, fusion=rev.PRE_Q_FUSION, shortcut_pooling=rev.RES_PATH, **arguments
    )
