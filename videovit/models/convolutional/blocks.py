"""Blocks of convolutional video networks, with PySlowFast's names of parameters.

Every convolution is followed by a batch norm and has no bias.

B clips, C channels, T H W positions (in the stem: pixels), N query positions, P key positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.models.layers.basic import Triple
from videovit.models.layers.pooling import max_pool


def conv3d(dim_in: int, dim_out: int, kernel: Triple, stride: Triple = (1, 1, 1), **options: int | Triple) -> nn.Conv3d:
    """Convolution without bias whose padding keeps the size at stride 1, unless `options` sets another one."""
    padding = tuple(k // 2 for k in kernel)
    return nn.Conv3d(dim_in, dim_out, kernel, stride, **{"padding": padding, **options}, bias=False)  # type: ignore[arg-type]


def max_pool_BCTHW(x_BCTHW: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Maximum over windows; centered padding, none if kernel and stride are equal."""
    return max_pool(x_BCTHW.permute(0, 2, 3, 4, 1), kernel, stride).permute(0, 4, 1, 2, 3)


class Stem(nn.Module):
    """Convolution over 7 x 7 pixels, stride 2, then a maximum, stride 2.

    Args:
        in_channels: of the clip.
        dim: channels.
        kernel_t: frames of the convolution.
    """

    def __init__(self, in_channels: int, dim: int, kernel_t: int) -> None:
        super().__init__()
        self.conv = conv3d(in_channels, dim, (kernel_t, 7, 7), (1, 2, 2))
        self.bn = nn.BatchNorm3d(dim)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, dim, T, H / 4, W / 4)."""
        return max_pool_BCTHW(F.relu(self.bn(self.conv(x_BCTHW))), (1, 3, 3), (1, 2, 2))


class SeparableStem(nn.Module):
    """X3D's: 3 x 3 pixels, stride 2, then every channel by itself over frames.

    Args:
        in_channels: of the clip.
        dim: channels.
        kernel_t: frames of the second convolution.
    """

    def __init__(self, in_channels: int, dim: int, kernel_t: int) -> None:
        super().__init__()
        self.conv_xy = conv3d(in_channels, dim, (1, 3, 3), (1, 2, 2))
        self.conv = conv3d(dim, dim, (kernel_t, 1, 1), groups=dim)
        self.bn = nn.BatchNorm3d(dim)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, dim, T, H / 2, W / 2)."""
        return F.relu(self.bn(self.conv(self.conv_xy(x_BCTHW))))


class FuseFastToSlow(nn.Module):
    """Lateral connection of SlowFast: the fast pathway, strided in time, joins the channels of the slow one.

    Args:
        dim: channels of the fast pathway.
        ratio: channels of the result per channel of the fast pathway.
        kernel_t: frames of the convolution.
        alpha: frames of the fast pathway per frame of the slow one.

    Source: SlowFast (arXiv 1812.03982), section 3.3, time-strided convolution.
    """

    def __init__(self, dim: int, ratio: int, kernel_t: int, alpha: int) -> None:
        super().__init__()
        self.conv_f2s = conv3d(dim, dim * ratio, (kernel_t, 1, 1), (alpha, 1, 1))
        self.bn = nn.BatchNorm3d(dim * ratio)

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        """Both pathways, the slow one with more channels."""
        return torch.cat([slow, F.relu(self.bn(self.conv_f2s(fast)))], dim=1), fast


@dataclass(frozen=True)
class BlockShape:
    """Shape of a residual block.

    Attributes:
        dim_in, dim_inner, dim_out: channels before, within and after it.
        kernel_t: frames of its temporal convolution.
        stride: of rows and columns.
        groups: of the middle convolution.
        dilation: of rows and columns in the middle convolution.
        stride_first: the first convolution is the strided one, instead of the middle one.
        squeezes: X3D's blocks: scale channels by what is in the whole clip.
    """

    dim_in: int
    dim_inner: int
    dim_out: int
    kernel_t: int = 1
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    stride_first: bool = False
    squeezes: bool = False


class Bottleneck(nn.Module):
    """1 x 1 in space and `kernel_t` frames, then 3 x 3 in space, then 1 x 1 x 1."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        s, inner = shape.stride, shape.dim_inner
        first, middle = ((1, s, s), (1, 1, 1)) if shape.stride_first else ((1, 1, 1), (1, s, s))
        d = shape.dilation
        self.a = conv3d(shape.dim_in, inner, (shape.kernel_t, 1, 1), first)
        self.a_bn = nn.BatchNorm3d(inner)
        self.b = conv3d(inner, inner, (1, 3, 3), middle, padding=(0, d, d), dilation=(1, d, d), groups=shape.groups)
        self.b_bn = nn.BatchNorm3d(inner)
        self.c = conv3d(inner, shape.dim_out, (1, 1, 1))
        self.c_bn = nn.BatchNorm3d(shape.dim_out)

    def last(self) -> tuple[nn.Conv3d, nn.BatchNorm3d]:
        """The last convolution and its norm."""
        return self.c, self.c_bn

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, dim_out, T, H / stride, W / stride)."""
        x = F.relu(self.a_bn(self.a(x_BCTHW)))
        x = F.relu(self.b_bn(self.b(x)))
        y: Tensor = self.c_bn(self.c(x))
        return y


class Basic(nn.Module):
    """`kernel_t` x 3 x 3, then 1 x 3 x 3: the blocks of ResNet-18 and 34."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        s = shape.stride
        self.a = conv3d(shape.dim_in, shape.dim_out, (shape.kernel_t, 3, 3), (1, s, s))
        self.a_bn = nn.BatchNorm3d(shape.dim_out)
        self.b = conv3d(shape.dim_out, shape.dim_out, (1, 3, 3))
        self.b_bn = nn.BatchNorm3d(shape.dim_out)

    def last(self) -> tuple[nn.Conv3d, nn.BatchNorm3d]:
        """The last convolution and its norm."""
        return self.b, self.b_bn

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, dim_out, T, H / stride, W / stride)."""
        x = F.relu(self.a_bn(self.a(x_BCTHW)))
        y: Tensor = self.b_bn(self.b(x))
        return y


class SqueezeExcitation(nn.Module):
    """Factors between 0 and 1 on the channels, from their means over the clip.

    Args:
        dim: channels.
        ratio: of the width of the layer between.
    """

    def __init__(self, dim: int, ratio: float = 0.0625) -> None:
        super().__init__()
        width = round_width(dim, ratio)
        self.fc1 = nn.Conv3d(dim, width, 1)
        self.fc2 = nn.Conv3d(width, dim, 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """The clip, scaled."""
        mean_BC111 = x_BCTHW.mean(dim=(2, 3, 4), keepdim=True)
        factors_BC111: Tensor = self.fc2(F.relu(self.fc1(mean_BC111))).sigmoid()
        return x_BCTHW * factors_BC111


class ChannelwiseBottleneck(nn.Module):
    """X3D's block: 1 x 1 x 1, then `kernel_t` x 3 x 3 by groups, squeeze-excitation and Swish, then 1 x 1 x 1.

    Source: X3D (arXiv 2004.04730), table 1.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        s, inner = shape.stride, shape.dim_inner
        self.a = conv3d(shape.dim_in, inner, (1, 1, 1))
        self.a_bn = nn.BatchNorm3d(inner)
        self.b = conv3d(inner, inner, (shape.kernel_t, 3, 3), (1, s, s), groups=shape.groups)
        self.b_bn = nn.BatchNorm3d(inner)
        if shape.squeezes:
            self.se = SqueezeExcitation(inner)
        self.squeezes = shape.squeezes
        self.c = conv3d(inner, shape.dim_out, (1, 1, 1))
        self.c_bn = nn.BatchNorm3d(shape.dim_out)

    def last(self) -> tuple[nn.Conv3d, nn.BatchNorm3d]:
        """The last convolution and its norm."""
        return self.c, self.c_bn

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, dim_out, T, H / stride, W / stride)."""
        x = F.relu(self.a_bn(self.a(x_BCTHW)))
        x = self.b_bn(self.b(x))
        x = F.silu(self.se(x) if self.squeezes else x)
        y: Tensor = self.c_bn(self.c(x))
        return y


TRANSFORMS: dict[str, type[Bottleneck | Basic | ChannelwiseBottleneck]] = {
    "bottleneck_transform": Bottleneck,
    "basic_transform": Basic,
    "x3d_transform": ChannelwiseBottleneck,
}
"""RESNET.TRANS_FUNC -> the transform of a residual block."""


class ResBlock(nn.Module):
    """relu(shortcut(x) + transform(x)); the shortcut is a convolution if channels or sizes change.

    Args:
        transform: a key of `TRANSFORMS`.
        shape: of the block.
    """

    def __init__(self, transform: str, shape: BlockShape) -> None:
        super().__init__()
        self.projects = shape.dim_in != shape.dim_out or shape.stride != 1
        if self.projects:
            self.branch1 = conv3d(shape.dim_in, shape.dim_out, (1, 1, 1), (1, shape.stride, shape.stride))
            self.branch1_bn = nn.BatchNorm3d(shape.dim_out)
        self.branch2 = TRANSFORMS[transform](shape)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, dim_out, T, H / stride, W / stride)."""
        shortcut = self.branch1_bn(self.branch1(x_BCTHW)) if self.projects else x_BCTHW
        return F.relu(shortcut + self.branch2(x_BCTHW))


class NonLocal(nn.Module):
    """x plus attention of every position to every position, in half the channels.

    Args:
        dim: channels.
        pool: windows over which keys and values are pooled.
        softmax: weights by a softmax; otherwise dot products over the number of keys.
        groups: parts of the clip, along time, that attend to themselves.

    Source: Non-local neural networks (arXiv 1711.07971), section 3.
    """

    def __init__(self, dim: int, *, pool: Triple, softmax: bool, groups: int = 1) -> None:
        super().__init__()
        inner = dim // 2
        self.pool, self.softmax, self.groups = pool, softmax, groups
        self.conv_theta = nn.Conv3d(dim, inner, 1)
        self.conv_phi = nn.Conv3d(dim, inner, 1)
        self.conv_g = nn.Conv3d(dim, inner, 1)
        self.conv_out = nn.Conv3d(inner, dim, 1)
        self.bn = nn.BatchNorm3d(dim)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Same shape."""
        B, C, T, H, W = x_BCTHW.shape
        if self.groups > 1:
            parts = x_BCTHW.transpose(1, 2).reshape(B * self.groups, T // self.groups, C, H, W).transpose(1, 2)
            return x_BCTHW + self._attend(parts).transpose(1, 2).reshape(B, T, C, H, W).transpose(1, 2)
        return x_BCTHW + self._attend(x_BCTHW)

    def _attend(self, x_BCTHW: Tensor) -> Tensor:
        keyed = x_BCTHW if self.pool == (1, 1, 1) else max_pool_BCTHW(x_BCTHW, self.pool, self.pool)
        theta_BCN, phi_BCP, g_BCP = (
            conv(x).flatten(2) for conv, x in ((self.conv_theta, x_BCTHW), (self.conv_phi, keyed), (self.conv_g, keyed))
        )
        scores_BNP = theta_BCN.transpose(1, 2) @ phi_BCP
        if self.softmax:
            weights_BNP = (scores_BNP / math.sqrt(theta_BCN.shape[1])).softmax(dim=2)
        else:
            weights_BNP = scores_BNP / phi_BCP.shape[2]
        mixed_BCN = g_BCP @ weights_BNP.transpose(1, 2)
        y: Tensor = self.bn(self.conv_out(mixed_BCN.unflatten(2, x_BCTHW.shape[2:])))
        return y


def round_width(width: int, factor: float, *, divisor: int = 8) -> int:
    """`width * factor` rounded to a multiple of 8, at least 8 and at least 90 % of it; a factor of 0 keeps the width.

    Source: X3D (arXiv 2004.04730); MobileNetV2's rule.
    """
    if not factor:
        return width
    exact = width * factor
    rounded = max(divisor, int(exact + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * exact else rounded


def average_windows(x_BCTHW: Tensor, window: Sequence[int]) -> Tensor:
    """Means over all windows, stride 1; windows are cut to the size of the map.

    In two dimensions at a time: the gradient of PyTorch's pooling in three varies between runs on GPUs.
    """
    kt, kh, kw = (min(k, n) for k, n in zip(window, x_BCTHW.shape[2:], strict=True))
    T = x_BCTHW.shape[2]
    in_time = torch.stack([x_BCTHW[:, :, t : t + kt].mean(dim=2) for t in range(T - kt + 1)], dim=2)
    x_BCXW = in_time.flatten(1, 2)
    pooled = F.avg_pool2d(x_BCXW, (kh, kw), stride=1)
    return torch.unflatten(pooled, 1, (x_BCTHW.shape[1], -1))
