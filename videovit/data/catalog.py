"""The table of data sets, by name (TRAIN.DATASET, TEST.DATASET). A new data set is a reader and one row here.

The functions of (config, split) adapt the readers to the table: they turn the config into arguments.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from videovit.config import Config
from videovit.config.urls import is_remote
from videovit.data.coco import read_coco, read_coco_names
from videovit.data.detection import read_ava
from videovit.data.files.class_names import read_class_names
from videovit.data.readers import charades, image_folder, kinetics, ssv2
from videovit.data.records import AnnotationError, Sample
from videovit.data.remote import local_file
from videovit.data.sample_list import SampleList
from videovit.data.sampling import ClipPlan, EvenSpans, RandomSpans, Segments, StridedClips
from videovit.data.stores import AbsentError, RemoteError
from videovit.errors import UserError
from videovit.messages import did_you_mean

Split = Literal["train", "val", "test"]
Evaluation = Literal["top-k", "multi-label", "detection", "objects", "reconstruction"]
Items = Literal["clips", "key frames", "images", "images with objects"]


def build_spans(cfg: Config, split: Split) -> ClipPlan:
    """Clips of fixed duration: at random positions in training, evenly spread in evaluation."""
    data = cfg.DATA
    if split == "train":
        return RandomSpans(
            data.NUM_FRAMES,
            data.SAMPLING_RATE,
            data.TARGET_FPS,
            num_clips=data.TRAIN_CROP_NUM_TEMPORAL,
            jitter_fps=data.TRAIN_JITTER_FPS,
        )
    return EvenSpans(
        data.NUM_FRAMES,
        data.SAMPLING_RATE,
        data.TARGET_FPS,
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS if split == "test" else 1,
        # Validation takes one clip, which USE_OFFSET_SAMPLING False would put at the beginning of the video.
        use_offset=data.USE_OFFSET_SAMPLING or split == "val",
    )


def build_segments(cfg: Config, split: Split) -> ClipPlan:
    """One clip of the whole video, independent of DATA.SAMPLING_RATE and TEST.NUM_ENSEMBLE_VIEWS."""
    # Segments cover the whole video, so other clips would be the same.
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


def read_kinetics(cfg: Config, split: Split) -> Sequence[Sample]:
    """Read `train.csv`, `val.csv` or `test.csv` in DATA.PATH_TO_DATA_DIR; TEST.SPLIT chooses the list of the test.

    Raises:
        UserError: with several classes per video, DATA.PATH_LABEL_SEPARATOR is the semicolon between them.
    """
    if cfg.DATA.MULTI_LABEL and cfg.DATA.PATH_LABEL_SEPARATOR == ";":
        what = "; separates the classes of a video, so it cannot separate them from its path"
        raise UserError(what, where="DATA.PATH_LABEL_SEPARATOR", expected="another separator, such as a blank")
    name = f"{_listed(split, cfg.TEST.SPLIT, 'test')}.csv"
    list_file = local_file(cfg.DATA.PATH_TO_DATA_DIR, name, 1e9 * cfg.DATA.REMOTE_CACHE_GB)
    # Labels of test sets are often not published, so the validation list is the likely intention.
    if list_file.stem == "test" and not list_file.exists() and list_file.with_name("val.csv").is_file():
        raise AnnotationError(
            f"list file {str(list_file)!r} does not exist",
            hint="Set TEST.SPLIT val to test on val.csv, or TEST.ENABLE False",
        )
    return kinetics.read(
        list_file,
        num_classes=cfg.MODEL.NUM_CLASSES,
        separator=cfg.DATA.PATH_LABEL_SEPARATOR,
        prefix=cfg.DATA.PATH_PREFIX,
        skip_rows=cfg.DATA.SKIP_ROWS,
        several=cfg.DATA.MULTI_LABEL,
        labeled=not cfg.MASK.ENABLE,
    )


def read_images(cfg: Config, split: Split) -> Sequence[Sample]:
    """Read the folder `train`, `val` or `test` of DATA.PATH_TO_DATA_DIR, which holds one folder per class."""
    samples = image_folder.read(
        Path(cfg.DATA.PATH_TO_DATA_DIR) / _listed(split, cfg.TEST.SPLIT, "test"),
        num_classes=cfg.MODEL.NUM_CLASSES,
        separator=cfg.DATA.PATH_LABEL_SEPARATOR,
        prefix=cfg.DATA.PATH_PREFIX,
        skip_rows=cfg.DATA.SKIP_ROWS,
        labeled=not cfg.MASK.ENABLE,
    )
    return SampleList.of(samples)


def read_ssv2(cfg: Config, split: Split) -> Sequence[Sample]:
    """Read the training or validation list; the test uses the validation list too, unless TEST.SPLIT is test."""
    if split == "train" and cfg.DATA.RANDOM_FLIP:
        warnings.warn(
            "DATA.RANDOM_FLIP True: a mirrored video of ssv2 may be of another class (left, right)", stacklevel=2
        )
    samples = ssv2.read(
        cfg.DATA.PATH_TO_DATA_DIR,
        _listed(split, cfg.TEST.SPLIT, "val"),
        num_classes=cfg.MODEL.NUM_CLASSES,
        prefix=cfg.DATA.PATH_PREFIX,
        frames_fps=cfg.DATA.FRAMES_FPS,
    )
    return SampleList.of(samples)


def read_charades(cfg: Config, split: Split) -> Sequence[Sample]:
    """Read the training list, or the list that validation and test share."""
    samples = charades.read(
        cfg.DATA.PATH_TO_DATA_DIR,
        # Results on Charades are reported on the validation list.
        "train" if split == "train" else "val",
        num_classes=cfg.MODEL.NUM_CLASSES,
        prefix=cfg.DATA.PATH_PREFIX,
        frames_fps=cfg.DATA.FRAMES_FPS,
    )
    return SampleList.of(samples)


def _listed(split: Split, choice: str, default: Split) -> Split:
    """The list that a split reads: the test reads TEST.SPLIT, or `default` if that is empty."""
    if split != "test":
        return split
    # TEST.SPLIT only has these values.
    return "val" if (choice or default) == "val" else "test"


@dataclass(frozen=True)
class DatasetSpec:
    """A data set: where its samples come from, how clips are sampled, and how a model is evaluated on it.

    Attributes:
        read: reads the samples of a split.
        plan: builds the plan that chooses the frames of every clip; not used for images and key frames.
        evaluation: "top-k" for one class per video, "multi-label" for mean average precision over `Sample.actions`,
            "detection" for boxes on key frames, "objects" for objects that a model finds in images, "reconstruction"
            for what is hidden in masked pre-training, which reads no labels.
        names_files: files of class names in DATA.PATH_TO_DATA_DIR, tried in order if DATA.CLASS_NAMES_FILE is empty.
        names: reads the class names from the annotations; None if they are in `names_files`.
        bgr_in_pyslowfast: PySlowFast decodes this data set as BGR, so its configs set DATA.REVERSE_INPUT_CHANNEL to
            get RGB. Frames are always RGB here, so the key only says in which order DATA.MEAN and DATA.STD are given.
        items: what is cut out of the samples; images and key frames have their own crops.
        lists_may_be_remote: whether `read` takes a URL as DATA.PATH_TO_DATA_DIR.
        decoder: the only decoder that suits the data set; empty for any (DATA.DECODING_BACKEND).
    """

    read: Callable[[Config, Split], Sequence[Sample]]
    plan: Callable[[Config, Split], ClipPlan] = build_spans
    evaluation: Evaluation = "top-k"
    names_files: tuple[str, ...] = ()
    names: Callable[[Config], list[str]] | None = None
    bgr_in_pyslowfast: bool = False
    items: Items = "clips"
    lists_may_be_remote: bool = False
    decoder: str = ""

    @property
    def images(self) -> bool:
        """Whether samples are still images."""
        return self.items in ("images", "images with objects")

    @property
    def noun(self) -> str:
        """What a sample is, in the singular, for people."""
        return {"clips": "video", "key frames": "key frame"}.get(self.items, "image")

    @property
    def multi_label(self) -> bool:
        """Whether a video has any number of classes."""
        return self.evaluation == "multi-label"

    @property
    def has_boxes(self) -> bool:
        """Whether samples are key frames with boxes that are classified."""
        return self.evaluation == "detection"

    def read_names(self, cfg: Config) -> list[str]:
        """The name of every class: from DATA.CLASS_NAMES_FILE, else from the release, else "class 7".

        Raises:
            AnnotationError: the file is missing, malformed, or does not have MODEL.NUM_CLASSES names.
        """
        folder, path = cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.CLASS_NAMES_FILE
        if not path and self.names is not None:
            return self.names(cfg)
        if is_remote(folder):
            path = _remote_names_file(folder, path, self.names_files, 1e9 * cfg.DATA.REMOTE_CACHE_GB)
            folder = ""
        elif not path:
            # Releases name their files of class names differently.
            released = [Path(folder) / name for name in self.names_files]
            path = next((str(file) for file in released if file.is_file()), "")
        return read_class_names(path, cfg.MODEL.NUM_CLASSES, folder)


def _remote_names_file(folder: str, path: str, names: Sequence[str], limit_bytes: float) -> str:
    """A file of class names in a remote folder, in the cache; empty if there is none.

    Args:
        folder: its URL.
        path: of the file, relative to the folder; one that exists here is returned as it is. Empty for any in `names`.
        names: of files to look for.
        limit_bytes: size of the cache.
    """
    if path:
        if Path(path).is_absolute() or Path(path).exists():
            return path
        try:
            return str(local_file(folder, path, limit_bytes))
        except RemoteError as error:
            raise UserError(str(error), where="DATA.CLASS_NAMES_FILE") from None
    for name in names:
        with contextlib.suppress(AbsentError):
            return str(local_file(folder, name, limit_bytes))
    return ""


DATASETS: dict[str, DatasetSpec] = {
    "kinetics": DatasetSpec(read_kinetics, names_files=("classes.json",), lists_may_be_remote=True),
    "imagenet": DatasetSpec(read_images, names_files=("classes.json",), items="images", decoder="image"),
    "multilabel": DatasetSpec(
        read_kinetics, evaluation="multi-label", names_files=("classes.json",), lists_may_be_remote=True
    ),
    "ssv2": DatasetSpec(read_ssv2, plan=build_segments, names_files=ssv2.LABELS_FILES, bgr_in_pyslowfast=True),
    "charades": DatasetSpec(
        read_charades,
        plan=build_strided,
        evaluation="multi-label",
        names_files=charades.NAMES_FILES,
        bgr_in_pyslowfast=True,
        decoder="pyav",  # actions have times, and only PyAV reports where the frame rate varies
    ),
    # Key frames have times, too, and decord would read a whole movie ahead.
    "ava": DatasetSpec(read_ava, evaluation="detection", items="key frames", decoder="pyav"),
    "coco": DatasetSpec(
        read_coco,
        evaluation="objects",
        names=read_coco_names,
        items="images with objects",
        decoder="image",
    ),
}


def find_dataset(name: str, key: str = "TEST.DATASET") -> DatasetSpec:
    """The row of a data set, by its name in any case.

    Args:
        name: the name.
        key: config key that gave the name, for the message.

    Raises:
        UserError: there is no such data set.
    """
    # PySlowFast's configs write the names in different cases.
    if name.lower() not in DATASETS:
        raise UserError(
            f"unknown data set {name!r}",
            where=key,
            expected=f"one of {', '.join(sorted(DATASETS))}",
            near=did_you_mean(name, DATASETS),
        )
    return DATASETS[name.lower()]


def build_spec(cfg: Config, split: Split) -> DatasetSpec:
    """The data set of a split: TRAIN.DATASET for training, TEST.DATASET for validation and test.

    Raises:
        UserError: there is no such data set, or DATA.MULTI_LABEL or DETECTION.ENABLE does not match it.
    """
    key = "TRAIN.DATASET" if split == "train" else "TEST.DATASET"
    name = cfg.TRAIN.DATASET if split == "train" else cfg.TEST.DATASET
    spec = find_dataset(name, key)
    others = f"or choose another data set ({', '.join(sorted(DATASETS))})"
    # These keys also choose head and evaluation, so a mismatch would only fail later.
    if spec.has_boxes != cfg.DETECTION.ENABLE:
        raise UserError(
            f"{name!r} labels {'boxes' if spec.has_boxes else 'whole videos'}, but DETECTION.ENABLE is "
            f"{cfg.DETECTION.ENABLE}",
            where=key,
            hint=f"Set DETECTION.ENABLE {spec.has_boxes}, {others}",
        )
    if spec.multi_label != cfg.DATA.MULTI_LABEL:
        raise UserError(
            f"videos of {name!r} have {'any number of classes' if spec.multi_label else 'one class'}, "
            f"but DATA.MULTI_LABEL is {cfg.DATA.MULTI_LABEL}",
            where=key,
            hint=f"Set DATA.MULTI_LABEL {spec.multi_label}, {others}",
        )
    if is_remote(cfg.DATA.PATH_TO_DATA_DIR) and not spec.lists_may_be_remote:
        remote = " and ".join(name for name, row in DATASETS.items() if row.lists_may_be_remote)
        raise UserError(
            f"a URL, but the lists of {name!r} are read from a local folder; only those of {remote} may be remote",
            where="DATA.PATH_TO_DATA_DIR",
            hint="Download the lists; the videos may stay where they are (DATA.PATH_PREFIX)",
        )
    return replace(spec, evaluation="reconstruction") if cfg.MASK.ENABLE else spec


def read_names(cfg: Config) -> list[str]:
    """The name of every class of TEST.DATASET, see `DatasetSpec.read_names`; none in masked pre-training."""
    if cfg.MASK.ENABLE:
        return []
    return find_dataset(cfg.TEST.DATASET).read_names(cfg)
