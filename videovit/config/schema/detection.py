"""What can be configured about detection; names and defaults are SlowFast's, *ours* have no counterpart there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..limits import AtLeastZero, Fraction, Free, Positive, Size


@dataclass(frozen=True)
class Detection:
    """DETECTION: classes of boxes in place of classes of clips."""

    ENABLE: bool = False
    ALIGNED: bool = True
    ROI_XFORM_RESOLUTION: Positive = 7  # bins of a box on either side


@dataclass(frozen=True)
class Ava:
    """AVA: files of AVA and of data in its form. Videos are movies (MOVIE_DIR) or images (FRAME_DIR)."""

    MOVIE_DIR: Free[str] = ""  # ours; a movie <video_id>.<suffix> for each video; replaces the two below
    FRAME_DIR: Free[str] = ""
    FRAME_LIST_DIR: Free[str] = ""  # empty: FRAME_DIR has a folder for each video
    START_S: AtLeastZero | None = None  # ours; time stamp of a video's first frame; None: 0 of movies, 900 of images
    KEY_FRAMES_S: Annotated[tuple[AtLeastZero, ...], Size((2,))] = (902.0, 1798.0)  # ours; first and last time stamp
    ANNOTATION_DIR: Free[str] = ""
    TRAIN_LISTS: tuple[str, ...] = ("train.csv",)
    TEST_LISTS: Free[tuple[str, ...]] = ("val.csv",)
    TRAIN_GT_BOX_LISTS: tuple[str, ...] = ("ava_train_v2.2.csv",)
    TRAIN_PREDICT_BOX_LISTS: tuple[str, ...] = ()
    TEST_PREDICT_BOX_LISTS: Free[tuple[str, ...]] = ("ava_val_predicted_boxes.csv",)
    DETECTION_SCORE_THRESH: Fraction = 0.9  # proposals below it are left out
    BGR: bool = False
    FULL_TEST_ON_VAL: Free[bool] = False  # validation on all key frames, not only on every fourth second
    LABEL_MAP_FILE: Free[str] = "ava_action_list_v2.2_for_activitynet_2019.pbtxt"  # the classes that are scored
    EXCLUSION_FILE: Free[str] = "ava_val_excluded_timestamps_v2.2.csv"
    GROUNDTRUTH_FILE: Free[str] = "ava_val_v2.2.csv"
    SKIP_BAD_ROWS: bool = False  # ours; leave lines that cannot be used out, with a warning
