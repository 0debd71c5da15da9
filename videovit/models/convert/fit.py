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

from videovit.errors import UserError
from videovit.models.contract import Grid
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
from videovit.models.convert.grids import Grids, shown

State = dict[str, Tensor]

_STEM = "patch_embed.proj.weight"
_TABLES = ("pos_embed_spatial", "pos_embed_temporal", "pos_embed_class")
_CONV = re.compile(r"(^patch_embed\.proj|\.attn\.pool_[qkv]|\.pool\.conv|_stem\.conv|\.branch2\.[ab])\.weight$")
_POINTS = re.compile(r"(\.offset\.(weight|bias)|^pos_layer\.weight)$")
_REL_POS = re.compile(r"\.attn\.rel_pos_[hwt]$")
_REL_POS_TIME = re.compile(r"\.attn\.rel_pos_t$")
PRETRAINING = (
    *("mask_token", "decoder", "dec_pos_embed", "pred_head.", "hogs.", "mask."),
    *("encoder_to_decoder.", "vjepa2.predictor."),
)
_AFTER_PRETRAINING = ("norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias")


@dataclass
class Fit:
    """The outcome of `fit`.

    Attributes:
        state: name of the model -> tensor of its shape.
        resized, skipped, missing: as in `LoadReport`; missing holds what is tolerated.
        how: name -> what was done, or why it was left out.
        notes: sentences for the user.
        problems: name -> why the weights do not fit the model; empty if they do.
    """

    state: State = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    how: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


def fit(
    found: State,
    wanted: State,
    *,
    grids: Grids,
    head_names: tuple[str, ...] = ("head",),
    inflate: Inflation = "center",
) -> Fit:
    """Match weights to a model.

    Args:
        found: tensors by this project's names.
        wanted: the model's state dict.
        grids: what is known about the grids that position tables are made for.
        head_names: modules of the model that depend on the number of classes.
        inflate: how convolutions of images get a time axis.

    Returns:
        A `Fit`; its `problems` list what does not fit.
    """
    out = Fit()
    head = tuple(f"{name}." for name in head_names)
    excused = {}
    if any(name.startswith(PRETRAINING) for name in found):
        names = [name for name in wanted if name in _AFTER_PRETRAINING or name.startswith("pooler.")]
        excused = dict.fromkeys(names, "not part of pretraining: keeps its initial values")
    if not any("_nonlocal" in name for name in found):
        reason = "not in the weights: begins with adding nothing"
        excused |= {name: reason for name in wanted if "_nonlocal" in name}
    has_time = _has_time(found)
    to_image = grids.model is not None and grids.model[0] == 1 and not _is_image(found, grids, has_time)
    from_image = grids.model is not None and grids.model[0] > 1 and _is_image(found, grids, has_time)
    if from_image:
        reason = "not in the weights of an image model: keeps its initial values"
        excused |= dict.fromkeys(("cls_token", "pos_embed_class"), reason)
    found = _match_qkv(found, wanted)
    found = _match_head(found, wanted, head, out)
    if grids.model is not None:
        found = _resize_tables(found, wanted, grids, out, has_time=has_time)
        found = _match_tables(found, wanted, grids.model, out, from_image)
    for name, target in wanted.items():
        if name not in found:
            _leave(name, target, out, head, excused)
        else:
            _place(name, found[name], target, out, inflate)
    for name in found:
        if name not in wanted:
            _skip(name, found[name], out, to_image)
    return out


def is_image(state: State) -> bool:
    """Whether weights belong to an image model: none of them depends on time, and a joint table is that of a square."""
    if _has_time(state):
        return False
    rows = _joint_rows(state)
    return rows == 0 or math.isqrt(rows) ** 2 == rows


def _has_time(state: State) -> bool:
    """Whether weights other than a joint table depend on time."""
    stem = state.get(_STEM)
    if stem is None or (stem.dim() == 5 and stem.shape[2] > 1):
        return True
    for name, tensor in state.items():
        rows = tensor.shape[0] if _REL_POS_TIME.search(name) else 1
        frames = tensor.shape[2] if _CONV.search(name) and tensor.dim() == 5 else 1
        if rows > 1 or frames > 1 or (name == "pos_embed_temporal" and tensor.shape[1] > 1):
            return True
    return False


def _is_image(found: State, grids: Grids, has_time: bool) -> bool:
    """`is_image`, with what is known about the grid of a joint table."""
    if has_time or not _joint_rows(found):
        return not has_time
    try:
        return grids.read("pos_embed", _joint_rows(found), has_time=False)[0][0] == 1
    except (KeyError, UserError):  # KeyError: a model without such tables
        return is_image(found)


def _joint_rows(state: State) -> int:
    """Rows of a joint position table without those of class tokens; 0 without one."""
    return state["pos_embed"].shape[1] - _num_cls(state) if "pos_embed" in state else 0


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
    has_none = not any(name.startswith(head) for name in wanted)
    for name in names:
        target = f", model {_shape(wanted[name])}" if name in wanted else ""
        out.skipped.append(name)
        why = "the model has no classifier" if has_none else "classifier for other classes"
        out.how[name] = f"{why}: file {_shape(found[name])}{target}"
    return drop_head(found, head)


def _resize_tables(found: State, wanted: State, grids: Grids, out: Fit, *, has_time: bool) -> State:
    """Position tables for the grid of the model, in the form that they have."""
    found = dict(found)
    for name, table in grids.tables.items():
        value, target = found.get(name), wanted.get(name)
        if value is None or value.dim() != 3 or (target is not None and value.shape[-1] != target.shape[-1]):
            continue
        num_cls = table.num_cls if target is not None else _num_cls(found) if name == "pos_embed" else 0
        try:
            old, others = grids.read(name, value.shape[1] - num_cls, has_time=has_time)
        except UserError as error:
            out.problems[name] = str(error)
            continue
        # The frames of an image become those of a clip in `_match_tables`.
        new = (1, *table.grid[1:]) if old[0] == 1 and not has_time and table.axes == "thw" else table.grid
        if others:
            out.notes.append(
                f"{name} is read as made for {shown(old)} (T x H x W); {' and '.join(map(shown, others))} "
                f"{'has' if len(others) == 1 else 'have'} as many rows: if it is that, load_pretrained(..., "
                f"grid={others[0]})"
            )
        if old == new:
            continue
        cls, rest = value[:, :num_cls], value[:, num_cls:]
        found[name] = torch.cat([cls, resize_pos_embed(rest, old, new)], dim=1)
        if target is not None:
            how = f"{_shape(value)} -> {_shape(target)}"
            _note(out, name, f"{how} (read as made for {shown(old)})" if len(table.axes) > 2 else how)
    return found


def _match_tables(found: State, wanted: State, grid: Grid, out: Fit, from_image: bool) -> State:
    """Position tables joint or separate as in the model, and zeros for positions in time that images do not have."""
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
    spatial = found.pop("pos_embed_spatial")
    cls = found.pop("pos_embed_class", None)
    temporal = found.pop("pos_embed_temporal", spatial.new_zeros(1, grid[0], spatial.shape[-1]))
    if grid[0] == 1:
        temporal = torch.zeros_like(temporal[:, :1])
    found["pos_embed"] = join_pos_embed(cls, spatial, temporal)
    _note(out, "pos_embed", "class and space of the separate tables" if grid[0] == 1 else "sum of the separate tables")


def _note(out: Fit, name: str, how: str) -> None:
    before = out.how.get(name)
    out.how[name] = f"{how}; {before}" if before else how
    if name not in out.resized:
        out.resized.append(name)


def _leave(name: str, target: Tensor, out: Fit, head: tuple[str, ...], excused: Mapping[str, str]) -> None:
    """Record a name of the model that the weights lack."""
    if name.endswith(".num_batches_tracked"):
        # As PyTorch does: old files and those of many converters lack the counter, which hardly anything reads.
        out.state[name] = target
        out.how[name] = "not in the weights: keeps its value"
    elif name.startswith(head):
        out.missing.append(name)
        out.how.setdefault(name, "classifier: keeps its initial values")
    elif name in excused:
        out.missing.append(name)
        out.how[name] = excused[name]
    else:
        out.problems[name] = f"missing in the weights, model {_shape(target)}"


def _place(name: str, value: Tensor, target: Tensor, out: Fit, inflate: Inflation) -> None:
    """Take a tensor that both sides have, unchanged or changed by the rule for its name."""
    if value.shape != target.shape:
        changed = _change(name, value, target, inflate)
        if changed is None or changed.shape != target.shape:
            out.problems.setdefault(name, f"weights {_shape(value)}, model {_shape(target)}")
            return
        if changed.numel() != value.numel():
            _note(out, name, f"{_shape(value)} -> {_shape(target)}")
        value = changed
    out.state[name] = value


def _change(name: str, value: Tensor, target: Tensor, inflate: Inflation) -> Tensor | None:
    """The value in the shape of the target, by the rule for its name; None without a rule."""
    if _CONV.search(name):
        return _change_conv(value, target, inflate)
    if _POINTS.search(name):
        return _change_axes(value, target, axis=int(name.startswith("pos_layer")))
    if _REL_POS.search(name) and value.dim() == target.dim() and value.shape[-1] == target.shape[-1]:
        return resize_rel_pos(value, target.shape[0])
    return None


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


def _skip(name: str, value: Tensor, out: Fit, to_image: bool) -> None:
    """Record a name of the weights that the model lacks."""
    needs_time = name in ("cls_token", *_TABLES) or _REL_POS_TIME.search(name)
    if name.startswith(PRETRAINING):
        reason = "belongs to pretraining"
    elif to_image and needs_time:
        reason = "the model of images has none"
    elif name.endswith(".num_batches_tracked"):
        reason = "counts batches, which the model does not"  # frozen batch norms
    else:
        out.problems.setdefault(name, f"unknown to the model, weights {_shape(value)}")
        return
    out.skipped.append(name)
    out.how[name] = reason


def _shape(of: Tensor) -> str:
    return "x".join(map(str, of.shape)) or "scalar"
