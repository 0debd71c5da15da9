"""From a model and a recipe to the config of a run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from videovit.config import Config, dump_config, find_shipped, load_config
from videovit.config.tree import flatten, parse_tree, read_tree
from videovit.engine.checkpoints import hub
from videovit.engine.checkpoints.hf_folder import is_hf, read_hf
from videovit.errors import UserError
from videovit.finetuning.data import cpu_cores
from videovit.finetuning.request import Request
from videovit.messages import did_you_mean
from videovit.models import zoo

MODEL_SECTIONS = ("MODEL.", "MVIT.", "VIT.", "PSVIT.", "SUPERNET.", "PIT.", "PS_VIT.", "HF.")
# What the weights of a model expect of its input, and how it is tested.
INPUT_KEYS = frozenset(
    "DATA." + name
    for name in "NUM_FRAMES SAMPLING_RATE TARGET_FPS MEAN STD INPUT_CHANNEL_NUM TRAIN_JITTER_SCALES TRAIN_CROP_SIZE "
    "TEST_CROP_SIZE TEST_SHORT_SIDE IN_VAL_CROP_RATIO".split()
)
# Sections and keys that the recipe alone decides, whatever config a model comes with.
RECIPE_MODEL_KEYS = frozenset(("MODEL.NUM_CLASSES", "MODEL.LOSS_FUNC", "MODEL.HEAD_ACT", "MODEL.CLASS_WEIGHTS"))


@dataclass(frozen=True)
class Recipe:
    """How a kind of model is trained.

    Attributes:
        config: name of the shipped config; its keys beyond `_BASE_` are the recipe, and fit any model.
        model: the default model, as in --model; empty for none, which trains from scratch.
        least_steps: a short schedule gets more epochs on few videos, up to this number of steps.
    """

    config: str
    model: str
    least_steps: int


FINE_TUNE = {
    False: Recipe("Finetune/MVITv2_S_16x4", "zoo:mvitv2_s_16x4_k400", 200),
    True: Recipe("Finetune/DEIT_S", "zoo:deit_s_in1k", 200),
}
"""By whether the data are images."""
SCRATCH = {False: Recipe("Finetune/SCRATCH", "", 900), True: Recipe("Finetune/SCRATCH_IMAGES", "", 900)}
MOST_EPOCHS = 200


def find_recipe(request: Request, *, images: bool) -> Recipe:
    """The recipe of a request."""
    return (SCRATCH if request.from_scratch else FINE_TUNE)[images]


def recipe_keys(recipe: Recipe) -> dict[str, str]:
    """The keys of a recipe, without those of the model that its file also describes."""
    path = find_shipped(recipe.config)
    assert path is not None
    keys = flatten(read_tree(path))
    del keys["_BASE_"]
    return keys


def model_keys(cfg: Config) -> dict[str, str]:
    """The keys of a config that describe its model and the input of it."""
    keys = flatten(parse_tree(dump_config(cfg)))
    return {
        key: value
        for key, value in keys.items()
        if (key.startswith(MODEL_SECTIONS) and key not in RECIPE_MODEL_KEYS) or key in INPUT_KEYS
    }


def as_opts(keys: Mapping[str, object]) -> list[str]:
    """KEY VALUE KEY VALUE ..., as `load_config` takes them."""
    return [word for key, value in keys.items() for word in (key, str(value))]


def build_run_config(
    request: Request, recipe: Recipe, *, images: bool, multi_label: bool, num_classes: int, validate: bool, gpu: bool
) -> Config:
    """The config of the run, before its batch and its epochs are chosen.

    Args:
        request: the arguments; its KEY VALUE pairs win.
        recipe: of `find_recipe`.
        images: the data are images.
        multi_label: a video may have several classes.
        num_classes: K.
        validate: there are validation videos.
        gpu: train on a GPU.

    Raises:
        UserError: there is no config for the model.
    """
    path, keys = _start(request, recipe)
    cores = cpu_cores()
    workers = max(1, min(8, cores // 2 if gpu else cores // 4))
    data_set = "multilabel" if multi_label else "imagenet" if images else "kinetics"
    keys |= {
        "DATA.PATH_TO_DATA_DIR": request.output_dir / "data",
        "OUTPUT_DIR": request.output_dir,
        "MODEL.NUM_CLASSES": num_classes,
        "TRAIN.DATASET": data_set,
        "TEST.DATASET": data_set,
        "NUM_GPUS": int(gpu),
        "NUM_CPU_THREADS": 0 if gpu else max(1, cores - workers),
        "DATA_LOADER.NUM_WORKERS": workers,
        "DATA_LOADER.PIN_MEMORY": gpu,
        "RNG_SEED": request.seed,
        "TRAIN.MIXED_PRECISION": gpu,
        "TEST.MIXED_PRECISION": gpu,
    }
    if multi_label:
        keys |= {"DATA.MULTI_LABEL": True, "MODEL.LOSS_FUNC": "bce_logit", "MODEL.HEAD_ACT": "sigmoid"}
        keys |= {"MODEL.LABEL_SMOOTHING": 0.0}
    if not validate:
        keys |= {"TRAIN.EVAL_PERIOD": 0, "TRAIN.BEST": "", "TEST.CHECKPOINT": "last"}
    if request.freeze:
        keys["TRAIN.FREEZE"] = request.freeze
    return load_config(path, [*as_opts(keys), *request.opts])


# What a given config may set for other data or other tasks.
RESET: dict[str, object] = {
    "TRAIN.ENABLE": True,
    "TRAIN.EVAL_PERIOD": 1,
    "TRAIN.CHECKPOINT_PERIOD": 1,
    "TRAIN.BEST": "auto",
    "TEST.CHECKPOINT": "best",
    "TRAIN.CHECKPOINT_FILE_PATH": "",
    "TEST.ENABLE": True,
    "TEST.CHECKPOINT_FILE_PATH": "",
    "TEST.SPLIT": "",
    "SHUFFLE_EVAL.ENABLE": False,
    "USE_OF_TIME.ENABLE": False,
    "ROBUSTNESS.ENABLE": False,
    "ANALYSIS.ENABLE": False,
    "SEARCH.ENABLE": False,
    "BENCHMARK.ENABLE": False,
    "DATA.CLASS_NAMES_FILE": "",
    "DATA.PATH_PREFIX": "",
    "DATA.PATH_LABEL_SEPARATOR": " ",
    "DATA.SKIP_ROWS": 0,
    "NUM_SHARDS": 1,
    "NUM_CPU_PROCS": 1,
}


def _start(request: Request, recipe: Recipe) -> tuple[str | Path | None, dict[str, object]]:
    """The file that the config begins with, and the keys of model and recipe that come before those of the run."""
    if request.from_scratch:
        # The config says how its model is trained.
        return (request.cfg, dict(RESET)) if request.cfg else (find_shipped(recipe.config), {})
    base, weights = find_model(request.model or recipe.model, request.cfg)
    return None, {**model_keys(base), **recipe_keys(recipe), "TRAIN.CHECKPOINT_FILE_PATH": weights}


def find_model(model: str, cfg: str) -> tuple[Config, str]:
    """The config of a model, and where its weights are.

    Args:
        model: zoo:NAME, the OUTPUT_DIR of a run, a weight file, or a saved model: a folder of this project or of
            transformers, or hf://user/name.
        cfg: config of a weight file, or of a zoo model in another form; empty for that of the model.

    Raises:
        UserError: the config of a weight file is not known.
    """
    if model in zoo.ZOO and not os.path.lexists(model):
        model = f"{zoo.PREFIX}{model}"
    if model.startswith(zoo.PREFIX):
        entry = zoo.find(model)
        return load_config(cfg or entry.config, entry.overrides if not cfg else ()), model
    if cfg:
        return load_config(cfg), model
    place = hub.download(model) if model.startswith(hub.PREFIX) else Path(model)
    if is_hf(place):
        return read_hf(place)[0], model
    beside = [folder / "config.yaml" for folder in (place, *place.parents[:2])]
    found = next((file for file in beside if file.is_file()), None)
    if found is None:
        missing = (
            "no such file or folder" if not os.path.lexists(model) and "://" not in model else "its config is not known"
        )
        near = did_you_mean(model, zoo.ZOO)
        raise UserError(
            f"--model {model}: {missing}",
            expected="zoo:NAME (see videovit zoo), hf://user/name, the OUTPUT_DIR of a run, the folder of a saved "
            "model, or a weight file with --cfg CONFIG",
            near=f"{zoo.PREFIX}{near}" if near else "",
        )
    return load_config(found), model


def scratch_command(request: Request) -> str:
    """The command that trains the small model instead."""
    words = ["videovit", "finetune", *([request.data] if request.data else ["--table", request.table])]
    for flag, value, usual in (
        ("--path-column", request.path_column, "video"),
        ("--label-column", request.label_column, "label"),
        ("--split-column", request.split_column, ""),
        ("--output", request.output, ""),
    ):
        words += [flag, value] if value != usual else []
    words += ["--multi-label"] if request.multi_label else []
    return shlex.join([*words, "--from-scratch"])
