"""Pure functions, one per tolerated difference between weights and model.

N tokens, C channels, O output channels, L relative offsets, D head width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from videovit.models.layers.position import resize_pos_embed, resize_rel_pos

__all__ = [
    "Inflation",
    "drop_head",
    "inflate_kernel",
    "join_pos_embed",
    "join_qkv",
    "resize_pos_embed",
    "resize_rel_pos",
    "split_pos_embed",
    "split_qkv",
]

Inflation = Literal["center", "repeat", "mean"]
State = dict[str, Tensor]


def join_qkv(state: State) -> State:
    """Replace the projections `attn.q`, `attn.k`, `attn.v` by one, `attn.qkv`, with the rows of q, then k, then v."""
    joined = dict(state)
    for name in state:
        base, found, kind = name.rpartition(".attn.q.")
        parts = [f"{base}.attn.{part}.{kind}" for part in "qkv"]
        if found and all(part in state for part in parts):
            joined[f"{base}.attn.qkv.{kind}"] = torch.cat([joined.pop(part) for part in parts])
    return joined


def split_qkv(state: State) -> State:
    """The reverse of `join_qkv`."""
    split = dict(state)
    for name in state:
        base, found, kind = name.rpartition(".attn.qkv.")
        if found:
            for part, rows in zip("qkv", split.pop(name).chunk(3), strict=True):
                split[f"{base}.attn.{part}.{kind}"] = rows
    return split


def drop_head(state: State, prefixes: tuple[str, ...]) -> State:
    """The state without the classifier, whose names begin with one of `prefixes`."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def split_pos_embed(table_1NC: Tensor, num_cls: int) -> tuple[Tensor, Tensor]:
    """The joint table of an image model as (class row (1, num_cls, C), spatial table (1, N - num_cls, C))."""
    return table_1NC[:, :num_cls], table_1NC[:, num_cls:]


def join_pos_embed(cls_11C: Tensor | None, spatial_1NC: Tensor, temporal_1TC: Tensor) -> Tensor:
    """The joint table that equals the sum of separate tables of space, time and class token.

    Args:
        cls_11C: (1, 1, C) of the class token; None without one.
        spatial_1NC: (1, N, C), row-major over (H, W).
        temporal_1TC: (1, T, C).

    Returns:
        (1, [1 +] T * N, C), row-major over (T, H, W), class token first.
    """
    grid_1TNC = temporal_1TC[:, :, None] + spatial_1NC[:, None]
    tables = [grid_1TNC.flatten(1, 2)] if cls_11C is None else [cls_11C, grid_1TNC.flatten(1, 2)]
    return torch.cat(tables, dim=1)


def inflate_kernel(weight: Tensor, length: int, how: Inflation = "center") -> Tensor:
    """Turn a convolution of images into one of clips, or the reverse.

    From one frame to more:

        center   0 w 0           MViTv2's recipe; equal to the image model on clips of identical frames
        repeat   w w w           PySlowFast's loader; outputs are `length` times as large as those of the image model
        mean     w/3 w/3 w/3     I3D's; equal to the image model on identical frames, except near padding in time

    To one frame: the sum over time, the effective kernel on a clip of identical frames.

    Args:
        weight: (O, C, kt, kh, kw); kt or `length` is 1.
        length: kt of the result.
        how: see above.

    Returns:
        (O, C, length, kh, kw); `weight` itself if kt == length.

    Raises:
        ValueError: neither kt nor `length` is 1; no rule is defined for that.

    Source: MViTv2 (arXiv 2112.01526), appendix on Kinetics; PySlowFast's checkpoint loader.
    """
    kt = weight.shape[2]
    if kt == length:
        return weight
    if length == 1:
        return weight.sum(dim=2, keepdim=True)
    if kt != 1:
        raise ValueError(f"a kernel over {kt} frames cannot be changed to {length}")
    if how == "center":
        inflated = weight.new_zeros(*weight.shape[:2], length, *weight.shape[3:])
        inflated[:, :, length // 2] = weight[:, :, 0]
        return inflated
    repeated = weight.repeat(1, 1, length, 1, 1)
    return repeated if how == "repeat" else repeated / length
