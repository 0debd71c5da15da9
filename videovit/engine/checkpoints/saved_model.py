"""A model as a folder that holds all that prediction needs: weights, config, class names, preprocessing, model card.

    model.safetensors     weights, with their checksum
    config.yaml           the config, without the paths of the machine that trained it
    class_names.json      the name of every class
    preprocessing.json    what becomes of frames, for other programs; follows from config.yaml and is not read here
    README.md             model card

Reading a folder runs no code that is in it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from videovit.config import Config, dump_config, load_config
from videovit.config.rules import changed
from videovit.data.catalog import find_dataset
from videovit.data.files.class_names import read_class_names
from videovit.data.transforms.pipeline import build_eval_transform, build_image_eval_transform, build_preparation
from videovit.engine.checkpoints.folder import find_checkpoints
from videovit.engine.checkpoints.resume import load_model
from videovit.engine.checkpoints.saving import flush_folder, refuse_nan
from videovit.engine.reporting.json_lines import writing
from videovit.errors import UserError
from videovit.messages import plural, printable
from videovit.models import count_params, save_safetensors

CONFIG, WEIGHTS, CLASS_NAMES = "config.yaml", "model.safetensors", "class_names.json"
PREPROCESSING, CARD = "preprocessing.json", "README.md"
METADATA = "videovit"  # name of the metadata of an exported file among those of other programs
REQUIRED = (CONFIG, WEIGHTS, CLASS_NAMES)
FILES = (*REQUIRED, PREPROCESSING, CARD)

OF_THE_MACHINE = (
    "OUTPUT_DIR",
    "DIST_INIT_METHOD",
    "DATA.PATH_TO_DATA_DIR",
    "DATA.PATH_PREFIX",
    "DATA.CLASS_NAMES_FILE",
    "TRAIN.CHECKPOINT_FILE_PATH",
    "TEST.CHECKPOINT_FILE_PATH",
    "TEST.SAVE_RESULTS_PATH",
    "TEST.ENGINE",
    "TEST.USE_EMA",  # the weights are those that it chose
    "SHUFFLE_EVAL.CLASS_GROUPS_FILE",
    "ROBUSTNESS.REFERENCE",
    "ROBUSTNESS.IMAGENET_A",
    "ROBUSTNESS.IMAGENET_R",
    "ROBUSTNESS.CLASS_IDS_FILE",
    "ROBUSTNESS.BACKGROUNDS",
    "TENSORBOARD.LOG_DIR",
    "AVA.MOVIE_DIR",
    "AVA.FRAME_DIR",
    "AVA.FRAME_LIST_DIR",
    "AVA.ANNOTATION_DIR",
    "DISTILL.TYPE",  # needs the two below
    "DISTILL.TEACHER_CFG",
    "DISTILL.CHECKPOINT_FILE_PATH",
)
"""Keys that get their defaults in a saved config: paths, and what depends on them."""


def save_model(folder: Path, cfg: Config, model: nn.Module, class_names: list[str], *, title: str = "") -> None:
    """Write a model to a folder: completely, or not at all.

    The files are written to a hidden folder beside it, which then gets the name. An earlier model in the folder is
    replaced; it has the name `.NAME.<number>.old` for a moment.

    Args:
        folder: new, empty, or written by this function.
        cfg: of the model.
        model: its weights.
        class_names: of all classes.
        title: of the model card; empty for the name of the folder.

    Raises:
        CheckpointError: a weight is not finite.
        UserError: the folder holds other files, or cannot be written.
    """
    folder = folder.absolute()
    check_target(folder)
    state = model.state_dict()
    refuse_nan(folder, {"": state})
    own = saved_config(cfg)
    texts = {
        CONFIG: dump_config(own),
        CLASS_NAMES: json.dumps(class_names, indent=1, ensure_ascii=False) + "\n",
        PREPROCESSING: json.dumps(describe_input(own), indent=1) + "\n",
        CARD: model_card(own, model, class_names, title or folder.name),
    }
    partial, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{suffix}") for suffix in ("tmp", "old"))
    try:
        with writing(folder):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for name, text in texts.items():
                (partial / name).write_text(text, encoding="utf-8")
            save_safetensors(state, partial / WEIGHTS, model=model)
            for name in FILES:
                with open(partial / name, "rb") as file:
                    os.fsync(file.fileno())
            flush_folder(partial)
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
            flush_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def check_target(folder: Path) -> None:
    """Make sure that nothing but a saved model would be replaced.

    Raises:
        UserError: there is something else.
    """
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UserError("is not a folder", where=folder, expected="a new folder, or one of a saved model")
    others = sorted(path.name for path in folder.iterdir() if path.name not in FILES)
    if others:
        what = f"holds other files, such as {printable(others[0])}"
        raise UserError(what, where=folder, expected="a new folder, or one of a saved model")


def saved_config(cfg: Config) -> Config:
    """The config without what belongs to the machine that trained the model."""
    default = Config()
    values = {}
    for key in OF_THE_MACHINE:
        section, _, name = key.rpartition(".")
        values[key] = getattr(getattr(default, section) if section else default, name)
    if cfg.DISTILL.TYPE != "none":
        values["TRAIN.OBJECTIVE"] = "auto"
    return changed(cfg, values)


def is_saved(folder: Path) -> bool:
    """Whether a folder is that of a saved model, complete or not, rather than of a run."""
    names = set(FILES) - {CONFIG, CARD}
    return any((folder / name).exists() for name in names) and not find_checkpoints(folder)


def read_saved(folder: Path) -> tuple[Config, list[str]]:
    """The config and the class names of a saved model.

    Raises:
        UserError: a file is missing or malformed.
    """
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise UserError(f"not a complete model: {', '.join(missing)} missing", where=folder)
    cfg = load_config(folder / CONFIG)
    return cfg, read_class_names(str(folder / CLASS_NAMES), cfg.MODEL.NUM_CLASSES)


def read_described(metadata: Mapping[str, str], where: Path) -> tuple[Config, list[str]]:
    """The config and the class names in the metadata of an exported file.

    Args:
        metadata: text by name.
        where: the file.

    Raises:
        UserError: it was not exported by videovit, or its metadata is malformed.
    """
    if missing := [name for name in ("config", "class_names") if name not in metadata]:
        hint = "To predict with it, it must come from `videovit export --format`"
        raise UserError(f"not exported by videovit: no {missing[0]} in its metadata", where=where, hint=hint)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG
        path.write_text(metadata["config"], encoding="utf-8")
        try:
            cfg = load_config(path)
        except UserError as error:
            raise UserError(f"the config in its metadata cannot be used: {error}", where=where) from error
    try:
        names = json.loads(metadata["class_names"])
    except ValueError as error:
        raise UserError(f"the class names in its metadata are not JSON: {error}", where=where) from error
    if not isinstance(names, list) or len(names) != cfg.MODEL.NUM_CLASSES:
        expected = f"a list of {plural(cfg.MODEL.NUM_CLASSES, 'class name')}"
        raise UserError("class names in its metadata", where=where, found=names, expected=expected)
    return cfg, names


def load_saved_weights(folder: Path, model: nn.Module) -> None:
    """Load the weights of a saved model, strictly.

    Raises:
        CheckpointError: damaged, or other names or shapes than those of `model`.
    """
    load_model(model, folder / WEIGHTS)


def describe_input(cfg: Config) -> dict[str, Any]:
    """How frames become the input of the model."""
    spec, data = find_dataset(cfg.TEST.DATASET), cfg.DATA
    preparation = build_preparation(cfg, train=False)
    crop: dict[str, Any]
    if cfg.DETECTOR.NAME:  # images keep their shape
        crop = {"short_side": cfg.COCO.TEST_SHORT_SIDE, "max_long_side": cfg.COCO.MAX_LONG_SIDE}
    elif spec.images:
        crop = {**dataclasses.asdict(build_image_eval_transform(cfg)), "num_crops": 1}
    else:
        crop = dataclasses.asdict(build_eval_transform(cfg, cfg.TEST.NUM_SPATIAL_CROPS))
    return {
        "num_frames": data.NUM_FRAMES,
        "sampling_rate": data.SAMPLING_RATE,
        "target_fps": data.TARGET_FPS,
        **crop,
        "channels": "gray" if preparation.gray else "BGR" if preparation.reverse_channels else "RGB",
        "scale": 1 / 255,
        "mean": list(preparation.mean),
        "std": list(preparation.std),
        "activation": cfg.MODEL.HEAD_ACT,
        "ensemble": data.ENSEMBLE_METHOD,
    }


def model_card(cfg: Config, model: nn.Module, class_names: list[str], title: str) -> str:
    """The text of README.md, in the form of the Hugging Face Hub."""
    spec, name = find_dataset(cfg.TEST.DATASET), cfg.MODEL.MODEL_NAME
    kind = "image" if spec.images else "video"
    if cfg.DETECTOR.NAME:
        name, purpose, use = f"{cfg.DETECTOR.NAME} on {name}", "object-detection", 'model.predict("image.jpg").objects'
    elif cfg.DETECTION.ENABLE:
        purpose, use = "video-classification", 'model.predict_people("video.mp4")'
    else:
        purpose = f"{kind}-classification"
        use = f'model.predict("{"image.jpg" if spec.images else "video.mp4"}").top'
    rows = "\n".join(f"| {key} | {value} |" for key, value in describe_input(cfg).items())
    listed = "\n".join(printable(class_name) for class_name in class_names)
    fence = "~" * 3
    while fence in listed:
        fence += "~"
    return f"""---
library_name: videovit
pipeline_tag: {purpose}
tags:
- {purpose}
- vision-transformer
---

# {printable(title)}

{name} for {kind}s: {plural(count_params(model), "parameter")}, {plural(len(class_names), "class", "classes")}.
This folder was written by videovit.

{fence}python
import videovit

model = videovit.load("path/of/this/folder")  # or "hf://user/name"
{use}
{fence}

## Input

`preprocessing.json` and `config.yaml` describe it; videovit applies it.

| | |
|---|---|
{rows}

## Classes

{fence}
{listed}
{fence}
"""
