"""The last tokens that a prediction is made from, and where they lie in the clip.

B clips, C channels, T H W frames and pixels (of maps: elements), N tokens, X class tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from videovit.errors import UserError
from videovit.models.contract import AttentionModel, AttentionTokens, Grid, VideoModel, centers


@dataclass
class LastGrid:
    """The tensors that the hooks of `watched` have recorded.

    Attributes:
        choices: tensors with the last tokens, the later ones first. A score may depend on none of the tokens of the
            first choice but its class token, and then on those of the second. Each is a list of one tensor, or of one
            per pathway.
    """

    choices: list[list[Tensor]] = field(default_factory=list)


@contextmanager
def watched(model: VideoModel) -> Iterator[LastGrid]:
    """Record the last tokens of forward passes in the block; they stay part of the graph.

    In a model with attention they are recorded after the last norm, for heads that read the grid, and before the
    attention of the last block, for heads that read a class token. Both are after a LayerNorm. Before one they
    would be of no use: it undoes any factor on a token, so the gradient is orthogonal to the token. Of any other model,
    the map at the end of the last layer is watched.

    Raises:
        UserError: the model has no layers.
    """
    seen, normed, read = LastGrid(), list[Tensor](), list[Tensor]()

    def leaves_norm(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        normed.append(out)

    def enters_attention(module: nn.Module, args: tuple[Any, ...]) -> None:
        read[:] = [args[0]]  # that of the last block to run stays

    def leaves_layer(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        # Two pathways are a list, whose entries later blocks overwrite.
        seen.choices = [[out] if isinstance(out, Tensor) else list(out)]

    if not model.num_layers:
        raise UserError(f"{type(model).__name__} has no layers, and so no map to look at")
    handles: list[RemovableHandle] = []
    if isinstance(model, AttentionModel):
        handles.append(model.head_modules()[0].register_forward_hook(leaves_norm))
        handles += [module.register_forward_pre_hook(enters_attention) for module in model.attention_layers()]
    else:
        handles.append(model.layers()[-1][-1].register_forward_hook(leaves_layer))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        seen.choices += [[tensor] for tensor in (*normed, *read) if tensor.dim() > 2]


@dataclass(frozen=True)
class Places:
    """Where tokens are.

    Attributes:
        number: tokens along (t, y, x); of tokens at places of their own, as many as a regular grid would have.
        where_BN3: their positions as in `AttentionTokens`; None for a regular grid, row by row.
    """

    number: tuple[float, float, float]
    where_BN3: Tensor | None = None


def tokens_of(model: VideoModel, x_BCTHW: Tensor, seen: Tensor) -> Tensor:
    """What `watched` has seen, or its gradient, as tokens (B, N, C) without class tokens; N may be 0.

    Args:
        model: that was watched.
        x_BCTHW: its input.
        seen: a tensor of `LastGrid.choices`, or its gradient.

    Raises:
        UserError: it is no grid of tokens.
    """
    if not isinstance(model, AttentionModel):
        return _map(model, x_BCTHW, seen).flatten(2).transpose(1, 2)
    if seen.dim() == 5:  # MViT keeps its class token apart
        return seen.flatten(1, 3)
    last = model.attention_tokens(x_BCTHW)[-1]
    # Some models normalize class tokens with the others, some without.
    is_grid = seen.shape[1] == last.queries_BN3.shape[1]
    x_BNC = seen if is_grid else seen[:, last.num_cls :]
    # With frames as images, the rows of a clip lie next to each other.
    return torch.unflatten(x_BNC, 0, (len(x_BCTHW), -1)).flatten(1, 2)


def _map(model: VideoModel, x_BCTHW: Tensor, seen: Tensor) -> Tensor:
    """The last map (B, C, T, H, W) of a network without attention, which may compute frames as images."""
    if seen.dim() == 4:
        return torch.unflatten(seen, 0, (len(x_BCTHW), -1)).transpose(1, 2)
    if seen.dim() != 5:
        raise UserError(f"the last layer of {type(model).__name__} has no map (B, C, T, H, W) at its end")
    return seen


def places_of(model: VideoModel, x_BCTHW: Tensor, seen: Tensor) -> Places:
    """Where the tokens of `tokens_of` are."""
    if not isinstance(model, AttentionModel):
        T, H, W = _map(model, x_BCTHW, seen).shape[2:]
        return Places((T, H, W))
    if seen.dim() == 5:
        T, H, W = seen.shape[1:4]
        return Places((T, H, W))
    return places(model.attention_tokens(x_BCTHW), len(x_BCTHW), tokens_of(model, x_BCTHW, seen).shape[1])


def places(layers: Sequence[AttentionTokens], num_clips: int, num_tokens: int) -> Places:
    """Where tokens are that enter a layer, or are its queries: as in the last layer with as many.

    Args:
        layers: of the model.
        num_clips: B.
        num_tokens: N.

    Raises:
        UserError: no layer has as many tokens.
    """

    def of_clips(layer: AttentionTokens) -> Tensor:
        where = layer.queries_BN3
        return where if where.shape[0] == 1 else where.reshape(num_clips, -1, 3)

    found = [where for layer in layers if (where := of_clips(layer)).shape[1] == num_tokens]
    if not found:
        raise UserError(f"no layer of the model says where its {num_tokens} tokens lie in the clip")
    # The tokens of the first layer lie on a regular grid, also if they move later.
    first = of_clips(layers[0])[0]
    T, H, W = _sides(first)
    if found[-1].shape[0] == 1 and (grid := _grid_of(found[-1])) is not None:
        return Places(grid)
    fewer = math.sqrt(num_tokens / len(first))
    return Places((T, H * fewer, W * fewer), found[-1].expand(num_clips, -1, -1))


def _sides(where_N3: Tensor) -> Grid:
    """How many places there are along each axis."""
    T, H, W = (len(set(column.tolist())) for column in (where_N3 * 1e4).round().unbind(dim=1))
    return T, H, W


def _grid_of(where_1N3: Tensor) -> Grid | None:
    """The grid whose tokens are there, if there is one."""
    T, H, W = _sides(where_1N3[0])
    if where_1N3.shape[1] != T * H * W or not torch.allclose(centers((T, H, W)).to(where_1N3), where_1N3, atol=1e-4):
        return None
    return T, H, W


def spread(values_BN: Tensor, at: Places, size: tuple[int, int, int]) -> Tensor:
    """Values of tokens as a map over the pixels.

    A regular grid is stretched linearly. Tokens at places of their own are scattered: each adds its value around its
    place, weighted along every axis by a triangle that reaches as far as the next token would on a regular grid. Tokens
    that gather add up.

    Args:
        values_BN: one per token.
        at: where they are.
        size: (T, H, W) of the clip.

    Returns:
        (B, T, H, W).
    """
    if at.where_BN3 is None:
        T, H, W = map(int, at.number)
        map_B1THW = torch.unflatten(values_BN, 1, (T, H, W))[:, None]
        return F.interpolate(map_B1THW, size, mode="trilinear", align_corners=False)[:, 0]
    weights = []
    for axis, (side, number) in enumerate(zip(size, at.number, strict=True)):
        pixels = (torch.arange(side, device=values_BN.device) + 0.5) / side
        distance_BNS = (at.where_BN3[..., axis, None].to(values_BN) - pixels).abs()
        weights.append((1 - distance_BNS * number).clamp(min=0))
    t_BNT, y_BNH, x_BNW = weights
    rows_BNTH = (values_BN[..., None] * t_BNT)[..., None] * y_BNH[:, :, None]
    return torch.einsum("bnth,bnw->bthw", rows_BNTH, x_BNW)
