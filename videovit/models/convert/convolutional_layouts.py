"""Names of pytorchvideo's convolutional networks as names of this project, which are PySlowFast's.

here                                  pytorchvideo
s1.pathway{p}_stem.conv, bn           blocks.0.multipathway_blocks.{p}.conv, norm; with one pathway blocks.0.conv, norm
s1.pathway0_stem.conv_xy, conv (X3D)  blocks.0.conv.conv_t, conv_xy
s{s}_fuse.conv_f2s, bn                blocks.{i}.multipathway_fusion.conv_fast_to_slow, norm
s{s}.pathway{p}_res{j}.branch2.a      blocks.{i}.(multipathway_blocks.{p}.)res_blocks.{j}.branch2.conv_a
s{s}.pathway{p}_res{j}.branch2.se.fc1 blocks.{i}.res_blocks.{j}.branch2.norm_b.1.block.0
head.conv_5, lin_5 (X3D)              blocks.5.pool.pre_conv, post_conv
head.projection                       blocks.{last}.proj
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
from torch import Tensor

State = dict[str, Tensor]

_EPS = 1e-5  # PyTorch's default for batch norms

_PARTS = (
    (r"branch1_conv\.", "branch1."),
    (r"branch1_norm\.", "branch1_bn."),
    (r"branch2\.conv_([abc])\.", r"branch2.\1."),
    (r"branch2\.norm_b\.0\.", "branch2.b_bn."),
    (r"branch2\.norm_b\.1\.block\.0\.", "branch2.se.fc1."),
    (r"branch2\.norm_b\.1\.block\.2\.", "branch2.se.fc2."),
    (r"branch2\.norm_([abc])\.", r"branch2.\1_bn."),
)
_STEM = (
    # Named for what they are called in its R(2+1)D, where the order is the reverse.
    (r"^conv\.conv_t\.", "conv_xy."),
    (r"^conv\.conv_xy\.", "conv."),
    (r"^norm\.", "bn."),
)
_HEAD = (
    (r"^proj\.", "projection."),
    (r"^pool\.pre_conv\.", "conv_5."),
    (r"^pool\.pre_norm\.", "conv_5_bn."),
    (r"^pool\.post_conv\.", "lin_5."),
    (r"^pool\.post_norm\.", "lin_5_bn."),
)


def is_pytorchvideo_cnn(names: Iterable[str]) -> bool:
    """Whether these are names of a convolutional network of pytorchvideo."""
    return any(re.match(r"blocks\.\d+\.(res_blocks|multipathway_blocks\.\d+\.res_blocks)\.", name) for name in names)


def from_pytorchvideo_cnn(state: State) -> State:
    """C2D, I3D, Slow, SlowFast and X3D of pytorchvideo."""
    numbers = {int(name.split(".")[1]) for name in state if re.match(r"blocks\.\d+\.", name)}
    with_blocks = sorted({int(m[1]) for name in state if (m := re.match(r"blocks\.(\d+)\..*res_blocks\.", name))})
    stage = {number: i + 2 for i, number in enumerate(with_blocks)} | {0: 1}
    last = max(numbers, default=0)
    renamed = {_renamed(name, stage, last): tensor for name, tensor in state.items()}
    for name in [name for name in renamed if name.endswith(".branch1.weight")]:
        norm = name.removesuffix("weight").removesuffix(".") + "_bn."
        if f"{norm}weight" not in renamed:
            renamed.update({norm + part: tensor for part, tensor in _identity_norm(renamed[name]).items()})
    return renamed


def _identity_norm(conv: Tensor) -> State:
    """A batch norm that changes nothing: a shortcut that keeps its channels has none there (X3D's first block)."""
    dim = conv.shape[0]
    return {
        "weight": conv.new_full((dim,), math.sqrt(1 + _EPS)),
        "bias": conv.new_zeros(dim),
        "running_mean": conv.new_zeros(dim),
        "running_var": conv.new_ones(dim),
        "num_batches_tracked": torch.zeros((), dtype=torch.int64),
    }


def _renamed(name: str, stage: dict[int, int], last: int) -> str:
    match = re.match(r"blocks\.(\d+)\.(.*)", name)
    if not match or ((number := int(match[1])) != last and number not in stage):
        return name
    rest = match[2]
    if number == last:
        return "head." + _replaced(rest, _HEAD)
    s = stage[number]
    if fusion := re.match(r"multipathway_fusion\.(.*)", rest):
        new = fusion[1].replace("conv_fast_to_slow.", "conv_f2s.").replace("norm.", "bn.")
        return f"s{s}_fuse.{new}"
    path = re.match(r"(?:multipathway_blocks\.(\d+)\.)?(.*)", rest)
    assert path is not None  # it matches everything
    p, rest = path[1] or "0", path[2]
    if s == 1:
        return f"s1.pathway{p}_stem.{_replaced(rest, _STEM)}"
    return f"s{s}.pathway{p}_res" + _replaced(rest, _PARTS).removeprefix("res_blocks.")


def _replaced(name: str, rules: Iterable[tuple[str, str]]) -> str:
    """The name after the first rule that applies."""
    for pattern, replacement in rules:
        new, count = re.subn(pattern, replacement, name)
        if count:
            return new
    return name
