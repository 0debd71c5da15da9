"""`load_pretrained`: load weights of this project or of others into a model, and report what happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from videovit.messages import did_you_mean, plural
from videovit.models.contract import Grid, LayeredModel, VideoModel
from videovit.models.convert.adapt import Inflation
from videovit.models.convert.caffe2 import is_caffe2
from videovit.models.convert.checksums import not_finite
from videovit.models.convert.complaint import HIERA, complaint, looks_like_hiera
from videovit.models.convert.convolutional_layouts import is_pytorchvideo_cnn
from videovit.models.convert.eps import pool_norm_eps, set_pool_norm_eps, source_eps
from videovit.models.convert.fit import fit
from videovit.models.convert.grids import Grids, as_grid, grid_in_config, tables_of
from videovit.models.convert.hf_layouts import from_transformers, notes_of_transformers
from videovit.models.convert.layouts import LAYOUTS, detect
from videovit.models.convert.pretraining import is_of_masked_model, without_encoder_prefix
from videovit.models.convert.read import CheckpointError, Weights, read_weights
from videovit.models.convert.report import LoadReport
from videovit.models.convert.wrappers import unwrapped
from videovit.models.convolutional.network import ConvolutionalNetwork
from videovit.models.detection.detector import Detector
from videovit.models.external.hf_network import HfNetwork
from videovit.models.masked.model import MaskedModel
from videovit.models.mvit.attention import MultiscaleAttention
from videovit.models.mvit.model import MViT


def load_pretrained(
    model: nn.Module,
    path_or_state_dict: str | Path | Mapping[str, Any],
    source: str = "auto",
    *,
    inflate: Inflation = "center",
    grid: Grid | None = None,
) -> LoadReport:
    """Load weights into a model, strictly except for what a change of classes, size or medium requires.

    Of weights of masked pre-training a classifier takes those of the encoder. A model in masked pre-training takes all,
    or, from weights of a classifier, those of its encoder.

    Tolerated and reported: a classifier for another number of classes (dropped), position tables for another size
    (stretched), weights of an image model for clips and the reverse, q, k, v as one projection or three, a last norm
    that masked pretraining does not have.

    Args:
        model: from `build_model`, or any module with the names of the weights; wrapped or not.
        path_or_state_dict: file (`.pyth`, `.pth`, `.pt`, `.safetensors`, Caffe2's `.pkl`); or a state dict, or a
            container of one.
        source: layout of the weights; `auto` detects it from the names. `pyslowfast` (and this project's own),
            `pyslowfast_old` (before June 2022), `mvit` (facebookresearch/mvit), `pytorchvideo` (0.1.5),
            `pytorchvideo_repo`, `torchvision`, `timm` (MViTv2); `pit` (naver-ai or timm), `ps_vit` (yuexy), `deit`
            (deit, timm's `vit_*`); `pytorchvideo_cnn` (its C2D, I3D, Slow, SlowFast and X3D); `caffe2` (SlowFast's
            networks).
        inflate: how convolutions of images get a time axis: `center` (MViTv2's recipe), `repeat` (PySlowFast's loader)
            or `mean`.
        grid: (T, H, W) in tokens that the position tables of the weights are made for. By default the config in the
            file says it, or the state dict of a model of this project, or the number of rows if one reading is likely.

    Returns:
        The report; `str(report)` is a table.

    Raises:
        CheckpointError: unreadable, not supported or not finite; or anything but the classifier is missing, unknown or
            of another shape. The message lists the names, and the config keys that would make the model fit. The model
            stays unchanged.
    """
    if source != "auto" and source not in LAYOUTS:
        raise CheckpointError(f"source is {source!r}; known: auto, {', '.join(LAYOUTS)}",
                              near=did_you_mean(source, LAYOUTS))  # fmt: skip
    if grid is not None and (isinstance(grid, str) or as_grid(grid) is None):
        raise CheckpointError(where="grid", found=grid, expected="three whole numbers (T, H, W), of tokens")
    model = unwrapped(model)
    weights = read_weights(path_or_state_dict, model.state_dict())
    if isinstance(model, Detector) and not _is_of_detector(weights, model):
        return _load_part(model, model.body, weights, source, inflate=inflate, grid=grid)
    if isinstance(model, MaskedModel) and not is_of_masked_model(weights.state):
        return _load_part(model, model.encoder, weights, source, inflate=inflate, grid=grid)
    if not isinstance(model, MaskedModel):
        weights = replace(weights, state=without_encoder_prefix(weights.state))
    return _load(model, weights, source, inflate=inflate, grid=grid)


def _is_of_detector(weights: Weights, model: Detector) -> bool:
    """Whether weights are those of a detector, with this or another number of classes; else they classify images."""
    names = {name for name in model.state_dict() if not name.startswith(model.head_names)}
    return not names.isdisjoint(weights.state)


def _load_part(
    model: LayeredModel, part: VideoModel, weights: Weights, source: str, *, inflate: Inflation, grid: Grid | None
) -> LoadReport:
    """Load weights of a classifier into the part of a model that is one, but for its head."""
    weights = replace(weights, state=without_encoder_prefix(weights.state))
    report = _load(part, weights, source, inflate=inflate, grid=grid)
    own = {id(parameter) for parameter in part.parameters()}
    rest = [name for name, parameter in model.named_parameters() if id(parameter) not in own]
    how = report.how | dict.fromkeys(rest, "not part of a classifier: keeps its initial values")
    return replace(report, missing=report.missing + rest, how=how)


def _load(model: nn.Module, weights: Weights, source: str, *, inflate: Inflation, grid: Grid | None) -> LoadReport:
    wanted = dict(model.state_dict())
    notes = _class_token_notes(model, weights)
    # By custom the classifier of modules that are not ours is `head`.
    head_names = model.head_names if isinstance(model, LayeredModel) else LayeredModel.head_names
    if isinstance(model, VideoModel):
        head_names += model.dropped
    if isinstance(model, HfNetwork):
        notes += notes_of_transformers(weights.state)
        weights = replace(weights, state=from_transformers(weights.state, model))
    grids = _grids(model, wanted, weights, grid)
    layout = source if source != "auto" else _layout(model, wanted, weights)
    if translate := LAYOUTS.get(layout):
        weights = replace(weights, state=translate(weights.state))
    result = fit(weights.state, wanted, grids=grids, head_names=head_names, inflate=inflate)
    if result.problems:
        raise CheckpointError(complaint(result, weights, wanted, layout, model))
    _refuse_nan(result.state, weights.origin)
    if isinstance(model, MViT) and looks_like_hiera(weights):
        notes.append(HIERA)
    eps, eps_notes = _match_eps(model, weights, layout, is_explicit=source != "auto")
    wanted.update(result.state)
    model.load_state_dict(wanted)
    return LoadReport(
        source=layout,
        loaded=[name for name in result.state if name not in result.resized],
        resized=result.resized,
        skipped=result.skipped,
        missing=result.missing,
        how=result.how,
        notes=notes + result.notes + eps_notes,
        pool_norm_eps=eps,
    )


def _layout(model: nn.Module, wanted: Mapping[str, Tensor], weights: Weights) -> str:
    """The layout of the weights: a key of `LAYOUTS`, or `own`.

    A model's own names are never translated, whatever project they look like; those of MViT are PySlowFast's.
    """
    names = weights.state.keys()
    if names == wanted.keys() and not isinstance(model, MViT):
        return "own"
    if isinstance(model, ConvolutionalNetwork):
        if is_caffe2(names):
            return "caffe2"
        return "pytorchvideo_cnn" if is_pytorchvideo_cnn(names) else "own"
    is_transformer = any(name.endswith(".attn.proj.weight") for name in wanted)
    return detect(weights.state) if is_transformer else "own"


def _refuse_nan(state: Mapping[str, Tensor], origin: str) -> None:
    """Raise if weights are not finite; a file without checksums may be damaged in this way."""
    if bad := not_finite(state):
        raise CheckpointError(
            f"weights that are not finite in {plural(len(bad), 'tensor')}, {bad[0]} first",
            where=origin,
            hint="The file is damaged, or training had diverged before it was saved",
        )


def _grids(model: nn.Module, wanted: Mapping[str, Tensor], weights: Weights, grid: Grid | None) -> Grids:
    """What is known about grids from model, weights and caller; tables of foreign modules are unknown."""
    hints = (as_grid(grid),) if grid is not None else (grid_in_config(weights.cfg, model), weights.grid)
    return Grids(
        model=model.grid if isinstance(model, VideoModel) else None,
        tables=tables_of(model, wanted),
        hints=tuple(hint for hint in hints if hint is not None),
        is_strict=grid is not None,
        is_image=any("patch_embed" in name and tensor.dim() == 4 for name, tensor in weights.state.items()),
    )


def _class_token_notes(model: nn.Module, weights: Weights) -> list[str]:
    """A warning about image models whose class token takes part in residual pooling; 2-D pooling identifies them."""
    if not isinstance(model, MViT) or model.cls_token is None or model.grid[0] > 1:
        return []
    has_flat_pools = any(n.endswith(".attn.pool_q.weight") and t.dim() == 4 for n, t in weights.state.items())
    adds_queries = any(m.residual_pooling for m in model.modules() if isinstance(m, MultiscaleAttention))
    if not (has_flat_pools and adds_queries):
        return []
    return [
        "facebookresearch/mvit and timm add pooled queries to the class token too (residual pooling), PySlowFast and "
        "this project do not: logits differ from theirs until the class token is trained"
    ]


def _match_eps(model: nn.Module, weights: Weights, layout: str, *, is_explicit: bool) -> tuple[float | None, list[str]]:
    """Set the eps of the weights on the pooling norms of the model; a note if it changes or is unknown."""
    own = pool_norm_eps(model)
    if own is None:
        return None, []
    eps, reason = source_eps(weights, layout, is_explicit=is_explicit)
    if eps is None:
        return None, [
            f"the weights do not determine the eps of the pooling norms, the model keeps {own:g}; PyTorch weights of "
            "PySlowFast from before June 2022 need MVIT.POOL_NORM_EPS 1e-5 (source='pyslowfast_old' sets it)"
        ]
    set_pool_norm_eps(model, eps)
    if eps == own:
        return eps, []
    advice = f"set MVIT.POOL_NORM_EPS {eps:g} for runs that start from these weights"
    return eps, [f"eps of the pooling norms {own:g} -> {eps:g}, {reason}; {advice}"]
