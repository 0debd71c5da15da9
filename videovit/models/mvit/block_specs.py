"""From SlowFast's sparse lists to one `BlockSpec` per block.

SlowFast describes a multiscale transformer by a width, a depth and lists of exceptions: "double the channels at block
3", "pool the queries by (1, 2, 2) at block 14". `expand` applies them once, so that building a model is a loop over
specs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from videovit.errors import UserError
from videovit.models.layers.basic import Triple

KernelRule = Literal["stride+1", "stride", "2*stride+1"]

NO_POOLING: Triple = (1, 1, 1)
_KERNEL_RULES: dict[KernelRule, Callable[[int], int]] = {
    "stride+1": lambda s: s + 1 if s > 1 else s,
    "stride": lambda s: s,
    "2*stride+1": lambda s: 2 * s + 1 if s > 1 else s,
}


@dataclass(frozen=True)
class BlockSpec:
    """Everything that SlowFast's lists set for one block. (Rates of drop path follow from the depth, in `MViT`.)

    Attributes:
        dim: channels that enter the block.
        dim_attention: channels of q, k or v (all heads); differs from `dim` only if the attention widens.
        dim_out: channels that leave the block.
        num_heads: attention heads; each is `dim_attention / num_heads` wide.
        kernel_q, stride_q: query pooling over (T, H, W); both all ones if queries are not pooled.
        kernel_kv, stride_kv: the same for keys and values.
        shares_map: use the attention map of the block before instead of queries and keys of its own.
        window: side of the attention windows, in tokens of the block's input; 0: all tokens attend to each other.
    """

    dim: int
    dim_attention: int
    dim_out: int
    num_heads: int
    kernel_q: Triple = NO_POOLING
    stride_q: Triple = NO_POOLING
    kernel_kv: Triple = NO_POOLING
    stride_kv: Triple = NO_POOLING
    shares_map: bool = False
    window: int = 0

    @property
    def pools_q(self) -> bool:
        """Whether queries pass through a pooling operator, even with stride 1."""
        return self.kernel_q != NO_POOLING or self.stride_q != NO_POOLING

    @property
    def pools_kv(self) -> bool:
        """Whether keys and values pass through a pooling operator, even with stride 1."""
        return self.kernel_kv != NO_POOLING or self.stride_kv != NO_POOLING


def round_width(width: float, factor: float, divisor: int = 1) -> int:
    """Multiply a width and round it to a multiple of `divisor`, losing at most a tenth.

    Args:
        width: channels or heads before.
        factor: multiplier, 1 or more in published models.
        divisor: the result is a multiple of it (the heads).

    Returns:
        The rounded width, at least 1.

    Source: the rounding rule of MobileNet, as SlowFast applies it to MViT.
    """
    exact = width * factor
    rounded = max(1, int(exact + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * exact else rounded


def expand(
    *,
    depth: int,
    embed_dim: int,
    num_heads: int,
    dim_mul: Sequence[Sequence[float]] = (),
    head_mul: Sequence[Sequence[float]] = (),
    pool_q_stride: Sequence[Sequence[int]] = (),
    pool_kv_stride: Sequence[Sequence[int]] = (),
    pool_kv_stride_adaptive: Sequence[int] | None = None,
    pool_kvq_kernel: Sequence[int] | None = None,
    kernel_rule: KernelRule = "stride+1",
    dim_mul_in_attention: bool = False,
) -> list[BlockSpec]:
    """Turn SlowFast's sparse lists into one spec per block.

    Two rules are surprising. Without `dim_mul_in_attention` the entry `[i, 2]` of `dim_mul` acts in block i - 1, whose
    MLP widens the tokens for block i. And the adaptive key/value stride is divided by the query stride of a block
    *before* that block uses it: its input still has the finer grid, so its key grid is finer than in the rest of its
    stage:

        block        0     1     2     3     4 ..            16x4 model, per side
        grid in     56    56    28    28    14
        q stride     1     2     1     2     1
        kv stride    8     4     4     2     2
        keys         7    14     7    14     7

    Args:
        depth: number of blocks.
        embed_dim: channels of the patch embedding.
        num_heads: heads of block 0 (before `head_mul`).
        dim_mul: rows (block, factor): channel multipliers.
        head_mul: rows (block, factor): head multipliers.
        pool_q_stride: rows (block, t, h, w): blocks that pool queries.
        pool_kv_stride: rows (block, t, h, w): blocks that pool keys and values. Ignored with the adaptive form.
        pool_kv_stride_adaptive: (t, h, w) key/value stride of block 0, shrunk at each query stride.
        pool_kvq_kernel: (t, h, w) kernel of every pooled block; None stands for `kernel_rule`, per axis.
        kernel_rule: kernel from stride if `pool_kvq_kernel` is None; axes of stride 1 keep kernel 1.
        dim_mul_in_attention: widen inside the attention of block i (MViTv2) instead.

    Returns:
        `depth` specs.

    Raises:
        UserError: a row of the wrong length, a block outside 0..depth-1, a stride below 1, or heads that do not
            divide the attention channels.

    Source: MViT (arXiv 2104.11227) section 3 and Table 2; MViTv2 (arXiv 2112.01526) section 4.1.
    """
    dim_factors = _by_block("DIM_MUL", dim_mul, depth + 1)
    head_factors = _by_block("HEAD_MUL", head_mul, depth + 1)
    strides_q = _strides_by_block("POOL_Q_STRIDE", pool_q_stride, depth)
    if pool_kv_stride_adaptive is None:
        strides_kv = _strides_by_block("POOL_KV_STRIDE", pool_kv_stride, depth)
    else:
        strides_kv = _adaptive_strides(_triple("POOL_KV_STRIDE_ADAPTIVE", pool_kv_stride_adaptive), strides_q, depth)
    fixed = None if pool_kvq_kernel is None else _triple("POOL_KVQ_KERNEL", pool_kvq_kernel)

    def kernel(stride: Triple | None) -> Triple:
        if stride is None:
            return NO_POOLING
        rule = _KERNEL_RULES[kernel_rule]
        return fixed or (rule(stride[0]), rule(stride[1]), rule(stride[2]))

    specs: list[BlockSpec] = []
    dim, heads = embed_dim, num_heads
    for i in range(depth):
        heads = round_width(heads, head_factors.get(i, 1.0))
        widens = i if dim_mul_in_attention else i + 1
        divisor = round_width(heads, head_factors.get(widens, 1.0))
        dim_out = round_width(dim, dim_factors.get(widens, 1.0), divisor)
        dim_attention = dim_out if dim_mul_in_attention else dim
        if dim_attention % heads:
            raise UserError(f"block {i}: {heads} heads do not divide {dim_attention} channels (DIM_MUL, HEAD_MUL)")
        stride_q, stride_kv = strides_q.get(i), strides_kv.get(i)
        specs.append(
            BlockSpec(
                dim=dim,
                dim_attention=dim_attention,
                dim_out=dim_out,
                num_heads=heads,
                kernel_q=kernel(stride_q),
                stride_q=stride_q or NO_POOLING,
                kernel_kv=kernel(stride_kv),
                stride_kv=stride_kv or NO_POOLING,
            )
        )
        dim = dim_out
    return specs


def share_maps(specs: Sequence[BlockSpec], blocks: Sequence[int]) -> list[BlockSpec]:
    """Mark blocks that use the attention map of the block before them.

    A map fits if heads, queries and keys are the same in number and place, so only blocks 5 to 13 of MViT-B can share.

    Args:
        specs: of all blocks.
        blocks: numbers of those that share; consecutive ones all use the map of the block before the first of them.

    Returns:
        The specs, `shares_map` set.

    Raises:
        UserError: a block that cannot share; the message says why, and which can.

    Source: PSViT (arXiv 2108.03428) for the sharing; its use in MViT is this project's.
    """
    shared = list(specs)
    for block in blocks:
        reason = _why_not_shared(specs, block)
        if reason:
            legal = [i for i in range(len(specs)) if not _why_not_shared(specs, i)]
            raise UserError(f"SHARE_ATTENTION: block {block} {reason}; blocks that can share: {legal}")
        shared[block] = replace(specs[block], shares_map=True)
    return shared


def in_windows(specs: Sequence[BlockSpec], window: int, global_blocks: Sequence[int]) -> list[BlockSpec]:
    """Let blocks attend in windows, which cover the same pixels in all of them.

    Args:
        specs: of all blocks.
        window: side of a window in tokens of the first block; a stage later the tokens are larger, and half as many.
        global_blocks: numbers of those that attend to all tokens.

    Returns:
        The specs, `window` set.

    Raises:
        UserError: a block that does not exist; a window that the strides of a block do not divide; kernels that do not
            pool around tokens.

    Source: MViTv2 (arXiv 2112.01526), section 4.2, hybrid window attention.
    """
    if unknown := [block for block in global_blocks if not 0 <= block < len(specs)]:
        raise UserError(f"GLOBAL_BLOCKS: block {unknown[0]} is outside 0..{len(specs) - 1}")
    result = []
    for i, spec in enumerate(specs):
        is_global = i in global_blocks
        if not is_global:
            _check_window(i, spec, window)
        result.append(spec if is_global else replace(spec, window=window))
        window //= spec.stride_q[1]
    return result


def _check_window(block: int, spec: BlockSpec, window: int) -> None:
    where = f"WINDOW: block {block}"
    if spec.shares_map:
        raise UserError(f"{where} shares the map of the block before it, which only global blocks can")
    for name, kernel, stride in (("queries", spec.kernel_q, spec.stride_q), ("keys", spec.kernel_kv, spec.stride_kv)):
        if not window or window % stride[1] or stride[1] != stride[2]:
            raise UserError(
                f"{where} has windows of {window} tokens, which its stride of {name}, {stride}, must divide"
            )
        if not (kernel[1] % 2 and kernel[2] % 2):
            raise UserError(f"{where} pools {name} with {kernel}; windows need odd kernels, which are centered")


def _why_not_shared(specs: Sequence[BlockSpec], block: int) -> str:
    """Why the map of the block before does not fit; empty if it does."""
    if not 0 < block < len(specs):
        return f"has no block before it among the {len(specs)}"
    before, spec = specs[block - 1], specs[block]
    if spec.stride_q != NO_POOLING:
        return f"starts a stage: it pools its queries by {spec.stride_q}"
    if spec.dim != spec.dim_attention:
        return f"starts a stage: it widens its channels from {spec.dim} to {spec.dim_attention}"
    if spec.num_heads != before.num_heads:
        return f"has {spec.num_heads} heads, the block before it {before.num_heads}"
    strides = tuple(s * q for s, q in zip(spec.stride_kv, before.stride_q, strict=True))
    if strides != before.stride_kv:
        return (
            f"has other keys than the block before it: pooled by {strides}, counted from that block's input, "
            f"and by {before.stride_kv}"
        )
    # Windows of even kernels are not centered, so differently pooled keys would be shifted against each other.
    odd = all(k % 2 for k in (*spec.kernel_kv, *before.kernel_kv, *before.kernel_q))
    if not odd and (spec.kernel_kv != before.kernel_kv or before.stride_q != NO_POOLING):
        return f"pools keys with the kernel {spec.kernel_kv}, the block before it with {before.kernel_kv}"
    return ""


def _adaptive_strides(first: Triple, strides_q: dict[int, Triple], depth: int) -> dict[int, Triple]:
    """Key/value stride of every block: `first`, divided by the query strides up to that block, at least 1."""
    strides: dict[int, Triple] = {}
    current = first
    for i in range(depth):
        t, h, w = strides_q.get(i, NO_POOLING)
        current = (max(current[0] // t, 1), max(current[1] // h, 1), max(current[2] // w, 1))
        strides[i] = current
    return strides


def _by_block(key: str, rows: Sequence[Sequence[float]], num_blocks: int) -> dict[int, float]:
    """Rows (block, factor) as a dict; later rows win, as in SlowFast."""
    factors = {}
    for row in rows:
        if len(row) != 2:
            raise UserError(f"{key}: a row is [block, factor], found {list(row)}")
        factors[_block(key, row[0], num_blocks)] = float(row[1])
    return factors


def _strides_by_block(key: str, rows: Sequence[Sequence[int]], depth: int) -> dict[int, Triple]:
    """Rows (block, t, h, w) as a dict; later rows win."""
    strides = {}
    for row in rows:
        if len(row) != 4:
            raise UserError(f"{key}: a row is [block, t, h, w], found {list(row)}")
        strides[_block(key, row[0], depth)] = _triple(key, row[1:])
    return strides


def _block(key: str, value: float, num_blocks: int) -> int:
    if value != int(value) or not 0 <= value < num_blocks:
        raise UserError(f"{key}: block {value} is outside 0..{num_blocks - 1}")
    return int(value)


def _triple(key: str, values: Sequence[int]) -> Triple:
    """Three positive integers; two are taken as (h, w) of an image, with t = 1."""
    if len(values) not in (2, 3) or any(v != int(v) or v < 1 for v in values):
        raise UserError(f"{key}: expected (t, h, w), each 1 or more, found {list(values)}")
    t, h, w = (1, *values) if len(values) == 2 else values
    return int(t), int(h), int(w)
