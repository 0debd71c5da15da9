"""Gradient x input: which pixels raise a score, to first order.

B clips, C channels, T H W frames and pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videovit.analysis.question import ask, scaled
from videovit.models.contract import VideoModel


def gradient_x_input(
    model: VideoModel, x: Tensor, classes: Tensor, boxes_R5: Tensor | None = None, *, scale: bool = True
) -> Tensor:
    """Heat map by the gradient at every pixel times its value.

        heat = | sum over channels c of x_c * d score / d x_c |

    To first order, it is how much the score changes if the pixel takes the mean color of the data set, which is 0 after
    normalization. It is defined for every model, and noisier than the other methods.

    Args:
        model, x, classes, boxes_R5: see `ask`.
        scale: divide by the highest value of each clip; otherwise heat is in units of the logit.

    Returns:
        (B, T, H, W), from 0 to 1; of a detector one map per box.

    Raises:
        UserError: see `ask`.

    Source: Shrikumar et al. (arXiv 1605.01713), section 2.
    """
    question = ask(model, x, classes, boxes_R5)
    with torch.enable_grad():
        x_BCTHW = question.x_BCTHW.requires_grad_()
        (gradient_BCTHW,) = torch.autograd.grad(question.scores(x_BCTHW).sum(), x_BCTHW)
    heat_BTHW = (x_BCTHW.detach() * gradient_BCTHW).sum(dim=1).abs()
    return scaled(heat_BTHW) if scale else heat_BTHW
