"""Small pure functions, one per difference between weights that is tolerated.

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

Inflation = Literal["centre", "repeat", "mean"]
State = dict[str, Tensor]


def join_qkv(state: State) -> State:
    """Three projections `attn.q`, `attn.k`, `attn.v` as one, `attn.qkv`, whose rows hold q, then k, then v."""
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
    """Without the classifier, whose names begin with one of `prefixes`."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def split_pos_embed(table_1NC: Tensor, num_cls: int) -> tuple[Tensor, Tensor]:
    """The joint table of an image model as (class row (1, num_cls, C), spatial table (1, N - num_cls, C))."""
    return table_1NC[:, :num_cls], table_1NC[:, num_cls:]


def join_pos_embed(cls_11C: Tensor | None, spatial_1NC: Tensor, temporal_1TC: Tensor) -> Tensor:
    """Separate tables of space, time and class token as the one table that adds the same.

    Returns:
        (1, [1 +] T * N, C), row-major over (T, H, W), class token first.
    """
    grid_1TNC = temporal_1TC[:, :, None] + spatial_1NC[:, None]
    tables = [grid_1TNC.flatten(1, 2)] if cls_11C is None else [cls_11C, grid_1TNC.flatten(1, 2)]
    return torch.cat(tables, dim=1)


def inflate_kernel(weight: Tensor, length: int, how: Inflation = "centre") -> Tensor:
    """Bring a convolution of images to clips, or one of clips to images.

    Longer, from one frame:

        centre   0 w 0           a clip whose frames are all alike gives what the image gave (MViTv2's recipe)
        repeat   w w w           PySlowFast's loader; answers `length` times as large as the image's
        mean     w/3 w/3 w/3     I3D's; alike frames give what the image gave, but for padding in time

    To one frame: the sum over time, which is what a clip of alike frames meets.

    Args:
        weight: (O, C, kt, kh, kw); kt or `length` is 1.
        length: wanted kt.

    Returns:
        (O, C, length, kh, kw); `weight` itself when kt == length.

    Raises:
        ValueError: neither kt nor `length` is 1: there is no rule for that.

    Source: MViTv2 (arXiv 2112.01526), appendix on Kinetics; PySlowFast's checkpoint loader.
    """
    kt = weight.shape[2]
    if kt == length:
        return weight
    if length == 1:
        return weight.sum(dim=2, keepdim=True)
    if kt != 1:
        raise ValueError(f"a kernel over {kt} frames cannot be brought to {length}")
    if how == "centre":
        inflated = weight.new_zeros(*weight.shape[:2], length, *weight.shape[3:])
        inflated[:, :, length // 2] = weight[:, :, 0]
        return inflated
    repeated = weight.repeat(1, 1, length, 1, 1)
    return repeated if how == "repeat" else repeated / length
