"""Grad-CAM and HiResCAM: which parts of the last grid raise a score.

B clips, T H W frames and pixels, N tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videovit.analysis.last_grid import LastGrid, places_of, spread, tokens_of, watched
from videovit.analysis.question import ask, scaled
from videovit.errors import UserError
from videovit.models.contract import VideoModel


def grad_cam(
    model: VideoModel, x: Tensor, classes: Tensor, boxes_R5: Tensor | None = None, *, scale: bool = True
) -> Tensor:
    """Heat map by Grad-CAM on the last tokens that influence the score.

        weight_c = mean over tokens n of d score / d a_nc
        heat_n = max(0, sum over channels c of weight_c * a_nc)

    with the tokens a as the attention of the last block reads them; or if the head reads the grid itself (the mean of
    its tokens, or boxes), the tokens after the last norm. The heat is stretched to the pixels. Of a network without
    attention, a is the map at the end of its last stage; with two pathways their maps are stretched and added before
    the maximum, as if they were channels of one map.

    Args:
        model, x, classes, boxes_R5: see `ask`.
        scale: divide by the highest value of each clip; otherwise heat is in units of the logit.

    Returns:
        (B, T, H, W), from 0 to 1; of a detector one map per box.

    Raises:
        UserError: see `ask`; or the score does not depend on the grid, or the model has none.

    Source: Grad-CAM (arXiv 1610.02391), eqs. 1 and 2.
    """
    return _cam(model, x, classes, boxes_R5, elementwise=False, scale=scale)


def hires_cam(
    model: VideoModel, x: Tensor, classes: Tensor, boxes_R5: Tensor | None = None, *, scale: bool = True
) -> Tensor:
    """Heat map as by Grad-CAM, but without the mean over tokens: every token has weights of its own.

        heat_n = max(0, sum over channels c of d score / d a_nc * a_nc)

    If only a class token is classified, it reads the grid by attention, and a channel may speak for the class in one
    place and against it in another. Their mean says little.

    Args:
        model, x, classes, boxes_R5, scale: see `grad_cam`.

    Returns:
        (B, T, H, W), from 0 to 1; of a detector one map per box.

    Raises:
        UserError: see `grad_cam`.

    Source: HiResCAM (arXiv 2011.08891), eq. 6.
    """
    return _cam(model, x, classes, boxes_R5, elementwise=True, scale=scale)


def _cam(
    model: VideoModel, x: Tensor, classes: Tensor, boxes_R5: Tensor | None, *, elementwise: bool, scale: bool
) -> Tensor:
    question = ask(model, x, classes, boxes_R5)
    with torch.enable_grad():
        x_BCTHW = question.x_BCTHW.requires_grad_()
        with watched(question.model) as last:
            scores_B = question.scores(x_BCTHW)
        used = _used(question.model, x_BCTHW, scores_B, last)
    values = []
    with torch.no_grad():
        for grid, gradient_BNC in used:
            weights_BNC = gradient_BNC if elementwise else gradient_BNC.mean(dim=1, keepdim=True)
            values_BN = (weights_BNC * tokens_of(question.model, x_BCTHW, grid)).sum(dim=-1)
            # Before it is stretched, as published; of two pathways after they are added.
            values_BN = values_BN.clamp(min=0) if len(used) == 1 else values_BN
            values.append(spread(values_BN, places_of(question.model, x_BCTHW, grid), question.size))
        heat_BTHW = torch.stack(values).sum(dim=0).clamp(min=0)
    return scaled(heat_BTHW) if scale else heat_BTHW


def _used(model: VideoModel, x_BCTHW: Tensor, scores_B: Tensor, last: LastGrid) -> list[tuple[Tensor, Tensor]]:
    """The first choice of last tokens that scores depend on, one per pathway, each with its gradient (B, N, C)."""
    for tensors in last.choices:
        found = torch.autograd.grad(scores_B.sum(), tensors, retain_graph=True, allow_unused=True)
        pairs = [
            (tensor.detach(), tokens_of(model, x_BCTHW, gradient))
            for tensor, gradient in zip(tensors, found, strict=True)
            if gradient is not None
        ]
        # A class token alone has no place.
        if any(gradient_BNC.any() for _, gradient_BNC in pairs):
            return pairs
    raise UserError(f"the scores of this {type(model).__name__} do not depend on the tokens of its last block")
