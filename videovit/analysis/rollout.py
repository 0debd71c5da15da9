"""Attention rollout: which tokens reach the classifier through all layers of attention.

B clips (of models that take frames as images: frames), M heads, N query tokens, L key tokens, X class tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videovit.analysis.last_grid import places, spread
from videovit.analysis.question import Question, ask, scaled
from videovit.errors import UserError
from videovit.models.contract import AttentionModel, AttentionTokens, VideoModel
from videovit.models.layers.maps import observe_attention
from videovit.models.mvit.model import MViT
from videovit.models.pooling_sharing.model import PoolingSharingModel

_CHUNK = 1 << 24  # distances between tokens that are in memory at once


def attention_rollout(
    model: VideoModel, x: Tensor, classes: Tensor, boxes_R5: Tensor | None = None, *, scale: bool = True
) -> Tensor:
    """Heat map by attention rollout. It shows what the model looks at, and is the same for all classes.

        r <- r (0.5 A + 0.5 I)      from the last layer to the first

    with A the mean over heads of a layer's attention, which has rows that sum to 1. In the beginning, r is 1 at the
    tokens that are classified, in equal shares: the class tokens; or all tokens, if the model classifies their mean; or
    of a detector those in the box.

    The published rule needs as many keys as queries. Where a model pools tokens (MViT, PiT, PSViT), this is our choice:
    a token passes its share on in equal parts to the tokens of the layer before that are nearer to it than to any
    other; so keys are stretched to the grid of the queries. A PS-ViT's tokens are shown where they sample last.

    Args:
        model, x, classes, boxes_R5: see `ask`; classes change nothing.
        scale: divide by the highest value of each clip; otherwise heat is the share of a token, stretched.

    Returns:
        (B, T, H, W), from 0 to 1; of a detector one map per box.

    Raises:
        UserError: see `ask`; or the model has no attention.

    Source: Abnar and Zuidema (arXiv 2005.00928), section 3; pooled tokens are this project's extension.
    """
    question = ask(model, x, classes, boxes_R5)
    if not isinstance(question.model, AttentionModel):
        raise UserError(
            f"attention rollout multiplies attention maps, and {type(model).__name__} has none",
            hint="Try grad_cam, occlusion or gradient",
        )
    with torch.no_grad():
        layers = question.model.attention_tokens(question.x_BCTHW)
        maps = _mean_maps(question.model, question.x_BCTHW)
        share_BN = _classified(question, question.model, layers[-1], maps[-1])
        for number in reversed(range(len(layers))):
            before = layers[max(number - 1, 0)]
            keys_BL = torch.einsum("bn,bnl->bl", share_BN, maps[number])
            passed = _pass_on(keys_BL, layers[number].num_cls, layers[number].keys_BL3, before)
            share_BN = 0.5 * passed + 0.5 * _pass_on(
                share_BN, layers[number].num_cls, layers[number].queries_BN3, before
            )
        num_clips = len(question.x_BCTHW)
        values_BN = share_BN[:, layers[0].num_cls :].reshape(num_clips, -1)
        heat_BTHW = spread(values_BN, places(layers, num_clips, values_BN.shape[1]), question.size)
    return scaled(heat_BTHW) if scale else heat_BTHW


def _mean_maps(model: AttentionModel, x_BCTHW: Tensor) -> list[Tensor]:
    """Attention (B, X + N, X + L) of every layer, mean over heads."""
    parts: list[list[Tensor]] = []

    def keep(layer: int, query: int, map_BMNL: Tensor) -> None:
        if query == 0:
            parts.append([])
        parts[layer].append(map_BMNL.float().mean(dim=1))

    observe_attention(model, x_BCTHW, keep)
    return [torch.cat(rows, dim=1) for rows in parts]


def _classified(question: Question, model: AttentionModel, last: AttentionTokens, map_BNL: Tensor) -> Tensor:
    """(B, X + N): equal shares for the queries of the last layer that the head reads."""
    share_BN = map_BNL.new_zeros(map_BNL.shape[:2])
    num_cls = last.num_cls
    if question.boxes_B5 is not None:
        share_BN[:, num_cls:] = _in_boxes(question.boxes_B5, last.queries_BN3.to(share_BN), question.size)
    elif isinstance(model, PoolingSharingModel) and model.shape.head_input != "cls":
        share_BN[:] = 1
    elif num_cls and not (isinstance(model, MViT) and model.mean_pooling):
        share_BN[:, :num_cls] = 1
    else:
        share_BN[:, num_cls:] = 1
    return share_BN / share_BN.sum(dim=1, keepdim=True)


def _in_boxes(boxes_B5: Tensor, where_BN3: Tensor, size: tuple[int, int, int]) -> Tensor:
    """1 for tokens whose place is in the box of their clip, and for those nearest to its center; else 0."""
    _, H, W = size
    x1, y1, x2, y2 = (boxes_B5[:, 1:] / boxes_B5.new_tensor([W, H, W, H])).to(where_BN3).T[..., None]
    y_BN, x_BN = where_BN3[..., 1], where_BN3[..., 2]
    inside_BN = (y1 <= y_BN) & (y_BN <= y2) & (x1 <= x_BN) & (x_BN <= x2)
    far_BN = torch.hypot(y_BN - (y1 + y2) / 2, x_BN - (x1 + x2) / 2)
    near_BN = far_BN <= far_BN.amin(dim=1, keepdim=True) + 1e-6
    either_BN: Tensor = inside_BN | near_BN
    return either_BN.to(where_BN3.dtype)


def _pass_on(share_BN: Tensor, num_cls: int, where_BN3: Tensor, before: AttentionTokens) -> Tensor:
    """Shares of tokens as shares (B, X' + N') of the queries of the layer before.

    Args:
        share_BN: class tokens first.
        num_cls: X. Class tokens that did not exist yet are dropped with their share.
        where_BN3: places of the other tokens.
        before: the layer before.
    """
    cls_BX, grid_BN = share_BN[:, :num_cls], share_BN[:, num_cls:]
    to_BN3 = before.queries_BN3
    if grid_BN.shape[1] != to_BN3.shape[1]:  # as many are the same tokens, even if they have moved
        nearest_N = _nearest(to_BN3[0].to(share_BN), where_BN3[0].to(share_BN))
        number_N = torch.bincount(nearest_N, minlength=grid_BN.shape[1]).to(share_BN.dtype)
        grid_BN = (grid_BN / number_N.clamp(min=1))[:, nearest_N]
    return torch.cat([cls_BX[:, : before.num_cls], grid_BN], dim=1)


def _nearest(points_N3: Tensor, others_L3: Tensor) -> Tensor:
    """(N,): for each point the number of the nearest of the others."""
    rows = max(1, _CHUNK // len(others_L3))
    return torch.cat([torch.cdist(part, others_L3).argmin(dim=1) for part in torch.split(points_N3, rows)])
