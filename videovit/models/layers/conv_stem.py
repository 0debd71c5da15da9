"""The first layers of a ResNet, which turn frames into a map of features.

B clips, C channels, T H W frames and their sides.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """Residual unit of three convolutions with batch norm.

    Args:
        dim, width, dim_out: channels in, between and out.
        project: whether the shortcut is a convolution; needed if `dim_out` differs from `dim`.

    Source: ResNet (arXiv 1512.03385).
    """

    def __init__(self, dim: int, width: int, dim_out: int, *, project: bool) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(dim, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, dim_out, 1, bias=False), nn.BatchNorm2d(dim_out)
        self.shortcut = None
        if project:
            self.shortcut = nn.Sequential(nn.Conv2d(dim, dim_out, 1, bias=False), nn.BatchNorm2d(dim_out))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, dim, H, W) to (B, dim_out, H, W)."""
        y = F.relu(self.norm1(self.conv1(x_BCHW)))
        y = F.relu(self.norm2(self.conv2(y)))
        shortcut = x_BCHW if self.shortcut is None else self.shortcut(x_BCHW)
        return F.relu(self.norm3(self.conv3(y)) + shortcut)


class ConvStem(nn.Module):
    """From pixels to the map that is sampled: the first layers of a ResNet-50, at a quarter of the resolution.

    Args:
        in_channels: of the clip.
        width: channels of the first convolution and inside the units.
        stem_dim: channels between the units.
        dim: channels out.

    Source: PS-ViT (arXiv 2108.01684).
    """

    def __init__(self, in_channels: int, width: int, stem_dim: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        first = Bottleneck(width, width, stem_dim, project=True)
        self.units = nn.ModuleList([first, Bottleneck(stem_dim, width, dim, project=stem_dim != dim)])

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, dim, T, H / 4, W / 4), every frame alone."""
        y = x_BCTHW.transpose(1, 2).flatten(0, 1)
        y = F.max_pool2d(F.relu(self.norm(self.conv(y))), 3, stride=2, padding=1)
        for unit in self.units:
            y = unit(y)
        return torch.unflatten(y, 0, (x_BCTHW.shape[0], -1)).transpose(1, 2)
