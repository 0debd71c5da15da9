"""Models: plain modules with typed arguments, and `build_model` that reads a config for them."""

from videovit.models.build import MODELS, UnknownModelError, build_model
from videovit.models.convert import (
    CheckpointError,
    LoadReport,
    config_hints,
    export_state_dict,
    load_pretrained,
    save_safetensors,
)
from videovit.models.layers.maps import attention_maps
from videovit.models.macs import count_macs, count_params
from videovit.models.mvit.model import MViT, mvit_from_config
from videovit.models.mvit.schedule import BlockSpec, ScheduleError, expand

__all__ = [
    "MODELS",
    "BlockSpec",
    "CheckpointError",
    "LoadReport",
    "MViT",
    "ScheduleError",
    "UnknownModelError",
    "attention_maps",
    "build_model",
    "config_hints",
    "count_macs",
    "count_params",
    "expand",
    "export_state_dict",
    "load_pretrained",
    "mvit_from_config",
    "save_safetensors",
]
