"""Classifiers of transformers from a config: MODEL.MODEL_NAME hf_..., and the section HF."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from videovit.config import Config
from videovit.config.limits import DEPTHS, WIDTHS
from videovit.config.schema.models import HfSetting
from videovit.errors import UserError
from videovit.messages import did_you_mean
from videovit.models.contract import VideoModel
from videovit.models.external.hf_network import HfNetwork, VideoMae, Vivit, VJepa2, import_transformers, refusals
from videovit.models.external.hf_timesformer import TimeSformer

NETWORKS: dict[str, type[HfNetwork]] = {f"hf_{n.model_type}": n for n in (VideoMae, TimeSformer, Vivit, VJepa2)}

PRETRAINING = ("decoder_", "pred_", "norm_pix_loss")
"""Beginnings of settings that serve pre-training alone."""
# Its predictor is built and dropped; a small one is quick.
_NO_PREDICTOR = {"pred_num_hidden_layers": 0, "pred_hidden_size": 12, "pred_num_attention_heads": 1}


def known_settings(network: type[HfNetwork]) -> list[str]:
    """Names of the settings that transformers has for a network, without those of pre-training."""
    config_class = getattr(import_transformers(), network.config_class)
    names = inspect.get_annotations(config_class)
    return [name for name in names if not name.startswith((*PRETRAINING, "model_type"))]


def check_sizes(settings: Mapping[str, Any], where: str) -> None:
    """Refuse what would fill the memory before anything is built, as the models of this project do.

    Args:
        settings: of a stranger's config.json, or of HF.CONFIG.
        where: their name for the error.

    Raises:
        UserError: a depth, a width, a side or a number of classes is beyond `DEPTHS` or `WIDTHS`.
    """
    for name, value in settings.items():
        limits = DEPTHS if name.endswith("layers") else WIDTHS
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int | float) and limits.high is not None and number > limits.high:
                raise UserError(f"{name} is too large", where=where, found=number, expected=f"at most {limits.high:,}")


def build_hf(
    name: str,
    settings: Mapping[str, HfSetting],
    *,
    clip_size: tuple[int, int, int],
    num_classes: int = 400,
    in_channels: int = 3,
    head_dropout: float = 0.0,
    act_checkpoint: bool = False,
) -> HfNetwork:
    """A classifier of transformers, initialized.

    Args:
        name: a key of `NETWORKS`.
        settings: of transformers' config of the model; the others have its defaults. Frames and side are those that
            position tables are made for; by default those of `clip_size`.
        clip_size: (T, H, W) in pixels of the clips it is trained on, H equal to W.
        num_classes: K.
        in_channels: C of the clip.
        head_dropout: before the classifier.
        act_checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        UserError: transformers is not installed, has no setting of this name, or refuses the values.
    """
    network = NETWORKS[name]
    config_class = getattr(import_transformers(), network.config_class)
    frames, side, channels = network.size_settings
    known = [setting for setting in known_settings(network) if setting != channels]
    for setting in settings:
        if setting not in known:
            raise UserError(
                f"{name} has no such setting",
                where="HF.CONFIG",
                found=setting,
                expected=f"one of {', '.join(known)}",
                near=did_you_mean(setting, known),
            )
    check_sizes(settings, "HF.CONFIG")
    sizes: dict[str, Any] = {frames: clip_size[0], side: clip_size[1], channels: in_channels}
    unused = _NO_PREDICTOR if network is VJepa2 else {}
    # transformers checks types: a whole number is no probability there, and a tuple no list.
    chosen = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    with refusals("HF.CONFIG"):
        config = config_class(**{**sizes, **unused, **chosen}, num_labels=num_classes)
        return network(config, head_dropout=head_dropout, act_checkpoint=act_checkpoint)


def hf_from_config(cfg: Config, *, name: str) -> HfNetwork:
    """`build_hf` from the sections DATA, HF and MODEL of a config.

    Args:
        cfg: the config.
        name: a key of `NETWORKS`.

    Raises:
        UserError: as `build_hf`; or a setting is there twice.
    """
    settings = dict(cfg.HF.CONFIG)
    if len(settings) < len(cfg.HF.CONFIG):
        names = [setting for setting, _ in cfg.HF.CONFIG]
        twice = next(setting for setting in names if names.count(setting) > 1)
        raise UserError("a setting that is there twice", where="HF.CONFIG", found=twice)
    # V-JEPA 2 numbers its tokens for the largest frames.
    side = max(cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE if name == "hf_vjepa2" else 0)
    return build_hf(
        name,
        settings,
        clip_size=(cfg.DATA.NUM_FRAMES, side, side),
        num_classes=cfg.MODEL.NUM_CLASSES,
        in_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
        head_dropout=cfg.MODEL.DROPOUT_RATE,
        act_checkpoint=cfg.MODEL.ACT_CHECKPOINT,
    )


HF_MODELS: dict[str, Callable[[Config], VideoModel]] = {name: partial(hf_from_config, name=name) for name in NETWORKS}
