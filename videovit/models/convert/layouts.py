"""Names of other projects' MViT weights as names of this project, which are PySlowFast's.

One function per layout, `state -> state`. Tensors change their shape only if the other project stores the same numbers
in another form (torchvision's tables have no leading 1). `detect` recognizes layouts by their names.

Block names on both sides:

    here           torchvision           pytorchvideo               timm
    attn.proj      attn.project.0        attn.proj                  attn.proj
    attn.pool_q    attn.pool_q.pool      attn.pool_q (and alias)    attn.pool_q, 2-D
    attn.norm_q    attn.pool_q.norm_act.0  attn.norm_q (and alias)  attn.norm_q
    mlp.fc1, fc2   mlp.0, mlp.3          mlp.fc1, fc2               mlp.fc1, fc2
    proj           project               proj                       shortcut_proj_attn / shortcut_proj_mlp
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from torch import Tensor

from videovit.models.convert.caffe2 import from_caffe2
from videovit.models.convert.convolutional_layouts import from_pytorchvideo_cnn
from videovit.models.convert.image_layouts import detect_image, from_deit, from_pit, from_ps_vit
from videovit.models.convert.read import CheckpointError

State = dict[str, Tensor]

POOL_NORM_EPS = {
    "mvit": 1e-6,
    "pyslowfast_old": 1e-5,
    "pytorchvideo": 1e-5,
    "pytorchvideo_repo": 1e-6,
    "torchvision": 1e-6,
    "timm": 1e-6,
}
"""Eps of the pooling norms, for layouts that always had the same one."""

_TORCHVISION = (
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^pos_encoding\.class_token$", "cls_token"),
    (r"^pos_encoding\.(spatial|temporal|class)_pos$", r"pos_embed_\1"),
    (r"\.attn\.project\.0\.", ".attn.proj."),
    (r"\.attn\.pool_([qkv])\.pool\.", r".attn.pool_\1."),
    (r"\.attn\.pool_([qkv])\.norm_act\.0\.", r".attn.norm_\1."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^(blocks\.\d+)\.project\.", r"\1.proj."),
    (r"^head\.1\.", "head.projection."),
)
_PYTORCHVIDEO = (
    (r"^patch_embed\.patch_model\.", "patch_embed.proj."),
    (r"^cls_positional_encoding\.", ""),
    (r"^norm_embed\.", "norm."),
    (r"^head\.proj\.", "head.projection."),
)
# PySlowFast's reversible MViT has its blocks in a module of their own.
REVERSIBLE = (
    (r"^rev_backbone\.layers\.(\d+)\.F\.", r"blocks.\1.attention."),
    (r"^rev_backbone\.layers\.(\d+)\.G\.", r"blocks.\1.mlp."),
    (r"^rev_backbone\.layers\.(\d+)\.pre_q_fuse\.fuse_fn\.", r"blocks.\1.fuse."),
    (r"^rev_backbone\.layers\.(\d+)\.res_proj\.", r"blocks.\1.proj."),
)
_TIMM = (
    (r"\.shortcut_proj_(attn|mlp)\.", ".proj."),
    (r"^head\.fc\.", "head.projection."),
)


def detect(names: Iterable[str]) -> str:
    """The layout of these names; `pyslowfast` unless they belong to another one.

    Raises:
        CheckpointError: names of a project or a model that is not supported.
    """
    names = set(names)

    def some(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in names)

    if some(r"backbone\.|patch_embed\.projection\."):
        raise CheckpointError(
            "weights of mmaction2 (backbone.patch_embed.projection) are not supported",
            hint="MViTv2 loads from PySlowFast, torchvision or timm",
        )
    if "conv_proj.weight" in names:
        return "torchvision"
    if some(r"stages\.\d+\.blocks\."):
        return "timm"
    if some(r"patch_embed\.patch_model\.|cls_positional_encoding\."):
        return "pytorchvideo_repo" if some(r".*\._attention_pool_[qkv]\.") else "pytorchvideo"
    return detect_image(names) or "pyslowfast"


def from_pyslowfast(state: State) -> State:
    """PySlowFast and facebookresearch/mvit: names are those of this project; image weights may lack the time axis."""
    return {name: _with_time_axis(name, tensor) for name, tensor in _rename(state, REVERSIBLE).items()}


def from_torchvision(state: State) -> State:
    """`mvit_v1_b`, `mvit_v2_s` and every other model of torchvision's `MViT` class."""
    renamed = _rename(state, _TORCHVISION)
    for name, dims in (("cls_token", 1), ("pos_embed_class", 1), ("pos_embed_spatial", 2), ("pos_embed_temporal", 2)):
        if name in renamed and renamed[name].dim() == dims:
            renamed[name] = renamed[name].reshape(1, -1, renamed[name].shape[-1])
    return renamed


def from_pytorchvideo(state: State) -> State:
    """pytorchvideo, from pip (0.1.5) or its repository, which has second names for the same tensors; images too."""
    renamed = _rename({n: t for n, t in state.items() if not is_alias(n)}, _PYTORCHVIDEO)
    return {n: _with_time_axis(n, t) for n, t in renamed.items()}


def from_timm(state: State) -> State:
    """timm's `mvitv2_*`: blocks numbered per stage, two-dimensional pooling."""
    return {n: _with_time_axis(n, t) for n, t in _rename(_without_stages(state), _TIMM).items()}


LAYOUTS: dict[str, Callable[[State], State]] = {
    "pyslowfast": from_pyslowfast,
    "pyslowfast_old": from_pyslowfast,
    "mvit": from_pyslowfast,
    "pytorchvideo": from_pytorchvideo,
    "pytorchvideo_repo": from_pytorchvideo,
    "torchvision": from_torchvision,
    "timm": from_timm,
    "pit": from_pit,
    "ps_vit": from_ps_vit,
    "deit": from_deit,
    "pytorchvideo_cnn": from_pytorchvideo_cnn,
    "caffe2": from_caffe2,
}


def is_alias(name: str) -> bool:
    """Whether this is the second name of a pooling tensor in pytorchvideo's repository."""
    return "._attention_pool_" in name


def _rename(state: State, rules: Iterable[tuple[str, str]]) -> State:
    renamed = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        renamed[new] = tensor
    return renamed


def _without_stages(state: State) -> State:
    """`stages.s.blocks.j` -> `blocks.i`, with i counted over all stages."""
    found = {(int(m[1]), int(m[2])) for name in state if (m := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name))}
    number = {stage_block: i for i, stage_block in enumerate(sorted(found))}

    def flat(match: re.Match[str]) -> str:
        return f"blocks.{number[int(match[1]), int(match[2])]}."

    return {re.sub(r"^stages\.(\d+)\.blocks\.(\d+)\.", flat, name): tensor for name, tensor in state.items()}


def _with_time_axis(name: str, tensor: Tensor) -> Tensor:
    """Add a time axis to convolutions of images: (C, c, kh, kw) to (C, c, 1, kh, kw)."""
    is_conv = name == "patch_embed.proj.weight" or re.search(r"\.pool_[qkv]\.weight$", name)
    return tensor.unsqueeze(2) if is_conv and tensor.dim() == 4 else tensor
