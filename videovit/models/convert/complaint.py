"""Why weights do not fit a model: which names, of which model they are, and which config keys would make them fit."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn

from videovit.messages import plural
from videovit.models.convert.fit import PRETRAINING, Fit
from videovit.models.convert.hints import config_hints
from videovit.models.convert.read import Weights
from videovit.models.detection.detector import Detector
from videovit.models.mvit.model import MViT
from videovit.models.mvit.reversible import ReversibleMViT
from videovit.models.pit import PiT
from videovit.models.pooling_sharing.model import PoolingSharingModel
from videovit.models.progressive_sampling import ProgressiveSamplingViT
from videovit.models.vit import ViT

_LISTED = 8  # tensors per message
_STRANGE = 3  # names of another network per message
_NAMED = re.compile(r"MODEL_NAME['\"]?\s*:\s*['\"]?(\w+)")

_CLASSES: tuple[tuple[type[nn.Module], str], ...] = (
    (MViT, "MViT"),
    (ViT, "ViT"),
    (PiT, "PiT"),
    (ProgressiveSamplingViT, "PS_ViT"),
    (PoolingSharingModel, "PSViT"),
)
_COMMON = (
    r"cls_token|norm\.\w+|head(_dist)?\..+|patch_embed\.proj\.\w+|"
    r"blocks\.\d+\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)"
)
# MODEL.MODEL_NAME, a name that only its weights have, and all their names; the first that fits is taken.
_FAMILIES = (
    ("PSViT", r"pos_embed\.\d+", r"patch_embed\.(weight|bias)|pos_embed\.\d+|pools\..+|blocks\.\d+\..+"),
    ("PS_ViT", r"pos_layer\.weight", r"stem\..+|pos_layer\.\w+|blocks\.\d+\.offset\.\w+"),
    ("PiT", r"blocks\.\d+\.pool\..+", r"pos_embed_(spatial|temporal)|blocks\.\d+\.pool\..+"),
    ("ViT", r"pos_embed", r"pos_embed"),
    (
        "MViT",
        r"blocks\.\d+\.attn\.proj\.weight",
        r"pos_embed(_spatial|_temporal|_class)?|norm_stem\.\w+|"
        r"blocks\.\d+\.(proj|attn\.(q|k|v|norm_[qkv]))\.(weight|bias)|"
        r"blocks\.\d+\.attn\.(pool_[qkv]\.weight|rel_pos_[hwt])",
    ),
)
# DETECTOR.NAME, and how a name begins that its weights have and those of the following ones do not.
_DETECTORS = (
    ("MaskRCNN", "network.roi_heads.mask_head."),
    ("FasterRCNN", "network.roi_heads."),
    ("RetinaNet", "network.head.classification_head."),
    ("DeformableDETR", "network.decoder."),
)
_FOREIGN = (
    (r".*attn\.[qv]_bias", "VideoMAE or BEiT"),
    (r".*temporal_(attn|norm\d|fc)\.", "TimeSformer"),
    (r".*relative_position_bias_table", "Swin"),
    (r"layer\d\.\d+\.conv\d\.", "a ResNet"),
    (r".*encoder\.layers?\.\d+\.attention\.", "Hugging Face's transformers"),
    (r".*encoder\.layers\.encoder_layer_\d+\.", "torchvision's ViT"),
    (r".*resblocks\.\d+\.", "CLIP"),
    (r"blocks\d\.\d+\.", "UniFormer"),
)

HIERA = (
    "names and shapes are those of Hiera, which attends within windows of the picture; no model here does, so its "
    "weights cannot be used. Weights of an MViT without learned pooling have the same names; save its config beside "
    "them to load them"
)


def complaint(result: Fit, weights: Weights, wanted: Mapping[str, Tensor], layout: str, model: nn.Module) -> str:
    """The message for weights that do not fit.

    Args:
        result: of `fit`.
        weights: by names of this project, as far as their layout is known.
        wanted: the model's state dict.
        layout: that the weights were read as.
        model: that they should fit.
    """
    number = len(result.problems)
    lines = [
        f"{weights.origin} (read as {layout}) does not fit the model; {plural(number, 'tensor')} "
        f"{'differs' if number == 1 else 'differ'}:"
    ]
    problems = list(result.problems.items())
    lines += [f"  {name}: {why}" for name, why in problems[:_LISTED]]
    if number > _LISTED:
        lines.append(f"  ... and {number - _LISTED} more")
    return "\n".join([*lines, *_channels(weights, wanted), *_advice(weights, wanted, model)])


def _advice(weights: Weights, wanted: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    theirs, ours = _detector(weights.state), _detector(wanted)
    if theirs != ours:
        known = f"DETECTOR.NAME {theirs}" if theirs else "a model without a detector"
        return [f"the weights are those of {known}, the model has {f'DETECTOR.NAME {ours}' if ours else 'no detector'}"]
    body = model.body if isinstance(model, Detector) else model
    own = next((name for kind, name in _CLASSES if isinstance(body, kind)), "")
    # Of a model of another class, the name may be the same, with other sizes.
    named = _NAMED.search(weights.cfg)
    if named and named[1] != own and (own or named[1] in dict(_CLASSES).values()):
        return [f"the config in the file says MODEL.MODEL_NAME {named[1]}"]
    convolutional = _convolutional(weights.state)
    if convolutional and convolutional != _convolutional(wanted):
        return [f"the weights are those of MODEL.MODEL_NAME {convolutional}"]
    reversible = any(name.startswith("blocks.0.attention.attn.") for name in weights.state)
    if own == "MViT" and reversible != isinstance(model, ReversibleMViT):
        kind = "a reversible MViT" if reversible else "an MViT whose blocks are not reversible"
        return [f"the weights are those of {kind}: MVIT.REV.ENABLE {reversible}"]
    family = family_of(weights.state)
    if own == "MViT" and looks_like_hiera(weights):
        return [HIERA]
    if own == "MViT" and family in ("MViT", "ViT"):  # a ViT is an MViT that pools nothing
        return _differing_keys(weights, wanted)
    if family:
        return [] if family == own else [f"the weights are those of MODEL.MODEL_NAME {family}"]
    return _strangers(weights.state) if own else []


def _channels(weights: Weights, wanted: Mapping[str, Tensor]) -> list[str]:
    """A line about the number of input channels, if it differs."""
    # The same name is a depthwise convolution in X3D and the stem in the others.
    if _convolutional(weights.state) != _convolutional(wanted):
        return []
    stem = next((name for name in wanted if name in weights.state and wanted[name].dim() >= 4), None)
    if stem is None or weights.state[stem].dim() < 4:
        return []
    theirs, ours = weights.state[stem].shape[1], wanted[stem].shape[1]
    if theirs == ours:
        return []
    kinds = {1: "1 channel (gray)", 3: "3 channels (RGB)"}
    their, our = (kinds.get(number, plural(number, "channel")) for number in (theirs, ours))
    advice = f": set DATA.INPUT_CHANNEL_NUM [{theirs}]" if theirs in kinds else ""
    return [f"the weights are for pictures of {their}, the model for {our}{advice}"]


def looks_like_hiera(weights: Weights) -> bool:
    """Whether weights of unknown origin have the names of Hiera, which are those of an MViT without learned pooling."""
    names, is_known = list(weights.state), bool(weights.cfg) or weights.grid is not None
    widens = any(re.fullmatch(r"blocks\.\d+\.proj\.weight", name) for name in names)
    has_others = any(re.search(r"^cls_token$|\.attn\.(pool|norm|rel_pos)_", name) for name in names)
    return widens and not has_others and not is_known and family_of(names) == "MViT"


def family_of(names: Iterable[str]) -> str:
    """MODEL.MODEL_NAME of the model that all these names belong to; empty without one."""
    names = [name for name in names if not name.startswith(PRETRAINING)]
    for family, telling, all_names in _FAMILIES:
        known = re.compile(f"({_COMMON}|{all_names})")
        if any(re.fullmatch(telling, name) for name in names) and all(known.fullmatch(name) for name in names):
            return family
    return ""


def _detector(names: Collection[str]) -> str:
    """DETECTOR.NAME of the detector with these names; empty if they are of another model."""
    return next((kind for kind, start in _DETECTORS if any(name.startswith(start) for name in names)), "")


def _convolutional(names: Collection[str]) -> str:
    """MODEL.MODEL_NAME of the convolutional network with these names; empty if they are of another model."""
    if "s1.pathway0_stem.conv.weight" not in names:
        return ""
    if "s1.pathway1_stem.conv.weight" in names:
        return "SlowFast"
    return "X3D" if "s1.pathway0_stem.conv_xy.weight" in names else "ResNet"


def _differing_keys(weights: Weights, wanted: Mapping[str, Tensor]) -> list[str]:
    theirs, ours = config_hints(weights.state), config_hints(wanted)
    keys = [k for k in theirs if k != "MODEL.NUM_CLASSES" and k in ours and theirs[k] != ours[k]]
    if not keys:
        return []
    lines = [f"  {key}: {theirs[key]}   (here: {ours[key]})" for key in keys]
    return ["the weights look like a model with these config keys:", *lines]


def _strangers(names: Iterable[str]) -> list[str]:
    """Names that no model of this project has, and whose they are."""
    names = list(names)
    known = re.compile("|".join([_COMMON, *(all_names for *_, all_names in _FAMILIES[1:])]))
    strange = [name for name in names if not known.fullmatch(name) and not name.startswith(PRETRAINING)]
    if not strange:
        return []
    whose = next((who for pattern, who in _FOREIGN if any(re.match(pattern, name) for name in names)), "")
    network = f"weights of {whose}, which this project does not read" if whose else "weights of another network"
    return [f"these seem to be {network}: no transformer here has {', '.join(strange[:_STRANGE])}"]
