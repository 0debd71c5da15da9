"""Weights of this project and of others: read, renamed, fitted to a model, and written back."""

from videovit.models.convert.eps import pool_norm_eps, set_pool_norm_eps
from videovit.models.convert.export import export_state_dict, save_safetensors
from videovit.models.convert.hints import config_hints
from videovit.models.convert.load import load_pretrained
from videovit.models.convert.read import CheckpointError
from videovit.models.convert.report import LoadReport

__all__ = [
    "CheckpointError",
    "LoadReport",
    "config_hints",
    "export_state_dict",
    "load_pretrained",
    "pool_norm_eps",
    "save_safetensors",
    "set_pool_norm_eps",
]
