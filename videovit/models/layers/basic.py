"""Patch embedding, linear layers, MLP and residual sums shared by the models.

B clips, C channels, T H W pixels; a leading `...` stands for any token layout.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.errors import UserError
from videovit.models.cpu.derived import Derived

Triple = tuple[int, int, int]


class SizeError(UserError):
    """Widths, heads or sizes of a model, or the size of a clip, that do not fit together."""


# Elements of a weight that is worth keeping twice. Larger ones stand in the coarse stages, where few tokens meet them:
# 3 % of their time is not worth the memory. Under autocast they are converted for one block at a time.
_PACK_AT_MOST = 500_000


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The dtype a matrix product with `x` runs in: autocast's where autocast is on, else its own."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):  # autocast knows no meta
        return torch.get_autocast_dtype(device)
    return x.dtype


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Autocast switched off for the device of `x`."""
    device = x.device.type
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def vector(values: Sequence[float], like: Tensor) -> Tensor:
    """Numbers in the dtype and on the device of `like`; a GPU need not be waited for until it has taken them."""
    return torch.stack([like.new_full((), value) for value in values])


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, derived: Derived, name: str, *, gelu: bool = False
) -> Tensor:
    """`x @ weight.T + bias`, then GELU where asked.

    In CPU inference the weight is packed once into oneDNN's own order and GELU is applied to the product while it is
    in the cache: same sums, up to 1.4 times as fast. Where that is not possible, plain operations.

    Args:
        x: (..., C).
        weight: (C', C).
        bias: (C',) or None.
        derived: holds the packed weight; owned by the module that owns `weight`.
        name: of the weight, unique within `derived`.
        gelu: apply the exact GELU.

    Returns:
        (..., C').
    """
    dtype = matmul_dtype(x)
    if derived.forget_in_training() or not _can_pack(x, weight, dtype):
        y = F.linear(x, weight, bias)
        return F.gelu(y) if gelu else y
    packed, key = weight, (name, dtype)
    if weight.numel() <= _PACK_AT_MOST:
        packed = derived(key, (weight,), lambda: _pack(weight.detach().to(dtype)))
    elif dtype != weight.dtype:
        packed = derived(key, (weight,), lambda: weight.detach().to(dtype), passing=True)
    if bias is not None:
        bias = derived((name, "bias", dtype), (bias,), lambda: bias.detach().to(dtype))
    attribute, algorithm = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x.to(dtype), packed, bias, attribute, [], algorithm)


def _can_pack(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if x.device.type != "cpu" or type(x) is not Tensor or weight.is_inference():
        return False
    return (weight.dtype == x.dtype or torch.is_autocast_enabled("cpu")) and _packing_works(dtype)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


@cache
def _packing_works(dtype: torch.dtype) -> bool:
    """Whether this build and this CPU run the packed product (private operators, so asked rather than assumed)."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    x, weight = torch.eye(16, dtype=dtype), torch.eye(16, dtype=dtype)
    try:
        packed = _pack(weight)
        y = torch.ops.mkldnn._linear_pointwise(x, packed, None, "gelu", [], "none")
    except (AttributeError, RuntimeError):  # no such operator, or not for this CPU (NotImplementedError included)
        return False
    return torch.allclose(y, F.gelu(x), atol=1e-2)


class Linear(nn.Linear):
    """`nn.Linear` through `linear`; same parameters, same state dict."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self._derived = Derived()

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """(..., out_features) of (..., in_features); GELU applied where asked."""
        return linear(x, self.weight, self.bias, self._derived, "weight", gelu=gelu)


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

    def grid(self, size: Sequence[int]) -> Triple:
        """(T', H', W') of a clip of `size` (T, H, W).

        Raises:
            SizeError: the clip is smaller than a patch.
        """
        sizes = zip(size, self.proj.kernel_size, self.proj.stride, self.proj.padding, strict=True)
        T, H, W = ((n + 2 * p - k) // s + 1 for n, k, s, p in sizes)
        if min(T, H, W) < 1:
            raise SizeError(
                f"clips of {tuple(size)} (T, H, W) are smaller than a patch, {self.proj.kernel_size}, with padding "
                f"{self.proj.padding}; see DATA.NUM_FRAMES, DATA.TRAIN_CROP_SIZE, DATA.TEST_CROP_SIZE, and the patch "
                "in the section of the model"
            )
        return T, H, W

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, T', H', W', dim) of (B, in_channels, T, H, W).

        Raises:
            SizeError: the clip is smaller than a patch.
        """
        self.grid(x_BCTHW.shape[2:])
        # Asking for channels last through the small weight spares transposing the large output.
        weight = self.proj.weight.contiguous(memory_format=torch.channels_last_3d)
        tokens = F.conv3d(x_BCTHW, weight, self.proj.bias, self.proj.stride, self.proj.padding)
        return tokens.permute(0, 2, 3, 4, 1).contiguous()


class Mlp(nn.Module):
    """Two linear layers with GELU between; names as in PySlowFast (fc1, fc2).

    Args:
        dim: channels in.
        hidden_dim: channels between.
        dim_out: channels out.
        dropout: after either layer.
    """

    def __init__(self, dim: int, hidden_dim: int, dim_out: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim_out)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_out) of (..., dim)."""
        hidden = self.fc1(x, gelu=True)
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
            return F.dropout(self.fc2(hidden), self.dropout, self.training)
        y: Tensor = self.fc2(hidden)
        return y


class DropPath(nn.Module):
    """Leaves out a residual branch for some samples of the batch, and scales it for the others.

    A mask is drawn once per branch and given to every tensor of the branch (grid and class token).

    Args:
        rate: probability of leaving the branch out.

    Source: stochastic depth (arXiv 1603.09382), per sample.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def draw(self, x: Tensor) -> Tensor | None:
        """(B,) factors for the samples of `x`: 0 or 1 / (1 - rate); None when nothing is dropped."""
        if not self.training or self.rate == 0.0:
            return None
        keep = 1.0 - self.rate
        return x.new_empty(x.shape[0]).bernoulli_(keep) / keep

    def extra_repr(self) -> str:
        """The rate, for printing."""
        return f"rate={self.rate:.3f}"


def add_branch(shortcut: Tensor, branch: Tensor, factors_B: Tensor | None) -> Tensor:
    """`shortcut + factors * branch`, one factor per sample; None: 1."""
    if factors_B is None:
        return shortcut + branch
    factors = factors_B.view(-1, *[1] * (branch.dim() - 1))
    if shortcut.dtype != branch.dtype:
        return shortcut + branch * factors
    return torch.addcmul(shortcut, branch, factors.to(branch.dtype))
