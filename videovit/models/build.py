"""The tables of models and detectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from videovit.config import Config
from videovit.errors import UserError
from videovit.messages import did_you_mean
from videovit.models.contract import LayeredModel, VideoModel
from videovit.models.convolutional.build import resnet_from_config, slowfast_from_config, x3d_from_config
from videovit.models.detection.detector import Detector
from videovit.models.detection.detr import deformable_detr_from_config
from videovit.models.detection.rcnn import rcnn_from_config, retinanet_from_config
from videovit.models.detection.roi_head import box_head_from_config
from videovit.models.external.hugging_face import HF_MODELS
from videovit.models.external.pytorchvideo import PTV_MODELS
from videovit.models.external.resnet import image_resnet_from_config
from videovit.models.external.slowfast_names import SLOWFAST_NAMES
from videovit.models.layers.batch_norm import SplitBatchNorm3d, SyncedBatchNorm3d, replace_batch_norms
from videovit.models.masked.build import masked_from_config
from videovit.models.masked.model import MaskedModel
from videovit.models.mvit.build import mvit_from_config
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
    "ImageResNet": image_resnet_from_config,
    "ResNet": resnet_from_config,
    "ResNet_nopool": partial(resnet_from_config, pools_t=False),
    "SlowFast": slowfast_from_config,
    "X3D": x3d_from_config,
    **PTV_MODELS,
    **SLOWFAST_NAMES,
    **HF_MODELS,
}
"""MODEL.MODEL_NAME -> builder."""

DETECTORS: dict[str, Callable[[Config, VideoModel], Detector]] = {
    "MaskRCNN": partial(rcnn_from_config, masks=True),
    "FasterRCNN": partial(rcnn_from_config, masks=False),
    "RetinaNet": retinanet_from_config,
    "DeformableDETR": deformable_detr_from_config,
}
"""DETECTOR.NAME -> builder, which also gets the model whose maps the detector reads."""


def build_network(cfg: Config) -> LayeredModel:
    """What a config trains: `build_masked` with MASK.ENABLE, `build_detector` with DETECTOR.NAME, else `build_model`.

    Raises:
        UserError: as these.
    """
    if cfg.MASK.ENABLE:
        return build_masked(cfg)
    return build_detector(cfg) if cfg.DETECTOR.NAME else build_model(cfg)


def build_masked(cfg: Config) -> MaskedModel:
    """The masked pre-training model that a config describes, initialized, on the current default device.

    Raises:
        UserError: the model of MODEL.MODEL_NAME cannot be built, or not be pre-trained, with these settings.
    """
    return masked_from_config(cfg, build_backbone(cfg))


def build_detector(cfg: Config) -> Detector:
    """The detector that a config describes, initialized, on the current default device.

    Raises:
        UserError: DETECTOR.NAME is empty; or the model, or the detector on it, cannot be built with these settings.
    """
    if not cfg.DETECTOR.NAME:
        raise UserError(where="DETECTOR.NAME", found="none", expected=f"one of {', '.join(DETECTORS)}")
    return DETECTORS[cfg.DETECTOR.NAME](cfg, build_backbone(cfg))


def build_model(cfg: Config) -> VideoModel:
    """The model that a config describes, initialized, on the current default device.

    With DETECTION.ENABLE its head classifies boxes.

    Raises:
        UserError: `MODEL.MODEL_NAME` is unknown, or the model cannot be built with these settings; or the config
            describes a detector or a pre-training, which `build_detector` and `build_masked` build.
    """
    if cfg.MASK.ENABLE:
        raise UserError(
            "a model in masked pre-training has no classifier",
            where="MASK.ENABLE",
            hint="Fine-tune it first: a config without MASK, and its run as TRAIN.CHECKPOINT_FILE_PATH",
        )
    if cfg.DETECTOR.NAME:
        raise UserError(
            "a detector finds objects in images and has no classes of videos",
            where="DETECTOR.NAME",
            found=cfg.DETECTOR.NAME,
            expected="none",
        )
    return build_backbone(cfg)


def build_backbone(cfg: Config) -> VideoModel:
    """The model of MODEL.MODEL_NAME, whether a detector reads its maps or it classifies.

    Raises:
        UserError: as `build_model`.
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
    if cfg.BN.NORM_TYPE == "sub_batchnorm":
        replace_batch_norms(model, partial(SplitBatchNorm3d, num_splits=cfg.BN.NUM_SPLITS))
    elif cfg.BN.NORM_TYPE == "sync_batchnorm":
        num_processes = 0 if cfg.BN.GLOBAL_SYNC else cfg.BN.NUM_SYNC_DEVICES
        replace_batch_norms(model, partial(SyncedBatchNorm3d, num_processes=num_processes))
    if cfg.DETECTION.ENABLE:
        model.reset_head(box_head_from_config(cfg, model))
    return model
