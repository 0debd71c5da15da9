"""Patch embedding, MLP and residual sums shared by the models.

B clips, C channels, T H W pixels; a leading `...` stands for any token layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.errors import UserError
from videovit.models.contract import Grid

Triple = tuple[int, int, int]
"""(t, h, w): pixels, kernels, strides."""


def triple(values: Sequence[int]) -> Triple:
    """Three numbers of a config as a tuple of known length."""
    t, h, w = values
    return t, h, w


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The dtype a matrix product with `x` runs in: autocast's if autocast is on, else its own."""
    device = x.device.type
    if not x.is_meta and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Autocast switched off for the device of `x`."""
    # The meta device has no autocast; torch.compile of PyTorch 2.8 cannot read `is_autocast_available`, which says so.
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def vector(values: Sequence[float], like: Tensor) -> Tensor:
    """Numbers in the dtype and on the device of `like`, without the copy from the host that stalls a GPU."""
    return torch.stack([like.new_full((), value) for value in values])


class PatchEmbed(nn.Module):
    """Convolution from pixels to the first tokens.

    Args:
        in_channels: of the clip.
        dim: channels of a token.
        kernel, stride, padding: over (T, H, W).
    """

    def __init__(self, in_channels: int, dim: int, kernel: Triple, stride: Triple, padding: Triple) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, dim, kernel, stride, padding)
        self.padding = padding

    def grid(self, size: Sequence[int]) -> Grid:
        """(T', H', W') in tokens of a clip of `size` (T, H, W) in pixels.

        Raises:
            UserError: the clip is smaller than a patch.
        """
        sizes = zip(size, self.proj.kernel_size, self.proj.stride, self.padding, strict=True)
        T, H, W = ((n + 2 * p - k) // s + 1 for n, k, s, p in sizes)
        if min(T, H, W) < 1:
            raise UserError(
                f"clips of {tuple(size)} (T, H, W) are smaller than a patch, {self.proj.kernel_size}, with padding "
                f"{self.padding}; see DATA.NUM_FRAMES, DATA.TRAIN_CROP_SIZE, DATA.TEST_CROP_SIZE, and the patch "
                "in the section of the model"
            )
        return T, H, W

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, T', H', W', dim) of (B, in_channels, T, H, W).

        Raises:
            UserError: the clip is smaller than a patch.
        """
        self.grid(x_BCTHW.shape[2:])
        # The output takes the layout of the weight. Reordering the small weight saves transposing the large output.
        weight = self.proj.weight.contiguous(memory_format=torch.channels_last_3d)
        tokens = F.conv3d(x_BCTHW, weight, self.proj.bias, self.proj.stride, self.padding)
        return tokens.permute(0, 2, 3, 4, 1).contiguous()

    def take(self, x_BCTHW: Tensor, index_BL: Tensor) -> Tensor:
        """Some of the tokens, (B, L, dim); patches without overlap are the only ones that are computed.

        Args:
            x_BCTHW: as in `forward`.
            index_BL: numbers of the tokens, row by row.
        """
        self.grid(x_BCTHW.shape[2:])
        if self.proj.kernel_size != self.proj.stride or any(self.padding):
            return take_tokens(self(x_BCTHW).flatten(1, 3), index_BL)
        patches_BNX = cut(x_BCTHW, triple(self.proj.kernel_size)).flatten(4).flatten(1, 3)
        return F.linear(take_tokens(patches_BNX, index_BL), self.proj.weight.flatten(1), self.proj.bias)


def cut(x_BCTHW: Tensor, patch: Triple) -> Tensor:
    """The patches of clips, (B, T', H', W', C, t, h, w), without overlap; pixels that fill none are left out."""
    t, h, w = patch
    cut_BCTHWthw = x_BCTHW.unfold(2, t, t).unfold(3, h, h).unfold(4, w, w)
    return cut_BCTHWthw.permute(0, 2, 3, 4, 1, 5, 6, 7)


def take_tokens(x_BNC: Tensor, index_BL: Tensor) -> Tensor:
    """(B, L, C): some tokens of each clip, by their numbers."""
    return x_BNC.take_along_dim(index_BL[:, :, None], 1)


class Mlp(nn.Module):
    """Two linear layers with GELU between them; names as in PySlowFast (fc1, fc2).

    Args:
        dim: channels in.
        hidden_dim: channels between.
        dim_out: channels out.
        dropout: after either layer.
    """

    def __init__(self, dim: int, hidden_dim: int, dim_out: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim_out)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_out) of (..., dim)."""
        hidden = F.gelu(self.fc1(x))
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
            return F.dropout(self.fc2(hidden), self.dropout, self.training)
        y: Tensor = self.fc2(hidden)
        return y


class DropPath(nn.Module):
    """Drops a residual branch for some samples of the batch, and scales it for the others.

    A mask is drawn once per branch and applied to all its tensors (grid and class token).

    Args:
        rate: probability of dropping the branch.

    Source: stochastic depth (arXiv 1603.09382), per sample.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def draw(self, x: Tensor) -> Tensor | None:
        """(B,) factors for the samples of `x`: 0 or 1 / (1 - rate); None if nothing is dropped."""
        if not self.training or self.rate == 0.0:
            return None
        keep = 1.0 - self.rate
        return x.new_empty(x.shape[0]).bernoulli_(keep) / keep

    def extra_repr(self) -> str:
        """The rate, for printing."""
        return f"rate={self.rate:.3f}"


def add_branch(shortcut: Tensor, branch: Tensor, factors_B: Tensor | None) -> Tensor:
    """`shortcut + factors * branch`, one factor per sample; None stands for ones.

    Args:
        shortcut: (B, ...).
        branch: of the same shape; may have another dtype under autocast.
        factors_B: (B,), such as the drop path's.
    """
    if factors_B is None:
        return shortcut + branch
    factors = factors_B.view(-1, *[1] * (branch.dim() - 1))
    # addcmul reads and writes once, but takes one dtype; under autocast a bf16 branch meets an fp32 shortcut.
    if shortcut.dtype != branch.dtype:
        return shortcut + branch * factors
    return torch.addcmul(shortcut, branch, factors.to(branch.dtype))
