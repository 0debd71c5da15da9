"""Fitting a state dict with this project's names to the form and the sizes of one model.

Only these may differ: q, k, v as one projection or three; position tables joint or separate, or for another size;
weights of images for a model of clips and the reverse; a classifier for other classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from videovit.models.convert.adapt import (
    Inflation,
    drop_head,
    inflate_kernel,
    join_pos_embed,
    join_qkv,
    resize_pos_embed,
    resize_rel_pos,
    split_pos_embed,
    split_qkv,
)

State = dict[str, Tensor]
Grid = tuple[int, int, int]

_STEM = "patch_embed.proj.weight"
_TABLES = ("pos_embed_spatial", "pos_embed_temporal", "pos_embed_class")
_CONV = re.compile(r"(^patch_embed\.proj|\.attn\.pool_[qkv]|\.pool\.conv)\.weight$")
_POINTS = re.compile(r"(\.offset\.(weight|bias)|^pos_layer\.weight)$")
_REL_POS = re.compile(r"\.attn\.rel_pos_[hwt]$")
_REL_POS_TIME = re.compile(r"\.attn\.rel_pos_t$")
_PRETRAINING = ("mask_token", "decoder", "dec_pos_embed", "pred_head.", "hogs.", "mask.")


@dataclass
class Fit:
    """The outcome of `fit`.

    Attributes:
        state: name of the model -> tensor of its shape.
        resized, skipped, missing: as in `LoadReport`; missing holds what is tolerated.
        how: name -> what was done, or why it was left out.
        problems: name -> why the weights do not fit the model; empty if they do.
    """

    state: State = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    how: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def fit(
    found: State,
    wanted: State,
    *,
    grid: Grid | None,
    head_names: tuple[str, ...] = ("head",),
    inflate: Inflation = "center",
) -> Fit:
    """Match weights to a model.

    Args:
        found: tensors by this project's names.
        wanted: the model's state dict.
        grid: (T, H, W) in tokens that the model's position tables are made for; None: it has none.
        head_names: modules of the model that depend on the number of classes.
        inflate: how convolutions of images get a time axis.

    Returns:
        A `Fit`; its `problems` list what does not fit.
    """
    out = Fit()
    head = tuple(f"{name}." for name in head_names)
    excused = {}
    if any(name.startswith(_PRETRAINING) for name in found):
        excused = dict.fromkeys(("norm.weight", "norm.bias"), "not part of pretraining: keeps its initial values")
    from_image = grid is not None and grid[0] > 1 and is_image(found, wanted)
    to_image = grid is not None and grid[0] == 1 and not is_image(found, wanted)
    if from_image:
        reason = "not in the weights of an image model: keeps its initial values"
        excused |= dict.fromkeys(("cls_token", "pos_embed_class"), reason)
    found = _match_qkv(found, wanted)
    found = _match_head(found, wanted, head, out)
    if grid is not None:
        found = _match_tables(found, wanted, grid, out, from_image)
    for name, target in wanted.items():
        if name not in found:
            _leave(name, target, out, head, excused)
        else:
            _place(name, found[name], target, out, grid, inflate)
    for name in found:
        if name not in wanted:
            _skip(name, found[name], out, to_image)
    return out


def is_image(found: State, wanted: State) -> bool:
    """Whether weights belong to an image model: none of them depends on time."""
    stem = found.get(_STEM)
    if stem is None or (stem.dim() == 5 and stem.shape[2] > 1):
        return False
    for name, tensor in found.items():
        rows = tensor.shape[0] if _REL_POS_TIME.search(name) else 1
        frames = tensor.shape[2] if _CONV.search(name) and tensor.dim() == 5 else 1
        if rows > 1 or frames > 1 or (name == "pos_embed_temporal" and tensor.shape[1] > 1):
            return False
    joint = found.get("pos_embed")
    if joint is None:
        return True
    same = "pos_embed" in wanted and joint.shape == wanted["pos_embed"].shape
    side = math.isqrt(joint.shape[1] - _num_cls(found))
    return not same and side * side == joint.shape[1] - _num_cls(found)


def _num_cls(state: State) -> int:
    """Class tokens, the distillation token included."""
    return state["cls_token"].shape[1] if "cls_token" in state else 0


def _match_qkv(found: State, wanted: State) -> State:
    joint = any(".attn.qkv." in name for name in wanted)
    separate = any(".attn.q." in name for name in wanted)
    if joint == separate:
        return found
    return join_qkv(found) if joint else split_qkv(found)


def _match_head(found: State, wanted: State, head: tuple[str, ...], out: Fit) -> State:
    """Drop a classifier for other classes with all its tensors, even those that would fit."""
    names = [n for n in found if n.startswith(head)]
    if all(n in wanted and found[n].shape == wanted[n].shape for n in names):
        return found
    for name in names:
        target = f", model {_shape(wanted[name])}" if name in wanted else ""
        out.skipped.append(name)
        out.how[name] = f"classifier for other classes: file {_shape(found[name])}{target}"
    return drop_head(found, head)


def _match_tables(found: State, wanted: State, grid: Grid, out: Fit, from_image: bool) -> State:
    """Position tables joint or separate as in the model, and zeros for positions in time that images do not have."""
    found = dict(found)
    if "pos_embed" in wanted and "pos_embed_spatial" in found:
        _join_tables(found, grid, out)
    elif "pos_embed" in found and "pos_embed_spatial" in wanted and from_image:
        cls, found["pos_embed_spatial"] = split_pos_embed(found.pop("pos_embed"), _num_cls(found))
        if cls.shape[1]:
            found["pos_embed_class"] = cls
        _note(out, "pos_embed_spatial", "split off the joint table")
    elif "pos_embed" in found and "pos_embed" in wanted and from_image:
        cls, spatial = split_pos_embed(found["pos_embed"], _num_cls(found))
        found["pos_embed"] = torch.cat([cls, spatial.repeat(1, grid[0], 1)], dim=1)
        _note(out, "pos_embed", "repeated in every frame")
    if from_image:
        for name, target in wanted.items():
            if name not in found and (name == "pos_embed_temporal" or _REL_POS_TIME.search(name)):
                found[name] = torch.zeros_like(target, device="cpu")
                _note(out, name, "zeros: images have no positions in time")
    return found


def _join_tables(found: State, grid: Grid, out: Fit) -> None:
    spatial = _resize_square(found.pop("pos_embed_spatial"), grid[1:])
    cls = found.pop("pos_embed_class", None)
    temporal = found.pop("pos_embed_temporal", spatial.new_zeros(1, 1, spatial.shape[-1]))
    if grid[0] == 1:
        temporal = torch.zeros_like(temporal[:, :1])
    temporal = resize_pos_embed(temporal, (temporal.shape[1], 1, 1), (grid[0], 1, 1))
    found["pos_embed"] = join_pos_embed(cls, spatial, temporal)
    _note(out, "pos_embed", "class and space of the separate tables" if grid[0] == 1 else "sum of the separate tables")


def _note(out: Fit, name: str, how: str) -> None:
    out.resized.append(name)
    out.how[name] = how


def _leave(name: str, target: Tensor, out: Fit, head: tuple[str, ...], excused: Mapping[str, str]) -> None:
    """Record a name of the model that the weights lack."""
    if name.startswith(head):
        out.missing.append(name)
        out.how.setdefault(name, "classifier: keeps its initial values")
    elif name in excused:
        out.missing.append(name)
        out.how[name] = excused[name]
    else:
        out.problems[name] = f"missing in the weights, model {_shape(target)}"


def _place(name: str, value: Tensor, target: Tensor, out: Fit, grid: Grid | None, inflate: Inflation) -> None:
    """Take a tensor that both sides have, unchanged or changed by the rule for its name."""
    if value.shape != target.shape:
        changed = _change(name, value, target, grid, inflate)
        if changed is None or changed.shape != target.shape:
            out.problems[name] = f"weights {_shape(value)}, model {_shape(target)}"
            return
        if changed.numel() != value.numel():
            how = out.how.get(name)
            sizes = f"{_shape(value)} -> {_shape(target)}"
            if name == "pos_embed" and grid is not None:
                sizes += f" (read as made for {_shape(_old_grid(value, target, grid))})"
            out.how[name] = f"{how}; {sizes}" if how else sizes
            if name not in out.resized:
                out.resized.append(name)
        value = changed
    out.state[name] = value


def _change(name: str, value: Tensor, target: Tensor, grid: Grid | None, inflate: Inflation) -> Tensor | None:
    """The value in the shape of the target, by the rule for its name; None without a rule."""
    if _CONV.search(name):
        return _change_conv(value, target, inflate)
    if _POINTS.search(name):
        return _change_axes(value, target, axis=int(name.startswith("pos_layer")))
    if value.dim() != target.dim() or value.shape[-1] != target.shape[-1]:
        return None
    if _REL_POS.search(name):
        return resize_rel_pos(value, target.shape[0])
    if name == "pos_embed_temporal":
        return resize_pos_embed(value, (value.shape[1], 1, 1), (target.shape[1], 1, 1))
    if grid is None or name not in ("pos_embed", "pos_embed_spatial"):
        return None
    if name == "pos_embed_spatial":
        return _resize_square(value, grid[1:])
    return _resize_joint(value, target, grid)


def _change_conv(value: Tensor, target: Tensor, inflate: Inflation) -> Tensor | None:
    """A kernel with another length in time, or without a time axis; None without a rule."""
    if target.dim() == 4 and value.dim() == 5:
        return inflate_kernel(value, 1)[:, :, 0]
    if value.dim() != 5 or target.dim() != 5 or 1 not in (value.shape[2], target.shape[2]):
        return None
    return inflate_kernel(value, target.shape[2], inflate)


def _change_axes(value: Tensor, target: Tensor, axis: int) -> Tensor | None:
    """Weights for points (y, x) as weights for points (t, y, x) with zeros for t, or the reverse."""
    if (value.shape[axis], target.shape[axis]) == (2, 3):
        return torch.cat([torch.zeros_like(value.narrow(axis, 0, 1)), value], dim=axis)
    if (value.shape[axis], target.shape[axis]) == (3, 2):
        return value.narrow(axis, 1, 2)
    return None


def _resize_square(table_1NC: Tensor, sides: tuple[int, int]) -> Tensor:
    """A spatial table, made for a square, for other sides; unchanged if it was not made for a square."""
    side = math.isqrt(table_1NC.shape[1])
    if side * side != table_1NC.shape[1]:
        return table_1NC
    return resize_pos_embed(table_1NC, (1, side, side), (1, *sides))


def _resize_joint(table_1NC: Tensor, target: Tensor, grid: Grid) -> Tensor | None:
    """A joint table for another grid; None if the grid that it was made for is unknown."""
    old = _old_grid(table_1NC, target, grid)
    if old is None:
        return None
    num_cls = target.shape[1] - math.prod(grid)
    cls, rest = table_1NC[:, :num_cls], table_1NC[:, num_cls:]
    return torch.cat([cls, resize_pos_embed(rest, old, grid)], dim=1)


def _old_grid(table_1NC: Tensor, target: Tensor, grid: Grid) -> Grid | None:
    """The grid that a joint table was made for: a square with as many frames, or the same sides; None if neither."""
    rows = table_1NC.shape[1] - (target.shape[1] - math.prod(grid))
    T, H, W = grid
    side = math.isqrt(rows // T)
    if side and T * side * side == rows:
        return T, side, side
    return (rows // (H * W), H, W) if rows and rows % (H * W) == 0 else None


def _skip(name: str, value: Tensor, out: Fit, to_image: bool) -> None:
    """Record a name of the weights that the model lacks."""
    needs_time = name in ("cls_token", *_TABLES) or _REL_POS_TIME.search(name)
    if name.startswith(_PRETRAINING):
        reason = "belongs to pretraining"
    elif to_image and needs_time:
        reason = "the model of images has none"
    else:
        out.problems[name] = f"unknown to the model, weights {_shape(value)}"
        return
    out.skipped.append(name)
    out.how[name] = reason


def _shape(of: Tensor | Grid | None) -> str:
    sizes = of.shape if isinstance(of, Tensor) else of or ()
    return "x".join(map(str, sizes)) or "scalar"
