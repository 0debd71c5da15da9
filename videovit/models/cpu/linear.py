"""Linear layers with packed weights and fused GELU.

A leading `...` stands for any token layout, C channels.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.models.cpu.cache import Cache, held, in_eager_inference
from videovit.models.layers.basic import Mlp, matmul_dtype

# Elements of a weight that is kept packed beside the original. Larger ones are those of the coarse stages, which few
# tokens pass: packing would save 3 % of their time and cost 50 MiB (MViT-B).
_PACK_AT_MOST = 500_000


def fast_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, kept: Cache, name: str, *, gelu: bool = False
) -> Tensor:
    """`x @ weight.T + bias`, then GELU if requested.

    oneDNN stores a weight in an order of its own, into which PyTorch copies it on every call; here it is copied once.
    GELU is applied to the product while it is in the cache of the CPU. The sums are the same, up to 1.4 times as fast.

    Args:
        x: (..., C).
        weight: (C', C).
        bias: (C',) or None.
        kept: cache of the module that owns `weight`.
        name: of the weight, unique within that module.
        gelu: apply the exact GELU.

    Returns:
        (..., C').
    """
    dtype = matmul_dtype(x)
    if not _can_pack(x, weight, dtype):
        y = F.linear(x, weight, bias)
        return F.gelu(y) if gelu else y
    packed = weight
    if weight.numel() <= _PACK_AT_MOST:
        packed = kept((name, dtype), lambda: _pack(weight.detach().to(dtype)))
    elif dtype != weight.dtype:
        packed = held((id(kept), name, dtype), lambda: weight.detach().to(dtype))
    narrow_bias = None if bias is None else kept((name, "bias", dtype), lambda: bias.detach().to(dtype))
    operation, algorithm = ("gelu", "none") if gelu else ("none", "")
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(dtype), packed, narrow_bias, operation, [], algorithm)
    return out


def product(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T` by oneDNN, or as PyTorch computes it if oneDNN cannot.

    Args:
        x: (N, C), contiguous.
        weight: (C', C), contiguous and of the same dtype.

    Returns:
        (N, C').
    """
    if x.device.type != "cpu" or type(x) is not Tensor or not _packing_works(x.dtype):
        return F.linear(x, weight)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y


@cache
def onednn_beats_mkl() -> bool:
    """Whether oneDNN's fp32 products are faster than those of MKL, which PyTorch uses for attention.

    MKL runs its AVX-512 kernels on CPUs of Intel alone; on those of AMD it takes up to twice as long as oneDNN.
    """
    if not torch._C.has_mkl or not _packing_works(torch.float32):
        return False
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return False


def _can_pack(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    # Subclasses of Tensor (sharded, fake, quantized ones) bring their own products.
    if x.device.type != "cpu" or type(x) is not Tensor or weight.is_inference():
        return False
    return (weight.dtype == x.dtype or torch.is_autocast_enabled("cpu")) and _packing_works(dtype)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


@cache
def _packing_works(dtype: torch.dtype) -> bool:
    """Whether this build and this CPU run the packed product; its operators are private, so a small one is tried."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch._C._has_mkldnn:
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    x, weight = torch.eye(16, dtype=dtype), torch.eye(16, dtype=dtype)
    try:
        y = torch.ops.mkldnn._linear_pointwise(x, _pack(weight), None, "gelu", [], "none")
    except (AttributeError, RuntimeError):  # no such operator, or not for this CPU
        return False
    return torch.allclose(y, F.gelu(x), atol=1e-2)


class FastLinear(nn.Linear):
    """`nn.Linear` through `fast_linear`."""

    kept: Cache

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """(..., out_features) of (..., in_features), then GELU if requested."""
        if in_eager_inference():
            return fast_linear(x, self.weight, self.bias, self.kept, "weight", gelu=gelu)
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if gelu else y


class FastMlp(Mlp):
    """`Mlp` whose first layer applies the GELU."""

    kept: Cache

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_out) of (..., dim)."""
        if self.training or not in_eager_inference():
            return super().forward(x)
        y: Tensor = self.fc2(self.fc1(x, gelu=True))
        return y
