"""From a model of this project to the names of others, and to safetensors files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from videovit.models.convert.adapt import join_qkv, split_qkv
from videovit.models.convert.eps import pool_norm_eps
from videovit.models.convert.image_layouts import to_pit, to_ps_vit
from videovit.models.convert.read import CheckpointError
from videovit.models.convert.wrappers import unwrapped

State = dict[str, Tensor]

_TORCHVISION = (
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^cls_token$", "pos_encoding.class_token"),
    (r"^pos_embed_(spatial|temporal|class)$", r"pos_encoding.\1_pos"),
    (r"\.attn\.proj\.", ".attn.project.0."),
    (r"\.attn\.pool_([qkv])\.", r".attn.pool_\1.pool."),
    (r"\.attn\.norm_([qkv])\.", r".attn.pool_\1.norm_act.0."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^(blocks\.\d+)\.proj\.", r"\1.project."),
    (r"^head\.projection\.", "head.1."),
)
_PYTORCHVIDEO = (
    (r"^patch_embed\.proj\.", "patch_embed.patch_model."),
    (r"^(cls_token|pos_embed\w*)$", r"cls_positional_encoding.\1"),
    (r"^norm\.", "norm_embed."),
    (r"^head\.projection\.", "head.proj."),
)


def export_state_dict(model: nn.Module, layout: str = "pyslowfast") -> State:
    """Weights of a model by another project's names, sharing memory with the model where they can.

    Args:
        model: `MViT`, `PiT`, `ProgressiveSamplingViT`, or `ViT`, whose names are those of an MViT that pools nothing.
        layout: `pyslowfast` (q, k, v in one projection or three, as the model has them; the patch embedding of images
            4-D), `torchvision` (its `MViT` class) or `pytorchvideo` (0.1.5: separate q, k, v). The eps of the pooling
            norms is not part of it: torchvision computes with 1e-6, pytorchvideo 0.1.5 with 1e-5. For a `PiT` of
            images `pit` (naver-ai/pit) or `timm_pit`. For a PS-ViT of images `ps_vit` (yuexy/PS-ViT) without the
            buffer `point_coord`: theirs to compute (`strict=False`).

    Returns:
        Name -> tensor, detached; `load_pretrained` reads it back exactly.

    Raises:
        CheckpointError: an unknown layout, or one that has no place for a table of this model, or for what it shares.
    """
    if layout not in EXPORTERS:
        raise CheckpointError(f"layout is {layout!r}; known: {', '.join(EXPORTERS)}")
    model = unwrapped(model)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    stem = state.get("patch_embed.proj.weight", state.get("stem.conv.weight"))
    if stem is None or not any(".attn." in name for name in state):
        raise CheckpointError(f"{type(model).__name__} is not an MViT; its own state_dict() has the published names")
    values = [n for n in state if n.endswith(".attn.v.weight") and n.replace(".v.", ".k.") not in state]
    if values:
        raise CheckpointError(f"other projects share no attention between blocks, this model does ({values[0]})")
    if layout not in _layouts_of(state):
        raise CheckpointError(f"{type(model).__name__} cannot be written as {layout}")
    if getattr(model, "share_sampler", False) or getattr(model, "gamma", 1.0) != 1.0:
        raise CheckpointError(f"{layout} has a block for every iteration and gamma 1.0, this model has not")
    grid = getattr(model, "grid", (0, 0, 0))
    exported = EXPORTERS[layout](state, grid[0] == 1 and stem.shape[2] == 1)
    _refuse_unnamed(model, layout)
    return exported


def _refuse_unnamed(model: nn.Module, layout: str) -> None:
    """Refuse what leaves no mark in the names, so that the other project would load it and compute something else."""
    if layout in ("torchvision", "pytorchvideo") and getattr(model, "mean_pooling", False):
        raise CheckpointError(f"{layout} classifies the class token, this model the mean of the others")
    if layout == "pytorchvideo" and any(getattr(module, "residual_pooling", False) for module in model.modules()):
        raise CheckpointError("pytorchvideo 0.1.5 has no residual pooling, this model has")


def _layouts_of(state: State) -> set[str]:
    """The layouts that the model of these names can be written in."""
    if "pos_layer.weight" in state:
        return {"ps_vit"}
    if any(".pool.fc." in name for name in state):
        return {"pit", "timm_pit"}
    return {"pyslowfast", "torchvision", "pytorchvideo"}


def save_safetensors(state: Mapping[str, Tensor], path: str | Path, *, model: nn.Module | None = None) -> None:
    """Write tensors to a `.safetensors` file, under a temporary name first.

    Args:
        state: name -> tensor, e.g. from `export_state_dict`.
        path: of the file.
        model: where given, the eps of its pooling norms is written beside the tensors, and found by `load_pretrained`.

    Raises:
        CheckpointError: the package safetensors is not installed, or the file cannot be written.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError as error:
        raise CheckpointError(f"{path}: writing it takes the package safetensors (pip install safetensors)") from error
    path = Path(path)
    eps = pool_norm_eps(model) if model is not None else None
    metadata = {"format": "pt"} | ({} if eps is None else {"pool_norm_eps": repr(eps)})
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Views of one storage (separate q, k, v) are refused by the format: each becomes a tensor of its own.
        save_file({n: t.detach().cpu().clone().contiguous() for n, t in state.items()}, partial, metadata)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: could not be written: {error}") from error


def _to_pyslowfast(state: State, is_image: bool) -> State:
    return {n: t.squeeze(2) if is_image and n == "patch_embed.proj.weight" else t for n, t in state.items()}


def _to_torchvision(state: State, is_image: bool) -> State:
    _refuse(state, "torchvision", {"pos_embed": "a joint position table", "norm_stem.weight": "a norm behind the stem"})
    if "cls_token" not in state:
        raise CheckpointError("torchvision's MViT always has a class token, this model has none")
    state = join_qkv(state)
    for name in ("cls_token", "pos_embed_class"):
        if name in state:
            state[name] = state[name].flatten()
    for name in ("pos_embed_spatial", "pos_embed_temporal"):
        if name in state:
            state[name] = state[name][0]
    return _rename(state, _TORCHVISION)


def _to_pytorchvideo(state: State, is_image: bool) -> State:
    relative = {n: "relative positions" for n in state if ".attn.rel_pos_" in n}
    _refuse(state, "pytorchvideo 0.1.5", relative)
    return _rename(split_qkv(_to_pyslowfast(state, is_image)), _PYTORCHVIDEO)


EXPORTERS: dict[str, Callable[[State, bool], State]] = {
    "pyslowfast": _to_pyslowfast,
    "torchvision": _to_torchvision,
    "pytorchvideo": _to_pytorchvideo,
    "pit": lambda state, is_image: to_pit(state),
    "timm_pit": lambda state, is_image: to_pit(state, "transformers.{behind}.pool."),
    "ps_vit": lambda state, is_image: to_ps_vit(state),
}


def _refuse(state: State, project: str, reasons: Mapping[str, str]) -> None:
    for name, what in reasons.items():
        if name in state:
            raise CheckpointError(f"{project} has no place for {what} ({name})")


def _rename(state: State, rules: Iterable[tuple[str, str]]) -> State:
    renamed = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        renamed[new] = tensor
    return renamed
