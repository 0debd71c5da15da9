"""Attacks in pixel space: the small change of a clip that raises the loss of its own label most.

Pixels are numbers from 0 to 1, and `eps` is the largest change of a pixel on that scale. Models get normalized clips,
x = (pixel - mean) / std, so a change of eps is one of eps / std there, and may not leave the range of pixels.

B clips, C channels, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from videovit.models.contract import VideoModel

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits, labels) -> loss; a sum over clips, so that clips do not change the gradients of each other."""


@dataclass(frozen=True)
class PixelSpace:
    """The normalization of a model's input.

    Args:
        mean: of every channel, in the model's order of channels.
        std: likewise.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def step(self, size: float, like: Tensor) -> Tensor:
        """A change of `size` in every pixel, as one of the normalized input: (C, 1, 1, 1)."""
        return size / self._column(self.std, like)

    def clamp(self, x_BCTHW: Tensor) -> Tensor:
        """The nearest clip whose pixels are from 0 to 1."""
        mean, std = self._column(self.mean, x_BCTHW), self._column(self.std, x_BCTHW)
        return torch.minimum(torch.maximum(x_BCTHW, -mean / std), (1 - mean) / std)

    def black(self, like: Tensor) -> Tensor:
        """A black pixel: (C, 1, 1, 1)."""
        return -self._column(self.mean, like) / self._column(self.std, like)

    @staticmethod
    def _column(values: Sequence[float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1, 1)


def fgsm(model: VideoModel, x_BCTHW: Tensor, labels: Tensor, *, eps: float, pixels: PixelSpace, loss: Loss) -> Tensor:
    """Attack clips by one step of the fast gradient sign method.

        x' = clamp(x + eps * sign(gradient of the loss))          in pixels

    There is no random start, and clips that are misclassified already are attacked, too.

    Args:
        model: in evaluation mode.
        x_BCTHW: normalized clips.
        labels: what `loss` takes.
        eps: largest change of a pixel, on a scale from 0 to 1.
        pixels: the normalization.
        loss: of the logits.

    Returns:
        The attacked clips (B, C, T, H, W), normalized.

    Source: Goodfellow et al. (arXiv 1412.6572), section 4.
    """
    sign_BCTHW = _sign_of_gradient(model, x_BCTHW, labels, loss)
    return pixels.clamp(x_BCTHW + pixels.step(eps, x_BCTHW) * sign_BCTHW)


def pgd(
    model: VideoModel,
    x_BCTHW: Tensor,
    labels: Tensor,
    *,
    eps: float,
    step: float,
    num_steps: int,
    start_BCTHW: Tensor,
    pixels: PixelSpace,
    loss: Loss,
) -> Tensor:
    """Attack clips by projected gradient descent: steps as in `fgsm`, each followed by the way back to eps.

    Args:
        model, x_BCTHW, labels, eps, pixels, loss: see `fgsm`.
        step: change of a pixel per step, on a scale from 0 to 1.
        num_steps: number of steps.
        start_BCTHW: where to begin, -1 to 1, in units of eps; zeros for no random start.

    Returns:
        The attacked clips (B, C, T, H, W), normalized.

    Source: Madry et al. (arXiv 1706.06083), section 2.1.
    """
    most = pixels.step(eps, x_BCTHW)
    changed_BCTHW = pixels.clamp(x_BCTHW + most * start_BCTHW)
    for _ in range(num_steps):
        sign_BCTHW = _sign_of_gradient(model, changed_BCTHW, labels, loss)
        changed_BCTHW = changed_BCTHW + pixels.step(step, x_BCTHW) * sign_BCTHW
        changed_BCTHW = torch.minimum(torch.maximum(changed_BCTHW, x_BCTHW - most), x_BCTHW + most)
        changed_BCTHW = pixels.clamp(changed_BCTHW)
    return changed_BCTHW


def _sign_of_gradient(model: VideoModel, x_BCTHW: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    # Attacks run amid inference. Copies may take part in gradients, and full precision keeps small ones from vanishing.
    device = x_BCTHW.device.type
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
        copy_BCTHW = x_BCTHW.clone().float().requires_grad_()
        logits = model(copy_BCTHW)
        (gradient_BCTHW,) = torch.autograd.grad(loss(logits, labels.clone()), copy_BCTHW)
    return gradient_BCTHW.sign()
