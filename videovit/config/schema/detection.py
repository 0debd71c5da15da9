"""Detection: DETECTION, AVA and COCO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from videovit.config.limits import AboveZero, AtLeastZero, Fraction, Free, Natural, Positive

ObjectAugmentation = Literal["multiscale", "detr", "lsj"]


@dataclass(frozen=True)
class Detection:
    """DETECTION: classify boxes instead of whole clips."""

    ENABLE: bool = False
    ALIGNED: bool = True
    ROI_XFORM_RESOLUTION: Positive = 7  # bins per side of a box


@dataclass(frozen=True)
class Ava:
    """AVA: the files of AVA, or of other data in its format. Videos are movies (MOVIE_DIR) or images (FRAME_DIR)."""

    MOVIE_DIR: Free[str] = ""  # ours; holds <video_id>.<suffix> per video; replaces the two below
    FRAME_DIR: Free[str] = ""
    FRAME_LIST_DIR: Free[str] = ""  # empty: FRAME_DIR has one folder per video
    START_S: AtLeastZero | None = None  # seconds; ours; a video's first frame; None: 0 for movies, 900 for images
    KEY_FRAMES_S: tuple[AtLeastZero, AtLeastZero] = (902.0, 1798.0)  # seconds; ours; first and last
    ANNOTATION_DIR: Free[str] = ""
    TRAIN_LISTS: tuple[str, ...] = ("train.csv",)
    TEST_LISTS: Free[tuple[str, ...]] = ("val.csv",)
    TRAIN_GT_BOX_LISTS: tuple[str, ...] = ("ava_train_v2.2.csv",)
    TRAIN_PREDICT_BOX_LISTS: tuple[str, ...] = ()
    TEST_PREDICT_BOX_LISTS: Free[tuple[str, ...]] = ("ava_val_predicted_boxes.csv",)
    DETECTION_SCORE_THRESH: Fraction = 0.9  # proposals below it are left out
    BGR: bool = False
    FULL_TEST_ON_VAL: Free[bool] = False  # validate on all key frames, not only every fourth second
    LABEL_MAP_FILE: Free[str] = "ava_action_list_v2.2_for_activitynet_2019.pbtxt"  # the classes that are scored
    EXCLUSION_FILE: Free[str] = "ava_val_excluded_timestamps_v2.2.csv"
    GROUNDTRUTH_FILE: Free[str] = "ava_val_v2.2.csv"
    SKIP_BAD_ROWS: bool = False  # ours; skip lines that cannot be used, with a warning


@dataclass(frozen=True)
class Coco:
    """COCO (ours): images with objects, in COCO's form. Files are relative to DATA.PATH_TO_DATA_DIR."""

    TRAIN_IMAGES: Free[str] = "train2017"
    VAL_IMAGES: Free[str] = "val2017"
    TRAIN_ANNOTATIONS: Free[str] = "annotations/instances_train2017.json"
    VAL_ANNOTATIONS: Free[str] = "annotations/instances_val2017.json"
    MASKS: bool = True  # learn and evaluate masks too
    SKIP_EMPTY: bool = True  # do not train on images without objects
    GROUP_BY_ASPECT: bool = True  # wide images in one batch, tall ones in another
    AUGMENTATION: ObjectAugmentation = "multiscale"
    TRAIN_SHORT_SIDES: tuple[Positive, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)  # pixels
    MAX_LONG_SIDE: Positive = 1333  # pixels; also in evaluation
    TEST_SHORT_SIDE: Free[Positive] = 800  # pixels
    CROP_SHORT_SIDES: tuple[Positive, ...] = (400, 500, 600)  # pixels; detr: short sides of images that are cropped
    CROP_SIZES: tuple[Positive, Positive] = (384, 600)  # pixels; detr: smallest and largest side of the crop
    LSJ_SIZE: Positive = 1024  # pixels; lsj: side of all images
    LSJ_SCALES: tuple[AboveZero, AboveZero] = (0.1, 2.0)  # lsj: smallest and largest, 1 fits the image into LSJ_SIZE
    NUM_PICTURES: Free[Natural] = 8  # images of the test that are drawn, half of them the best, half the worst
