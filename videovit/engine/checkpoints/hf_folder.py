"""Models of transformers as it saves them: a folder with config.json, the preprocessing, and weights.

    config.json                      model_type, settings, names of the classes
    preprocessor_config.json         what becomes of frames; or video_preprocessor_config.json, processor_config.json
    model.safetensors                weights; or several files with an index; or pytorch_model.bin, read without
                                     running code

Code in such a folder is never run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videovit.config import Config, checked, load_config
from videovit.config.rules import changed
from videovit.errors import UserError
from videovit.messages import Plain, did_you_mean, printable
from videovit.models.external.hf_network import HfNetwork, import_transformers, refusals
from videovit.models.external.hugging_face import NETWORKS, check_sizes, known_settings

CONFIG = "config.json"
_PREPROCESSING = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TENSOR_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
PATTERNS = (CONFIG, *_PREPROCESSING, "model*.safetensors", SAFE_WEIGHTS[1])
"""Of the files that are downloaded."""
TENSOR_PATTERNS = ("pytorch_model*.bin", TENSOR_WEIGHTS[1])
"""Of the files that are downloaded if there are no others."""

_STRIDES = {"videomae": 4, "timesformer": 32, "vivit": 2, "vjepa2": 4}
"""Frames between those of a clip in the training of the published models on Kinetics, which no file says."""
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_HALVES = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
_DEFAULTS: dict[str, dict[str, Any]] = {
    "videomae": {"image_mean": _HALVES[0], "image_std": _HALVES[1]},
    "timesformer": {"image_mean": _IMAGENET[0], "image_std": _IMAGENET[1]},
    "vivit": {"image_mean": _HALVES[0], "image_std": _HALVES[1], "rescale_factor": 1 / 127.5, "offset": True},
    "vjepa2": {"image_mean": _IMAGENET[0], "image_std": _IMAGENET[1]},
}
"""Preprocessing that transformers uses if a file does not say."""


def is_hf(folder: Path) -> bool:
    """Whether a folder holds a model of transformers."""
    return (folder / CONFIG).is_file()


def weights_in(folder: Path) -> Path | None:
    """The file of the weights in the folder of a saved model; of several files their index."""
    return next((folder / n for n in (*SAFE_WEIGHTS, *TENSOR_WEIGHTS) if (folder / n).is_file()), None)


def read_hf(folder: Path) -> tuple[Config, list[str] | None]:
    """The config of a model of transformers, and the names of its classes, None if it has none.

    Raises:
        UserError: transformers is not installed; a file is malformed; or no such model is supported.
    """
    content = _read_json(folder / CONFIG)
    network = _network(content, folder / CONFIG)
    sizes = (*known_settings(network), "num_labels")
    check_sizes({name: content[name] for name in sizes if name in content}, str(folder / CONFIG))
    with refusals(str(folder / CONFIG)):
        config = getattr(import_transformers(), network.config_class).from_dict(content)
    frames, side, channels = network.size_settings
    names = [n for n in known_settings(network) if n != channels and getattr(config, n) is not None]
    settings = tuple((n, tuple(v) if isinstance(v := getattr(config, n), list) else v) for n in names)
    classes = [str(config.id2label[i]) for i in sorted(config.id2label)]
    crop = getattr(config, side)
    keys = {
        "MODEL.MODEL_NAME": f"hf_{network.model_type}",
        "MODEL.ARCH": "hf",
        "MODEL.NUM_CLASSES": len(classes),
        "MODEL.DROPOUT_RATE": 0.0,
        "HF.CONFIG": settings,
        "DATA.NUM_FRAMES": getattr(config, frames),
        "DATA.SAMPLING_RATE": _STRIDES[network.model_type],
        "DATA.INPUT_CHANNEL_NUM": (getattr(config, channels),),
        "TRAIN.DATASET": "kinetics",
        "TEST.DATASET": "kinetics",
    }
    keys |= _input_keys(folder, network.model_type, crop if isinstance(crop, int) else crop[0])
    unnamed = all(name == f"LABEL_{i}" for i, name in enumerate(classes))
    return checked(changed(load_config(), keys), str(folder)), None if unnamed else classes


def _network(content: Mapping[str, Any], path: Path) -> type[HfNetwork]:
    kind = content.get("model_type")
    network = NETWORKS.get(f"hf_{kind}")
    if network is None:
        types = [n.removeprefix("hf_") for n in NETWORKS]
        raise UserError(
            "a model of transformers that is not supported",
            where=path,
            found=Plain(f"model_type {printable(str(kind))}"),
            expected=f"one of {', '.join(types)}",
            near=did_you_mean(str(kind), types),
        )
    return network


def _input_keys(folder: Path, model_type: str, side: int) -> dict[str, Any]:
    """Keys of DATA for what transformers does with frames.

    It rescales, (v * factor - offset - mean) / std with v from 0 to 255, which is (v / 255 - MEAN) / STD here.
    """
    path = next((folder / name for name in _PREPROCESSING if (folder / name).is_file()), None)
    own = _read_json(path) if path else {}
    own = own.get("video_processor", own.get("image_processor", own))
    spec: dict[str, Any] = {"rescale_factor": 1 / 255, "offset": False, "crop_size": side, "size": side}
    spec |= _DEFAULTS[model_type] | own
    try:
        factor = float(spec["rescale_factor"]) if spec.get("do_rescale", True) else 1.0
        offset = 1.0 if spec["offset"] and spec.get("do_rescale", True) else 0.0
        normalizes = spec.get("do_normalize", True)
        means, stds = (spec["image_mean"], spec["image_std"]) if normalizes else ([0.0] * 3, [1.0] * 3)
        short = _side(spec["size"])
        crop = _side(spec["crop_size"]) if spec.get("do_center_crop", True) else short
        if model_type == "vjepa2":  # its preprocessing overrides what the file says
            short = int(crop * 256 / 224)
        return {
            "DATA.MEAN": tuple((offset + float(mean)) / (255 * factor) for mean in means),
            "DATA.STD": tuple(float(std) / (255 * factor) for std in stds),
            "DATA.TRAIN_CROP_SIZE": crop,
            "DATA.TEST_CROP_SIZE": crop,
            "DATA.TEST_SHORT_SIDE": max(short, crop),
            "DATA.TRAIN_JITTER_SCALES": (max(short, crop), max(short, crop) * 5 // 4),
        }
    except (TypeError, ValueError, LookupError, ZeroDivisionError) as error:
        raise UserError(f"malformed preprocessing: {error!r}", where=path or folder) from error


def _side(size: Any) -> int:
    """The short side of {shortest_edge: 224}, {height: 224, width: 224} or 224."""
    if isinstance(size, Mapping):
        if "shortest_edge" not in size and size["height"] != size["width"]:
            raise ValueError(f"frames of {size['height']} x {size['width']} are not square")
        size = size["shortest_edge"] if "shortest_edge" in size else size["height"]
    if int(size) < 1:
        raise ValueError(f"a side of {size} pixels")
    return int(size)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"not a readable JSON file: {error}", where=path) from error
    if not isinstance(content, dict):
        raise UserError("not a JSON object", where=path)
    return content
