"""Grad-CAM and HiResCAM: which parts of the last grid raise a score.

B clips, T H W frames and pixels, N tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videovit.analysis.last_grid import places_of, spread, tokens_of, watched
from videovit.analysis.question import ask, scaled
from videovit.errors import UserError
from videovit.models.contract import VideoModel


def grad_cam(
    model: VideoModel, x: Tensor, classes: Tensor, boxes_R5: Tensor | None = None, *, scale: bool = True
) -> Tensor:
    """Heat map by Grad-CAM on the grid that enters the last block.

        weight_c = mean over tokens n of d score / d a_nc
        heat_n = max(0, sum over channels c of weight_c * a_nc)

    with the tokens a; the heat is stretched to the pixels. Of a network without attention, a is the map at the end of
    its last stage; with two pathways their maps are stretched and added before the maximum, as if they were channels of
    one map.

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
    with torch.enable_grad(), watched(question.model) as last:
        x_BCTHW = question.x_BCTHW.requires_grad_()
        scores_B = question.scores(x_BCTHW)
        found = torch.autograd.grad(scores_B.sum(), last.tensors, allow_unused=True)
    heat_BTHW = x_BCTHW.new_zeros(len(x_BCTHW), *question.size)
    used = [(grid, gradient) for grid, gradient in zip(last.tensors, found, strict=True) if gradient is not None]
    if not used:
        raise UserError(f"the scores of this {type(model).__name__} do not depend on the tokens of its last block")
    with torch.no_grad():
        for grid, gradient in used:
            a_BNC = tokens_of(question.model, x_BCTHW, grid)
            weights_BNC = tokens_of(question.model, x_BCTHW, gradient)
            weights_BNC = weights_BNC if elementwise else weights_BNC.mean(dim=1, keepdim=True)
            at = places_of(question.model, x_BCTHW, grid)
            values_BN = (weights_BNC * a_BNC).sum(dim=-1)
            # Before it is stretched, as published; pathways have grids of different size.
            values_BN = values_BN.clamp(min=0) if len(used) == 1 else values_BN
            heat_BTHW += spread(values_BN, at, question.size)
    return scaled(heat_BTHW) if scale else heat_BTHW.clamp(min=0)
