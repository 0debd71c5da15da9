"""The table of models."""

from __future__ import annotations

from collections.abc import Callable

from videovit.config import Config
from videovit.errors import UserError
from videovit.messages import did_you_mean
from videovit.models.contract import VideoModel
from videovit.models.convolutional.build import resnet_from_config, slowfast_from_config, x3d_from_config
from videovit.models.detection.roi_head import box_head_from_config
from videovit.models.external.pytorchvideo import PTV_MODELS
from videovit.models.mvit.model import mvit_from_config
from videovit.models.pit import pit_from_config
from videovit.models.pooling_sharing.model import pooling_sharing_from_config
from videovit.models.pooling_sharing.supernet import pooling_sharing_supernet_from_config
from videovit.models.progressive_sampling import progressive_sampling_from_config
from videovit.models.vit import vit_from_config

MODELS: dict[str, Callable[[Config], VideoModel]] = {
    "MViT": mvit_from_config,
    "ViT": vit_from_config,
    "PSViT": pooling_sharing_from_config,
    "PSViTSupernet": pooling_sharing_supernet_from_config,
    "PiT": pit_from_config,
    "PS_ViT": progressive_sampling_from_config,
    "ResNet": resnet_from_config,
    "SlowFast": slowfast_from_config,
    "X3D": x3d_from_config,
    **PTV_MODELS,
}
"""MODEL.MODEL_NAME -> builder."""


def build_model(cfg: Config) -> VideoModel:
    """The model that a config describes, initialized, on the current default device.

    With DETECTION.ENABLE its head classifies boxes.

    Raises:
        UserError: `MODEL.MODEL_NAME` is unknown, or the model cannot be built with these settings.
    """
    name = cfg.MODEL.MODEL_NAME
    if name not in MODELS:
        raise UserError(
            where="MODEL.MODEL_NAME",
            found=name,
            expected=f"one of {', '.join(MODELS)}",
            near=did_you_mean(name, MODELS),
        )
    model = MODELS[name](cfg)
    if cfg.DETECTION.ENABLE:
        model.reset_head(box_head_from_config(cfg, model))
    return model
