"""The table of models."""

from collections.abc import Callable
from typing import Any

from torch import nn

from videovit.config.coerce import nearest
from videovit.errors import UserError
from videovit.models.detection.roi_head import box_head_from_config
from videovit.models.external.pytorchvideo import PTV_MODELS
from videovit.models.mvit.model import mvit_from_config
from videovit.models.pit import pit_from_config
from videovit.models.pooling_sharing.model import pooling_sharing_from_config
from videovit.models.pooling_sharing.supernet import pooling_sharing_supernet_from_config
from videovit.models.progressive_sampling import progressive_sampling_from_config
from videovit.models.vit import vit_from_config

MODELS: dict[str, Callable[[Any], nn.Module]] = {
    "MViT": mvit_from_config,
    "ViT": vit_from_config,
    "PSViT": pooling_sharing_from_config,
    "PSViTSupernet": pooling_sharing_supernet_from_config,
    "PiT": pit_from_config,
    "PS_ViT": progressive_sampling_from_config,
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
        raise UnknownModelError(f"MODEL.MODEL_NAME is {name!r}; known: {', '.join(MODELS)}{nearest(name, MODELS)}")
    model = MODELS[name](cfg)
    if cfg.DETECTION.ENABLE:
        model.reset_head(box_head_from_config(cfg, model))
    return model
