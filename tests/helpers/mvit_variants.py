"""Arguments of published models, tiny models and random clips for model tests."""

import torch
from torch import nn

from videovit.models.mvit.block_specs import expand
from videovit.models.mvit.model import MViT

V1_MULTIPLIERS = [[1, 2.0], [3, 2.0], [14, 2.0]]
V1_Q_STRIDES = [[1, 1, 2, 2], [3, 1, 2, 2], [14, 1, 2, 2]]


def v1_blocks(**changes):
    """Blocks of MViT-B 16x4 (keys pooled in the last stage too, as in current code), with changes."""
    arguments = {
        "depth": 16,
        "embed_dim": 96,
        "num_heads": 1,
        "dim_mul": V1_MULTIPLIERS,
        "head_mul": V1_MULTIPLIERS,
        "pool_q_stride": V1_Q_STRIDES,
        "pool_kv_stride_adaptive": [1, 8, 8],
        "pool_kvq_kernel": [3, 3, 3],
    }
    return expand(**{**arguments, **changes})


def q_strides_everywhere(depth, halving):
    """Query strides of MViTv2: (1, 2, 2) at some blocks, (1, 1, 1) at all others."""
    return [[i, 1, 2, 2] if i in halving else [i, 1, 1, 1] for i in range(depth)]


def v2_s_blocks(**changes):
    """Blocks of MViTv2-S, with changes."""
    strides = q_strides_everywhere(16, (1, 3, 14))
    return v1_blocks(**{"pool_q_stride": strides, "dim_mul_in_attention": True, **changes})


def mvit_v1_b(**changes):
    """MViT-B 16x4 as torchvision builds it."""
    return MViT(**{"blocks": v1_blocks(), **changes})


def mvit_v2_s(**changes):
    """MViTv2-S 16x4 as torchvision builds it."""
    arguments = {
        "blocks": v2_s_blocks(),
        "use_abs_pos": False,
        "rel_pos_spatial": True,
        "rel_pos_temporal": True,
        "residual_pooling": True,
    }
    return MViT(**{**arguments, **changes})


TINY = {
    "depth": 4,
    "embed_dim": 16,
    "num_heads": 1,
    "dim_mul": [[1, 2.0], [3, 2.0]],
    "head_mul": [[1, 2.0], [3, 2.0]],
    "pool_q_stride": [[1, 1, 2, 2], [3, 1, 2, 2]],
    "pool_kv_stride_adaptive": [1, 4, 4],
    "pool_kvq_kernel": [3, 3, 3],
}
TINY_V2 = {**TINY, "pool_q_stride": q_strides_everywhere(4, (1, 3)), "dim_mul_in_attention": True}


def tiny(**changes):
    """A v1 model that runs in milliseconds: 4 blocks, clips of 8 x 32 x 32."""
    return MViT(**{"blocks": expand(**TINY), "num_classes": 5, "clip_size": (8, 32, 32), **changes})


def tiny_v2(**changes):
    """A v2 model that runs in milliseconds: relative positions, residual pooling, queries pooled everywhere."""
    arguments = {
        "blocks": expand(**TINY_V2),
        "use_abs_pos": False,
        "rel_pos_spatial": True,
        "rel_pos_temporal": True,
        "residual_pooling": True,
    }
    return tiny(**{**arguments, **changes})


@torch.no_grad()
def perturb(model: nn.Module, seed: int = 0) -> nn.Module:
    """Move norms, biases and position tables off their initial ones and zeros, which would hide differences."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            parameter.add_(0.2 * noise)
        elif "pos" in name or "cls" in name or "class_token" in name:
            parameter.add_(0.5 * noise)
    return model


def clip(*size: int, seed: int = 0) -> torch.Tensor:
    """A standard normal clip of the given (B, C, T, H, W)."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))
