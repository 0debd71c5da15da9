"""Detection: DETECTION and AVA."""

from __future__ import annotations

from dataclasses import dataclass

from videovit.config.limits import AtLeastZero, Fraction, Free, Positive


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
