"""Models: plain modules with typed arguments, and `build_model`, which reads a config for them."""

from videovit.models.build import DETECTORS, MODELS, build_detector, build_model, build_network
from videovit.models.contract import LayeredModel, VideoModel
from videovit.models.convert import (
    CheckpointError,
    LoadReport,
    config_hints,
    export_state_dict,
    load_pretrained,
    save_safetensors,
)
from videovit.models.cpu import optimize_for_inference
from videovit.models.detection.detector import Detector
from videovit.models.layers.maps import attention_maps
from videovit.models.macs import count_macs, count_params
from videovit.models.mvit.block_specs import BlockSpec, expand
from videovit.models.mvit.build import mvit_from_config
from videovit.models.mvit.model import MViT

__all__ = [
    "DETECTORS",
    "MODELS",
    "BlockSpec",
    "CheckpointError",
    "Detector",
    "LayeredModel",
    "LoadReport",
    "MViT",
    "VideoModel",
    "attention_maps",
    "build_detector",
    "build_model",
    "build_network",
    "config_hints",
    "count_macs",
    "count_params",
    "expand",
    "export_state_dict",
    "load_pretrained",
    "mvit_from_config",
    "optimize_for_inference",
    "save_safetensors",
]
