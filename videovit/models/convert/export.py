"""From a model of this project to the names of others, and to safetensors files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from videovit.messages import did_you_mean
from videovit.models.contract import VideoModel
from videovit.models.convert.adapt import join_qkv, split_qkv
from videovit.models.convert.checksums import STATE_KEY, state_crc
from videovit.models.convert.eps import pool_norm_eps
from videovit.models.convert.grids import shown
from videovit.models.convert.image_layouts import to_pit, to_ps_vit
from videovit.models.convert.read import CheckpointError
from videovit.models.convert.wrappers import unwrapped
from videovit.models.mvit.attention import MultiscaleAttention
from videovit.models.mvit.model import MViT
from videovit.models.mvit.reversible import ReversibleMViT
from videovit.models.pit import PiT
from videovit.models.progressive_sampling import ProgressiveSamplingViT
from videovit.models.vit import ViT

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
_REVERSIBLE = (
    (r"^blocks\.(\d+)\.attention\.", r"rev_backbone.layers.\1.F."),
    (r"^blocks\.(\d+)\.mlp\.", r"rev_backbone.layers.\1.G."),
    (r"^blocks\.(\d+)\.fuse\.", r"rev_backbone.layers.\1.pre_q_fuse.fuse_fn."),
    (r"^blocks\.(\d+)\.proj\.", r"rev_backbone.layers.\1.res_proj."),
)
_PYTORCHVIDEO = (
    (r"^patch_embed\.proj\.", "patch_embed.patch_model."),
    (r"^(cls_token|pos_embed\w*)$", r"cls_positional_encoding.\1"),
    (r"^norm\.", "norm_embed."),
    (r"^head\.projection\.", "head.proj."),
)


@dataclass(frozen=True)
class Exporter:
    """How one layout is written.

    Attributes:
        models: classes that the layout has names for.
        write: the state dict by the names of the layout.
        obstacle: why this model would mean something else in the other project, although its names fit; else empty.
    """

    models: tuple[type[VideoModel], ...]
    write: Callable[[VideoModel, State], State]
    obstacle: Callable[[VideoModel], str]


def export_state_dict(model: nn.Module, layout: str = "pyslowfast") -> State:
    """Weights of a model by another project's names, sharing memory with the model if possible.

    Args:
        model: `MViT`, `PiT`, `ProgressiveSamplingViT`, or `ViT`, whose names are those of an MViT without pooling.
        layout: `pyslowfast` (q, k, v in one projection or three, as the model has them; the patch embedding of images
            4-D), `torchvision` (its `MViT` class) or `pytorchvideo` (0.1.5: separate q, k, v). The eps of the pooling
            norms is not part of it: torchvision computes with 1e-6, pytorchvideo 0.1.5 with 1e-5. For a `PiT` of
            images `pit` (naver-ai/pit) or `timm_pit`. For a PS-ViT of images `ps_vit` (yuexy/PS-ViT) without the
            buffer `point_coord`, which their code computes (`strict=False`).

    Returns:
        Name -> tensor, detached; `load_pretrained` reads it back exactly.

    Raises:
        CheckpointError: an unknown layout, or one that cannot express this model.
    """
    if layout not in EXPORTERS:
        raise CheckpointError(f"layout is {layout!r}; known: {', '.join(EXPORTERS)}",
                              near=did_you_mean(layout, EXPORTERS))  # fmt: skip
    model = unwrapped(model)
    name, exporter = type(model).__name__, EXPORTERS[layout]
    if not isinstance(model, _EXPORTABLE):
        raise CheckpointError(f"{name} is not an MViT; its own state_dict() has the published names")
    if not isinstance(model, exporter.models):
        raise CheckpointError(f"{name} cannot be written as {layout}")
    exported = exporter.write(model, {name: tensor.detach() for name, tensor in model.state_dict().items()})
    # Last, since a name without a counterpart is the clearer reason.
    if obstacle := exporter.obstacle(model):
        raise CheckpointError(obstacle)
    return exported


def save_safetensors(
    state: Mapping[str, Tensor],
    path: str | Path,
    *,
    model: nn.Module | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors to a `.safetensors` file, under a temporary name first.

    Args:
        state: name -> tensor, e.g. from `export_state_dict`.
        path: of the file.
        model: the eps of its pooling norms and the grid of its position tables are saved beside the tensors, for
            `load_pretrained`.
        metadata: further text by name.

    Raises:
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    eps = pool_norm_eps(model) if model is not None else None
    header = {**(metadata or {}), "format": "pt"} | ({} if eps is None else {"pool_norm_eps": repr(eps)})
    if isinstance(model, VideoModel) and model.grid is not None:
        header["grid"] = shown(model.grid)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # The format refuses views of one storage (separate q, k, v): each becomes a tensor of its own.
        tensors = {n: t.detach().cpu().clone().contiguous() for n, t in state.items()}
        save_file(tensors, partial, header | {STATE_KEY: state_crc(tensors)})
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: could not be written: {error}") from error


# ------------------------------------------------------------------------------------------------------- MViT and ViT


def _to_pyslowfast(model: VideoModel, state: State) -> State:
    stem = "patch_embed.proj.weight"
    is_image = model.grid is not None and model.grid[0] == 1 and state[stem].shape[2] == 1
    written = {name: t.squeeze(2) if is_image and name == stem else t for name, t in state.items()}
    return _rename(written, _REVERSIBLE) if isinstance(model, ReversibleMViT) else written


def _to_torchvision(model: VideoModel, state: State) -> State:
    _refuse(state, "torchvision", {"pos_embed": "a joint position table", "norm_stem.weight": "a norm after the stem"})
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


def _to_pytorchvideo(model: VideoModel, state: State) -> State:
    relative = {n: "relative positions" for n in state if ".attn.rel_pos_" in n}
    _refuse(state, "pytorchvideo 0.1.5", relative)
    return _rename(split_qkv(_to_pyslowfast(model, state)), _PYTORCHVIDEO)


def _shared_maps(model: VideoModel) -> str:
    sharing = [i for i, spec in enumerate(model.specs) if spec.shares_map] if isinstance(model, MViT) else []
    if not sharing:
        return ""
    return f"other projects share no attention between blocks, this model does (blocks.{sharing[0]})"


def _no_torchvision(model: VideoModel) -> str:
    return _shared_maps(model) or _reversible(model, "torchvision") or _mean_pooling(model, "torchvision")


def _no_pytorchvideo(model: VideoModel) -> str:
    if reason := _shared_maps(model) or _reversible(model, "pytorchvideo") or _mean_pooling(model, "pytorchvideo"):
        return reason
    has_residual = any(m.residual_pooling for m in model.modules() if isinstance(m, MultiscaleAttention))
    return "pytorchvideo 0.1.5 has no residual pooling, this model has" if has_residual else ""


def _reversible(model: VideoModel, project: str) -> str:
    return f"{project} has no reversible blocks" if isinstance(model, ReversibleMViT) else ""


def _mean_pooling(model: VideoModel, project: str) -> str:
    if not isinstance(model, MViT) or not model.mean_pooling:
        return ""
    return f"{project} classifies the class token, this model the mean of the others"


# --------------------------------------------------------------------------------------------------- PiT and PS-ViT


def _to_pit(model: VideoModel, state: State) -> State:
    return to_pit(state)


def _to_timm_pit(model: VideoModel, state: State) -> State:
    return to_pit(state, "transformers.{after}.pool.")


def _to_ps_vit(model: VideoModel, state: State) -> State:
    return to_ps_vit(state)


def _nothing(model: VideoModel) -> str:
    return ""


def _no_ps_vit(model: VideoModel) -> str:
    if isinstance(model, ProgressiveSamplingViT) and (model.share_sampler or model.gamma != 1.0):
        return "ps_vit has a block for every iteration and gamma 1.0, this model has not"
    return ""


EXPORTERS: dict[str, Exporter] = {
    "pyslowfast": Exporter((MViT, ViT), _to_pyslowfast, _shared_maps),
    "torchvision": Exporter((MViT, ViT), _to_torchvision, _no_torchvision),
    "pytorchvideo": Exporter((MViT, ViT), _to_pytorchvideo, _no_pytorchvideo),
    "pit": Exporter((PiT,), _to_pit, _nothing),
    "timm_pit": Exporter((PiT,), _to_timm_pit, _nothing),
    "ps_vit": Exporter((ProgressiveSamplingViT,), _to_ps_vit, _no_ps_vit),
}
_EXPORTABLE = tuple({model for exporter in EXPORTERS.values() for model in exporter.models})


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
