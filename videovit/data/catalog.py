"""The data sets by name (TRAIN.DATASET, TEST.DATASET). A new one is a reader and one row here.

Functions of (config, split) are the adapters of the table: they turn the config into arguments.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videovit.config import Config
from videovit.data.detection import read_ava
from videovit.data.files.class_names import read_class_names
from videovit.data.readers import charades, image_folder, kinetics, ssv2
from videovit.data.records import AnnotationError, Sample
from videovit.data.sampling import ClipPlan, EvenSpans, RandomSpans, Segments, StridedClips
from videovit.errors import UserError

Split = Literal["train", "val", "test"]
Evaluation = Literal["top-k", "multi-label", "detection"]


def build_spans(cfg: Config, split: Split) -> ClipPlan:
    """Clips of a length in seconds: anywhere in training, spread evenly in evaluation."""
    data = cfg.DATA
    if split == "train":
        return RandomSpans(data.NUM_FRAMES, data.SAMPLING_RATE, data.TARGET_FPS, jitter_fps=data.TRAIN_JITTER_FPS)
    return EvenSpans(
        data.NUM_FRAMES,
        data.SAMPLING_RATE,
        data.TARGET_FPS,
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS if split == "test" else 1,
        use_offset=data.USE_OFFSET_SAMPLING or split == "val",
    )


def build_segments(cfg: Config, split: Split) -> ClipPlan:
    """One clip from the whole video; DATA.SAMPLING_RATE and TEST.NUM_ENSEMBLE_VIEWS have no part in it."""
    return Segments(cfg.DATA.NUM_FRAMES, random=split == "train")


def build_strided(cfg: Config, split: Split) -> ClipPlan:
    """Clips of frames exactly DATA.SAMPLING_RATE apart."""
    return StridedClips(
        cfg.DATA.NUM_FRAMES,
        cfg.DATA.SAMPLING_RATE,
        cfg.DATA.TARGET_FPS,
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS if split == "test" else 1,
        random=split == "train",
    )


def read_kinetics(cfg: Config, split: Split) -> list[Sample]:
    """`train.csv`, `val.csv` or `test.csv` of DATA.PATH_TO_DATA_DIR; TEST.SPLIT names another for the test."""
    list_file = Path(cfg.DATA.PATH_TO_DATA_DIR) / f"{_listed(split, cfg.TEST.SPLIT, 'test')}.csv"
    if list_file.stem == "test" and not list_file.exists() and list_file.with_name("val.csv").is_file():
        raise AnnotationError(
            f"list file {str(list_file)!r} does not exist; set TEST.SPLIT val to test on val.csv, or TEST.ENABLE False"
        )
    return kinetics.read(
        list_file,
        num_classes=cfg.MODEL.NUM_CLASSES,
        separator=cfg.DATA.PATH_LABEL_SEPARATOR,
        prefix=cfg.DATA.PATH_PREFIX,
        skip_rows=cfg.DATA.SKIP_ROWS,
    )


def read_images(cfg: Config, split: Split) -> list[Sample]:
    """The folder `train`, `val` or `test` of DATA.PATH_TO_DATA_DIR, with a folder per class."""
    return image_folder.read(
        Path(cfg.DATA.PATH_TO_DATA_DIR) / _listed(split, cfg.TEST.SPLIT, "test"),
        num_classes=cfg.MODEL.NUM_CLASSES,
        separator=cfg.DATA.PATH_LABEL_SEPARATOR,
        prefix=cfg.DATA.PATH_PREFIX,
        skip_rows=cfg.DATA.SKIP_ROWS,
    )


def read_ssv2(cfg: Config, split: Split) -> list[Sample]:
    """Training or validation list; the test is on the validation list too, unless TEST.SPLIT is test."""
    if split == "train" and cfg.DATA.RANDOM_FLIP:
        warnings.warn(
            "DATA.RANDOM_FLIP True: a mirrored video of ssv2 may show another class (left, right)", stacklevel=2
        )
    return ssv2.read(
        cfg.DATA.PATH_TO_DATA_DIR,
        _listed(split, cfg.TEST.SPLIT, "val"),
        num_classes=cfg.MODEL.NUM_CLASSES,
        prefix=cfg.DATA.PATH_PREFIX,
        frames_fps=cfg.DATA.FRAMES_FPS,
    )


def read_charades(cfg: Config, split: Split) -> list[Sample]:
    """Training list, or the one list that validation and test share."""
    return charades.read(
        cfg.DATA.PATH_TO_DATA_DIR,
        "train" if split == "train" else "val",
        num_classes=cfg.MODEL.NUM_CLASSES,
        prefix=cfg.DATA.PATH_PREFIX,
        frames_fps=cfg.DATA.FRAMES_FPS,
    )


def _listed(split: Split, choice: str, usual: Split) -> Split:
    """Which list a split reads: for the test TEST.SPLIT, or the usual one where that is empty."""
    if split != "test":
        return split
    return "val" if (choice or usual) == "val" else "test"


@dataclass(frozen=True)
class DatasetSpec:
    """A data set: where its samples come from, how clips are taken from them, how a model is judged.

    Attributes:
        read: the samples of a split.
        plan: the frames of every clip of a video.
        evaluation: "top-k" for one class a video, "multi-label" for mean average precision over `Sample.actions`,
            "detection" for boxes on key frames (then `plan` is not asked: the clip is the one around the key frame).
        names_files: where class names may be found when DATA.CLASS_NAMES_FILE is empty, in DATA.PATH_TO_DATA_DIR.
        bgr_there: PySlowFast reads it as BGR, so that its files set DATA.REVERSE_INPUT_CHANNEL to get RGB; frames are
            RGB here, so the key says no more than that DATA.MEAN and DATA.STD are in the order of BGR.
        images: still images: decoded and cut by rules of their own, and `plan` is not asked.
    """

    read: Callable[[Config, Split], list[Sample]]
    plan: Callable[[Config, Split], ClipPlan] = build_spans
    evaluation: Evaluation = "top-k"
    names_files: tuple[str, ...] = ()
    bgr_there: bool = False
    images: bool = False


DATASETS: dict[str, DatasetSpec] = {
    "kinetics": DatasetSpec(read_kinetics, names_files=("classes.json",)),
    "imagenet": DatasetSpec(read_images, names_files=("classes.json",), images=True),
    "ssv2": DatasetSpec(read_ssv2, plan=build_segments, names_files=ssv2.LABELS_FILES, bgr_there=True),
    "charades": DatasetSpec(
        read_charades,
        plan=build_strided,
        evaluation="multi-label",
        names_files=charades.NAMES_FILES,
        bgr_there=True,
    ),
    "ava": DatasetSpec(read_ava, evaluation="detection"),
}


def find_dataset(name: str) -> DatasetSpec:
    """The row of a data set, by its name in any case.

    Raises:
        UserError: no such data set; names those there are and the nearest.
    """
    if name.lower() not in DATASETS:
        near = difflib.get_close_matches(name.lower(), DATASETS, n=1)
        hint = f"; nearest: {near[0]!r}" if near else ""
        raise UserError(
            f"TRAIN.DATASET or TEST.DATASET: unknown data set {name!r}; expected one of {sorted(DATASETS)}{hint}"
        )
    return DATASETS[name.lower()]


def build_spec(cfg: Config, split: Split) -> DatasetSpec:
    """The data set of a split: TRAIN.DATASET for training, TEST.DATASET for validation and test.

    Raises:
        UserError: no such data set, or DATA.MULTI_LABEL or DETECTION.ENABLE does not go with it.
    """
    key = "TRAIN.DATASET" if split == "train" else "TEST.DATASET"
    name = cfg.TRAIN.DATASET if split == "train" else cfg.TEST.DATASET
    spec = find_dataset(name)
    has_boxes = spec.evaluation == "detection"
    if has_boxes != cfg.DETECTION.ENABLE:
        raise UserError(
            f"{key}: {name!r} has classes of {'boxes' if has_boxes else 'videos'}, but DETECTION.ENABLE is "
            f"{cfg.DETECTION.ENABLE}; set it to {has_boxes}, or choose another data set of {sorted(DATASETS)}"
        )
    has_several = spec.evaluation == "multi-label"
    if has_several != cfg.DATA.MULTI_LABEL:
        kind = "any number of classes" if has_several else "one class"
        raise UserError(
            f"{key}: a video of {name!r} has {kind}, but DATA.MULTI_LABEL is {cfg.DATA.MULTI_LABEL}; "
            f"set DATA.MULTI_LABEL {not cfg.DATA.MULTI_LABEL} or choose another data set of {sorted(DATASETS)}"
        )
    return spec


def read_names(cfg: Config) -> list[str]:
    """The name of every class of TEST.DATASET: from DATA.CLASS_NAMES_FILE, else from the release, else "class 7".

    Raises:
        AnnotationError: the file is missing, of another form, or has not MODEL.NUM_CLASSES names.
    """
    folder, path = cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.CLASS_NAMES_FILE
    if not path:
        usual = [Path(folder) / name for name in find_dataset(cfg.TEST.DATASET).names_files]
        path = next((str(place) for place in usual if place.is_file()), "")
    return read_class_names(path, cfg.MODEL.NUM_CLASSES, folder)
