"""Pooling of token grids: depthwise convolution, maximum and average, channels last throughout.

Tokens are (B, T, H, W, C) in memory, heads folded into C. This is the layout that the fast depthwise kernels read, so
nothing is transposed on the way in or out.

B clips, T H W grid in tokens, C channels (all heads), K kernel taps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from videovit.models.contract import Grid
from videovit.models.layers.basic import Triple


def padding_of(kernel: Sequence[int], stride: Sequence[int]) -> list[int]:
    """Half a kernel per axis as in PySlowFast, except that windows with kernel == stride tile without overlap."""
    return [(k - 1 if k == s else k) // 2 for k, s in zip(kernel, stride, strict=True)]


def pooled_size(size: int, kernel: int, stride: int) -> int:
    """Positions left on one axis after pooling.

    Args:
        size: positions before.
        kernel, stride: along this axis; the padding is `padding_of` them.
    """
    (padding,) = padding_of((kernel,), (stride,))
    return (size + 2 * padding - kernel) // stride + 1


def pooled_grid(grid: Grid, kernel: Triple, stride: Triple) -> Grid:
    """The grid that is left of a grid after pooling."""
    T, H, W = (pooled_size(n, k, s) for n, k, s in zip(grid, kernel, stride, strict=True))
    return T, H, W


def depthwise_conv(x_BTHWC: Tensor, weight_C1KKK: Tensor, stride: Triple) -> Tensor:
    """Depthwise 3D convolution with centered padding and no bias.

    Args:
        x_BTHWC: (B, T, H, W, C).
        weight_C1KKK: (C, 1, kt, kh, kw), one filter per channel.
        stride: (t, h, w).

    Returns:
        (B, T', H', W', C), dtype of `x_BTHWC`.
    """
    weight = weight_C1KKK.to(x_BTHWC.dtype)
    # A view: in memory the channels stay last, which PyTorch recognizes as the channels_last_3d format.
    x_BCTHW = x_BTHWC.permute(0, 4, 1, 2, 3)
    if x_BTHWC.device.type == "cpu" and torch.is_grad_enabled() and (x_BTHWC.requires_grad or weight.requires_grad):
        pooled: Tensor = _DepthwiseConv.apply(x_BCTHW, weight, stride)
    else:
        pooled = _conv(x_BCTHW, weight, stride)
    return pooled.permute(0, 2, 3, 4, 1)


def _conv(x_BCTHW: Tensor, weight: Tensor, stride: Sequence[int]) -> Tensor:
    _, _, *kernel = weight.shape
    return F.conv3d(x_BCTHW, weight, None, stride, padding_of(kernel, stride), 1, weight.shape[0])


class _DepthwiseConv(torch.autograd.Function):
    """Depthwise convolution with a fast backward pass on CPUs.

    oneDNN's depthwise kernel is fast forward and slow backward, worst in bf16 and channels last. The gradient of the
    input is a forward convolution too: of the output gradient, spread by the stride with zeros in between, with the
    flipped filter. The gradient of the weight is assembled from 2D ones, in fp32.
    """

    @staticmethod
    def forward(ctx: Any, x_BCTHW: Tensor, weight: Tensor, stride: Triple) -> Tensor:
        ctx.save_for_backward(x_BCTHW, weight)
        ctx.stride = stride
        return _conv(x_BCTHW, weight, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BCTHW: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_BCTHW, weight = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        dx = _input_grad(dy_BCTHW, x_BCTHW, weight, ctx.stride) if needs_x else None
        dweight = _weight_grad(dy_BCTHW, x_BCTHW, weight, ctx.stride) if needs_weight else None
        return dx, dweight, None


def _input_grad(dy_BCTHW: Tensor, x_BCTHW: Tensor, weight: Tensor, stride: Triple) -> Tensor:
    """Gradient of the input as one stride-1 forward convolution."""
    B, C, *sizes = x_BCTHW.shape
    _, _, *kernel = weight.shape
    padding = padding_of(kernel, stride)
    if tuple(stride) != (1, 1, 1):
        # As long as the positions at which windows of stride 1 would start.
        spread = [n + 2 * p - k + 1 for n, k, p in zip(sizes, kernel, padding, strict=True)]
        spread_BCTHW = dy_BCTHW.new_zeros(B, *spread, C).permute(0, 4, 1, 2, 3)
        spread_BCTHW[:, :, :: stride[0], :: stride[1], :: stride[2]] = dy_BCTHW
        dy_BCTHW = spread_BCTHW
    return F.conv3d(
        dy_BCTHW,
        weight.flip(2, 3, 4),
        None,
        1,
        [k - 1 - p for k, p in zip(kernel, padding, strict=True)],
        1,
        C,
    )


def _weight_grad(dy_BCTHW: Tensor, x_BCTHW: Tensor, weight: Tensor, stride: Triple) -> Tensor:
    """Gradient of the weight, frame by frame: one 2D gradient per temporal tap, in fp32 at least.

    oneDNN's 2D kernel for it is 5 to 30 times as fast as its 3D one. Tap a of the filter reads input frame
    t * stride + a - padding for output frame t.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    x_BTCHW, dy_BTCHW = x_BCTHW.transpose(1, 2).to(wide), dy_BCTHW.transpose(1, 2).to(wide)
    C, _, *kernel = weight.shape
    padding = padding_of(kernel, stride)
    empty = weight.new_empty(C, 1, *kernel[1:], dtype=wide)
    taps = []
    for tap in range(kernel[0]):
        frames = [(t, t * stride[0] + tap - padding[0]) for t in range(dy_BTCHW.shape[1])]
        inside = [(t, source) for t, source in frames if 0 <= source < x_BTCHW.shape[1]]
        if not inside:  # the tap reads nothing but padding
            taps.append(torch.zeros_like(empty))
            continue
        (first, source), num = inside[0], len(inside)
        x = x_BTCHW[:, source : source + (num - 1) * stride[0] + 1 : stride[0]].flatten(0, 1)
        dy = dy_BTCHW[:, first : first + num].flatten(0, 1)
        sizes = (stride[1:], padding[1:], [1, 1], False, [0, 0], C)
        taps.append(torch.ops.aten.convolution_backward(dy, x, empty, None, *sizes, [False, True, False])[1])
    return torch.stack(taps, dim=2).to(weight.dtype)


def max_pool(x_BTHWC: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Maximum over windows with centered padding (which never wins).

    Args:
        x_BTHWC: (B, T, H, W, C).
        kernel: (t, h, w).
        stride: (t, h, w).

    Returns:
        (B, T', H', W', C).
    """
    return _pool(F.max_pool2d, x_BTHWC, kernel, stride)


def avg_pool(x_BTHWC: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Mean over windows with centered padding, which counts as zeros (PyTorch's default).

    Args:
        x_BTHWC: (B, T, H, W, C).
        kernel: (t, h, w).
        stride: (t, h, w).

    Returns:
        (B, T', H', W', C).
    """
    return _pool(F.avg_pool2d, x_BTHWC, kernel, stride)


def _pool(pool2d: Callable[..., Tensor], x_BTHWC: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Pool every frame, then over time: equal to 3D pooling, whose gradients on GPUs vary between runs."""
    padding_t, *padding = padding_of(kernel, stride)
    x_XCHW = x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2)
    x_XCHW = pool2d(x_XCHW, kernel[1:], stride[1:], padding)
    x_BTHWC = torch.unflatten(x_XCHW.permute(0, 2, 3, 1), 0, x_BTHWC.shape[:2])
    if kernel[0] == stride[0] == 1:
        return x_BTHWC
    x_BCTX = x_BTHWC.flatten(2, 3).permute(0, 3, 1, 2)
    x_BCTX = pool2d(x_BCTX, (kernel[0], 1), (stride[0], 1), (padding_t, 0))
    return torch.unflatten(x_BCTX.permute(0, 2, 3, 1), 2, x_BTHWC.shape[2:4])


def _has_gaps(kernel: int, stride: int) -> bool:
    return stride > kernel and kernel % 2 == 1


def touched(size: int, kernel: int, stride: int) -> list[int]:
    """Positions of one axis that a pooling reads: all of them, unless the kernel is odd and the stride exceeds it.

    A kernel of 3 with stride 8 reads 3 of 8 positions:

        position   0 1 2 3 4 5 6 7 8 9 ...
        window   (-1 0 1)        (7 8 9)

    Put side by side, what is read can be pooled with a stride equal to the kernel and the same padding (`padding_of`
    would give even kernels another one).
    """
    if not _has_gaps(kernel, stride):
        return list(range(size))
    first = -(kernel // 2)
    starts = [first + i * stride for i in range(pooled_size(size, kernel, stride))]
    return [p for start in starts for p in range(start, start + kernel) if 0 <= p < size]


def _touched_on(size: int, kernel: int, stride: int, device: torch.device) -> Tensor:
    """`touched` as a tensor, computed on its device: a list copied from the host would stall a GPU."""
    if not _has_gaps(kernel, stride):
        return torch.arange(size, device=device)
    index = torch.arange(pooled_size(size, kernel, stride) * kernel, device=device)
    first, number = kernel // 2, len(touched(size, kernel, stride))
    return (index // kernel * stride + index % kernel - first)[first : first + number]


def touched_index(
    height: int, width: int, kernel: Triple, stride: Triple, device: torch.device
) -> tuple[Tensor, int, int, Triple]:
    """The tokens of a frame that a strided pooling reads.

    Args:
        height, width: of the frame, in tokens.
        kernel, stride: of the pooling, (t, h, w).
        device: of the index.

    Returns:
        index: (X,) int64 into the row-major frame, X = rows * columns.
        rows, columns: size of the compacted frame.
        stride: pooling the compacted frame with it gives the same result.
    """
    rows, columns = _touched_on(height, kernel[1], stride[1], device), _touched_on(width, kernel[2], stride[2], device)
    index = rows[:, None] * width + columns
    h, w = (k if _has_gaps(k, s) else s for k, s in zip(kernel[1:], stride[1:], strict=True))
    return index.flatten(), len(rows), len(columns), (stride[0], h, w)
