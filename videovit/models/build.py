"""The table of models."""

from collections.abc import Callable
from typing import Any

from torch import nn

from videovit.errors import UserError
from videovit.messages import did_you_mean
from videovit.models.detection.roi_head import detector_from_config
from videovit.models.external.pytorchvideo import PTV_MODELS
from videovit.models.mvit.model import mvit_from_config
from videovit.models.pit import pit_from_config
from videovit.models.pooling_sharing.model import psvit_from_config
from videovit.models.pooling_sharing.supernet import psvit_supernet_from_config
from videovit.models.progressive_sampling import ps_vit_from_config
from videovit.models.vit import vit_from_config

MODELS: dict[str, Callable[[Any], nn.Module]] = {
    "MViT": mvit_from_config,
    "ViT": vit_from_config,
    "PSViT": psvit_from_config,
    "PSViTSupernet": psvit_supernet_from_config,
    "PiT": pit_from_config,
    "PS_ViT": ps_vit_from_config,
    **PTV_MODELS,
}


class UnknownModelError(UserError):
    """`MODEL.MODEL_NAME` is not in `MODELS`."""


def build_model(cfg: Any) -> nn.Module:
    """The model that a config describes, initialised, on the current default device.

    Args:
        cfg: `videovit.config.Config`.

    Returns:
        A module with `forward(x_BCTHW) -> logits (B, K)` and `forward_features(x_BCTHW) -> (tokens, grid)`; with
        DETECTION.ENABLE a Detector, `forward(x_BCTHW, boxes_R5) -> logits (R, K)`.

    Raises:
        UnknownModelError: `MODEL.MODEL_NAME` is unknown; the message has the nearest name.
    """
    name = cfg.MODEL.MODEL_NAME
    if name not in MODELS:
        known, near = ", ".join(MODELS), did_you_mean(name, MODELS)
        raise UnknownModelError(f"MODEL.MODEL_NAME is {name!r}; known: {known}", near=near)
    model = MODELS[name](cfg)
    return detector_from_config(model, cfg) if cfg.DETECTION.ENABLE else model
