"""Names of published image transformers (PiT, PS-ViT, DeiT and ViT) as names of this project, and the reverse for PiT
and PS-ViT.

here                  naver-ai/pit, timm                yuexy/PS-ViT                     deit, timm
blocks.i              transformers.s.blocks.j           ps_layers.t.transformer_layer,   blocks.i
                                                        trans_layers.j
blocks.i.pool         pools.s, transformers.s+1.pool
blocks.i.offset                                         ps_layers.t.offset_layer
pos_embed_spatial     pos_embed (1, C, H, W)
patch_embed.proj      patch_embed.conv (4-D)                                             patch_embed.proj (4-D)
cls_token (1, X, C)   cls_token                         cls_token                        cls_token, dist_token
head.projection       head                              head                             head
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
from torch import Tensor

from videovit.models.convert.read import CheckpointError

State = dict[str, Tensor]

_HEAD = (r"^(head|head_dist)\.(weight|bias)$", r"\1.projection.\2")
_PS_VIT_STEM = (  # theirs, ours
    ("stem.0.", "stem.conv."),
    ("stem.1.", "stem.norm."),
    ("stem.4.bn", "stem.units.0.norm"),
    ("stem.5.bn", "stem.units.1.norm"),
    ("stem.4.downsample.", "stem.units.0.shortcut."),
    ("stem.5.downsample.", "stem.units.1.shortcut."),
    ("stem.4.", "stem.units.0."),
    ("stem.5.", "stem.units.1."),
)


def detect_image(names: Iterable[str]) -> str | None:
    """`pit`, `ps_vit` or `deit` if these are names of one of them, else None."""
    names = set(names)
    if any(name.startswith("transformers.0.blocks.") for name in names):
        return "pit"
    if any(name.startswith("ps_layers.0.") for name in names):
        return "ps_vit"
    if "head.weight" in names and "blocks.0.attn.proj.weight" in names:
        return "deit"
    return None


def from_pit(state: State) -> State:
    """naver-ai/pit, and timm's `pit_*`, which counts a pooling to the stage after it."""
    found = {(int(m[1]), int(m[2])) for name in state if (m := re.match(r"transformers\.(\d+)\.blocks\.(\d+)\.", name))}
    number = {stage_block: i for i, stage_block in enumerate(sorted(found))}

    def block(match: re.Match[str]) -> str:
        return f"blocks.{number.get((int(match[1]), int(match[2])), -1)}."

    def pool(match: re.Match[str]) -> str:
        return f"blocks.{number.get((int(match[1]) + 1, 0), -1)}.pool."

    renamed = {}
    for old, tensor in state.items():
        name = re.sub(r"^pools\.(\d+)\.", pool, old)
        name = re.sub(r"^transformers\.(\d+)\.pool\.", lambda m: f"blocks.{number.get((int(m[1]), 0), -1)}.pool.", name)
        name = re.sub(r"^transformers\.(\d+)\.blocks\.(\d+)\.", block, name)
        name = re.sub(r"^patch_embed\.conv\.", "patch_embed.proj.", re.sub(*_HEAD, name))
        if name == "pos_embed" and tensor.dim() == 4:
            name, tensor = "pos_embed_spatial", tensor.flatten(2).transpose(1, 2)
        elif name.endswith((".pool.conv.weight", "patch_embed.proj.weight")) and tensor.dim() == 4:
            tensor = tensor.unsqueeze(2)
        renamed[name] = tensor
    return renamed


def to_pit(state: State, pools: str = "pools.{before}.") -> State:
    """The reverse of `from_pit`, for a `PiT` of images.

    Args:
        state: weights by this project's names.
        pools: beginning of a pooling's names; `{before}` and `{after}` are the stages around it.

    Raises:
        CheckpointError: the weights depend on time, which the layout has no place for; or on the shape of the image.
    """
    if "pos_embed_temporal" in state or any(t.dim() == 5 and t.shape[2] > 1 for t in state.values()):
        raise CheckpointError("this layout of PiT is for images; the model has weights over time")
    starts = [0, *sorted(int(m[1]) for name in state if (m := re.match(r"blocks\.(\d+)\.pool\.fc\.weight", name)))]
    renamed = {}
    for old, tensor in state.items():
        name = re.sub(r"\.projection\.", ".", old.replace("patch_embed.proj.", "patch_embed.conv."))
        if match := re.match(r"blocks\.(\d+)\.(pool\.)?", old):
            stage = sum(int(match[1]) >= start for start in starts) - 1
            start = f"transformers.{stage}.blocks.{int(match[1]) - starts[stage]}."
            name = (pools.format(before=stage - 1, after=stage) if match[2] else start) + old[match.end() :]
        if old == "pos_embed_spatial":
            side = math.isqrt(tensor.shape[1])
            if side * side != tensor.shape[1]:
                raise CheckpointError(f"the position table of {tensor.shape[1]} rows is not that of a square image")
            name, tensor = "pos_embed", torch.unflatten(tensor.transpose(1, 2), 2, (side, side))
        renamed[name] = tensor.squeeze(2) if tensor.dim() == 5 else tensor
    return renamed


def from_ps_vit(state: State) -> State:
    """yuexy/PS-ViT. Points are computed, not loaded; theirs are in another order, which makes no difference to a block.

    Raises:
        CheckpointError: copies of the position layer, one per iteration, are not equal.
    """
    copies = [name for name in state if ".position_layer." in name]
    for name in copies:
        own = f"pos_layer.{name.rpartition('.')[2]}"
        if own not in state or not torch.equal(state[name], state[own]):
            raise CheckpointError(f"{name} should be a copy of {own}, and is not")
    iterations = 1 + max((int(name.split(".")[1]) for name in state if name.startswith("ps_layers.")), default=-1)
    renamed = {}
    for old, tensor in state.items():
        if old in copies or old == "point_coord":
            continue
        name = re.sub(r"^trans_layers\.(\d+)\.", lambda m: f"blocks.{int(m[1]) + iterations}.", old)
        name = re.sub(r"^ps_layers\.(\d+)\.transformer_layer\.", r"blocks.\1.", name)
        name = re.sub(r"^ps_layers\.(\d+)\.offset_layer\.", r"blocks.\1.offset.", name)
        renamed[re.sub(*_HEAD, _with_start(name, _PS_VIT_STEM))] = tensor
    return renamed


def to_ps_vit(state: State) -> State:
    """The reverse of `from_ps_vit`, for a PS-ViT of images with a block of its own for every iteration.

    Their buffer of initial points, `point_coord`, follows from the size of the image and is not written.

    Raises:
        CheckpointError: the weights depend on time, which the layout has no place for.
    """
    if state["pos_layer.weight"].shape[1] > 2:
        raise CheckpointError("this layout of PS-ViT is for images; the model has weights over time")
    iterations = 1 + sum(name.endswith(".offset.weight") for name in state)
    renamed = {}
    for old, tensor in state.items():
        name = _with_start(old.replace(".projection.", "."), [(ours, theirs) for theirs, ours in _PS_VIT_STEM])
        if match := re.match(r"blocks\.(\d+)\.(offset\.)?", old):
            number, rest = int(match[1]), old[match.end() :]
            layer = "offset_layer" if match[2] else "transformer_layer"
            start = f"ps_layers.{number}.{layer}." if number < iterations else f"trans_layers.{number - iterations}."
            name = start + rest
        renamed[name] = tensor
    for kind in ("weight", "bias"):
        copies = {f"ps_layers.{i}.position_layer.{kind}": state[f"pos_layer.{kind}"] for i in range(iterations)}
        renamed.update(copies)
    return renamed


def _with_start(name: str, starts: Iterable[tuple[str, str]]) -> str:
    """The name with the first matching start replaced; `starts` holds (old, new)."""
    for old, new in starts:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def from_deit(state: State) -> State:
    """DeiT, and timm's `deit_*` and `vit_*`: joins class and distillation token, and adds a time axis to patches."""
    renamed = {}
    for old, tensor in state.items():
        if old == "dist_token":
            continue
        if old == "cls_token" and "dist_token" in state:
            tensor = torch.cat([tensor, state["dist_token"]], dim=1)
        elif old == "patch_embed.proj.weight" and tensor.dim() == 4:
            tensor = tensor.unsqueeze(2)
        renamed[re.sub(*_HEAD, old)] = tensor
    return renamed
