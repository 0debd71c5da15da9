"""Config keys of a model that given weights fit, from their names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from videovit.models.convert.fit import is_image

State = Mapping[str, Tensor]
Triple = tuple[int, int, int]


def config_hints(state: State) -> dict[str, object]:
    """Config keys and values that the weights of an MViT need.

    Widths, heads, blocks, tables and pooling kernels follow from names and shapes. Strides do not if all kernels are
    equal; they are filled in as published: queries halve the sides at the blocks that double the heads; keys and values
    end at stride 1, and start at 2 to the number of halvings (for images at 4). A last stage without key/value pooling,
    as in weights of 2021, has no pooling names and gives a `POOL_KV_STRIDE` list instead of `POOL_KV_STRIDE_ADAPTIVE`.

    Args:
        state: weights by this project's names.

    Returns:
        Key -> value, ready for a config; empty if these are not the weights of an MViT.
    """
    depth = _depth(state)
    stem = state.get("patch_embed.proj.weight")
    if stem is None or not depth or "blocks.0.attn.proj.weight" not in state:
        return {}
    hints: dict[str, object] = {
        "MVIT.DEPTH": depth,
        "MVIT.EMBED_DIM": stem.shape[0],
        "MVIT.CLS_EMBED_ON": "cls_token" in state,
        "MVIT.USE_ABS_POS": "pos_embed" in state or "pos_embed_spatial" in state,
        "MVIT.SEP_POS_EMBED": "pos_embed_spatial" in state,
        "MVIT.REL_POS_SPATIAL": "blocks.0.attn.rel_pos_h" in state,
        "MVIT.REL_POS_TEMPORAL": "blocks.0.attn.rel_pos_t" in state,
        "MVIT.SEPARATE_QKV": "blocks.0.attn.q.weight" in state,
        "MVIT.QKV_BIAS": "blocks.0.attn.qkv.bias" in state or "blocks.0.attn.q.bias" in state,
        "MVIT.NORM_STEM": "norm_stem.weight" in state,
    }
    hints["MVIT.PATCH_2D"] = is_image(dict(state))
    hints["MVIT.PATCH_KERNEL"] = list(stem.shape[-2 if hints["MVIT.PATCH_2D"] else 2 :])
    hints.update(_widths(state, depth))
    hints.update(_pooling(state, depth, _widened(state, depth)))
    if "head.projection.weight" in state:
        hints["MODEL.NUM_CLASSES"] = state["head.projection.weight"].shape[0]
    return hints


def _depth(state: State) -> int:
    numbers = [int(m[1]) for name in state if (m := re.match(r"blocks\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1


def _rows(state: State, i: int, name: str) -> int:
    return state[f"blocks.{i}.{name}"].shape[0]


def _head_width(state: State) -> int | None:
    """Channels of one head, from the first tensor of that size; None without one."""
    for name, tensor in state.items():
        if re.search(r"\.attn\.(norm_[qkv]|pool_[qkv])\.weight$", name):
            return tensor.shape[0]
        if re.search(r"\.attn\.rel_pos_[hwt]$", name):
            return tensor.shape[1]
    return None


def _widths(state: State, depth: int) -> dict[str, object]:
    """Channel and head multipliers."""
    dims = [_rows(state, i, "norm1.weight") for i in range(depth)] + [_rows(state, depth - 1, "mlp.fc2.weight")]
    attention = [_rows(state, i, "attn.proj.weight") for i in range(depth)]
    in_attention = any(a != d for a, d in zip(attention, dims, strict=False))
    grow = [[i if in_attention else i + 1, dims[i + 1] / dims[i]] for i in range(depth) if dims[i + 1] != dims[i]]
    hints: dict[str, object] = {"MVIT.DIM_MUL": grow, "MVIT.DIM_MUL_IN_ATT": in_attention}
    width = _head_width(state)
    if width:
        heads = [a // width for a in attention]
        hints["MVIT.NUM_HEADS"] = heads[0]
        hints["MVIT.HEAD_MUL"] = [[i, heads[i] / heads[i - 1]] for i in range(1, depth) if heads[i] != heads[i - 1]]
    hints["MVIT.MLP_RATIO"] = _rows(state, 0, "mlp.fc1.weight") / attention[0]
    return hints


def _widened(state: State, depth: int) -> list[int]:
    """Blocks whose attention is wider than that of the block before: the starts of stages."""
    attention = [_rows(state, i, "attn.proj.weight") for i in range(depth)]
    return [i for i in range(1, depth) if attention[i] != attention[i - 1]]


def _pooling(state: State, depth: int, stages: list[int]) -> dict[str, object]:
    """Pooling kernels, and strides from the kernels or, if those are all equal, as published."""
    q, kv = _kernels(state, "q"), _kernels(state, "k")
    if not q and not kv:
        return {}
    hints: dict[str, object] = {"MVIT.MODE": "conv"}
    kernels = {*q.values(), *kv.values()}
    # Equal kernels come from POOL_KVQ_KERNEL; otherwise each one is its stride + 1.
    alike = len(kernels) == 1
    hints["MVIT.POOL_KVQ_KERNEL"] = list(min(kernels)) if alike else None
    if alike:
        stride_q = {i: (1, 2, 2) if i in stages else (1, 1, 1) for i in q}
    else:
        stride_q = {i: _stride(k) for i, k in q.items()}
    hints["MVIT.POOL_Q_STRIDE"] = [[i, *stride] for i, stride in stride_q.items()]
    rows: list[list[int]] = []
    adaptive = None
    if not alike:
        rows = [[i, *_stride(k)] for i, k in kv.items()]
    else:
        halvings = [i for i, stride in stride_q.items() if stride[1] > 1]
        first_unpooled = next((i for i in range(depth) if i not in kv), depth)
        start = 2 ** sum(i <= first_unpooled for i in halvings)
        if len(kv) == depth:
            is_video = any(k[0] > 1 for k in kv.values())
            adaptive = [1, start, start] if is_video else [1, min(start, 4), min(start, 4)]
        else:
            rows = [[i, 1, *[max(start // 2 ** sum(j <= i for j in halvings), 1)] * 2] for i in kv]
    return hints | {"MVIT.POOL_KV_STRIDE_ADAPTIVE": adaptive, "MVIT.POOL_KV_STRIDE": rows}


def _kernels(state: State, part: str) -> dict[int, Triple]:
    """Block -> pooling kernel of q or k, for blocks that pool."""
    pattern = re.compile(rf"blocks\.(\d+)\.attn\.pool_{part}\.weight$")
    found: dict[int, Triple] = {}
    for name, tensor in state.items():
        if match := pattern.match(name):
            t, h, w = (1, *tensor.shape[2:]) if tensor.dim() == 4 else tensor.shape[2:]
            found[int(match[1])] = (t, h, w)
    return dict(sorted(found.items()))


def _stride(kernel: Triple) -> Triple:
    """The stride of a kernel by the rule kernel = stride + 1; kernel 1 has stride 1."""
    t, h, w = (max(k - 1, 1) for k in kernel)
    return t, h, w
