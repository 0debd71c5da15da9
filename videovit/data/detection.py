"""AVA and data in its form: from the sections AVA and DATA of a config to key frames, and to their ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from videovit.config import Config
from videovit.data.readers.ava import BoxRow, BoxRules, Key, key_frames, read_boxes, read_excluded
from videovit.data.readers.ava_videos import find_frame_folders, find_movies, read_frame_lists
from videovit.data.readers.label_map import read_label_map
from videovit.data.records import AnnotationError, Sample
from videovit.data.sampling import AroundKeyFrame

IMAGES_START_S = 900.0  # images of AVA are cut from its movies from this second on
EVERY_S = 4  # validation judges the key frames of every fourth second only, unless AVA.FULL_TEST_ON_VAL


def read_ava(cfg: Config, split: str) -> list[Sample]:
    """The key frames of a split that have a box.

    Training takes annotated boxes and proposals (AVA.TRAIN_GT_BOX_LISTS, AVA.TRAIN_PREDICT_BOX_LISTS), evaluation
    proposals (AVA.TEST_PREDICT_BOX_LISTS); proposals from AVA.DETECTION_SCORE_THRESH on.

    Raises:
        AnnotationError: a file is missing or has lines that cannot be used, or no box is left.
    """
    ava, training = cfg.AVA, split == "train"
    videos = read_videos(cfg, split)
    annotated = ava.TRAIN_GT_BOX_LISTS if training else ()
    proposed = ava.TRAIN_PREDICT_BOX_LISTS if training else ava.TEST_PREDICT_BOX_LISTS
    rows: list[BoxRow] = []
    for name in annotated:
        rows += read_rows(cfg, name, videos, scored=False)
    for name in proposed:
        rows += read_rows(cfg, name, videos, scored=True)
    samples = key_frames([row for row in rows if _is_judged(split, row.key, full=ava.FULL_TEST_ON_VAL)], videos)
    if not samples:
        listed = ", ".join((*annotated, *proposed)) or "no file"
        raise AnnotationError(
            f"no boxes for {split}: {listed} in {ava.ANNOTATION_DIR!r} (AVA.ANNOTATION_DIR) give none"
            + (f" from the score {ava.DETECTION_SCORE_THRESH:g} (AVA.DETECTION_SCORE_THRESH) on" if proposed else "")
        )
    return samples


def read_videos(cfg: Config, split: str) -> dict[str, Sample]:
    """The videos that a split may name: movie files or folders of images."""
    ava = cfg.AVA
    if ava.MOVIE_DIR:
        return find_movies(ava.MOVIE_DIR)
    if ava.FRAME_LIST_DIR:
        names = ava.TRAIN_LISTS if split == "train" else ava.TEST_LISTS
        lists = [Path(ava.FRAME_LIST_DIR) / name for name in names]
        return read_frame_lists(lists, fps=cfg.DATA.FRAMES_FPS, frame_dir=ava.FRAME_DIR)
    return find_frame_folders(ava.FRAME_DIR)


def build_key_plan(cfg: Config) -> AroundKeyFrame:
    """One clip around each key frame, in training as well."""
    data, start_s = cfg.DATA, cfg.AVA.START_S
    if start_s is None:
        start_s = 0.0 if cfg.AVA.MOVIE_DIR else IMAGES_START_S
    return AroundKeyFrame(data.NUM_FRAMES, data.SAMPLING_RATE, data.TARGET_FPS, start_s)


@dataclass(frozen=True)
class AvaTruth:
    """What detections are judged by: annotated boxes, class id -> name of the judged classes, excluded key frames."""

    rows: tuple[BoxRow, ...]
    class_names: Mapping[int, str]
    excluded: frozenset[Key]


def read_truth(cfg: Config, split: str) -> AvaTruth:
    """The ground truth of an evaluation.

    Raises:
        AnnotationError: a file is missing or has lines that cannot be used, or no box is judged.
    """
    ava, folder = cfg.AVA, Path(cfg.AVA.ANNOTATION_DIR)
    rows = read_rows(cfg, ava.GROUNDTRUTH_FILE, read_videos(cfg, split), scored=False)
    names = read_label_map(folder / ava.LABEL_MAP_FILE, cfg.MODEL.NUM_CLASSES)
    excluded = read_excluded(folder / ava.EXCLUSION_FILE) if ava.EXCLUSION_FILE else frozenset()
    kept = tuple(row for row in rows if _is_judged(split, row.key, full=ava.FULL_TEST_ON_VAL))
    if not any(row.class_id in names and row.key not in excluded for row in kept):
        rare = "; validation looks at every fourth second only, unless AVA.FULL_TEST_ON_VAL True"
        raise AnnotationError(
            f"{folder / ava.GROUNDTRUTH_FILE} (AVA.GROUNDTRUTH_FILE): no box that is judged, of the "
            f"{len(names)} classes of {folder / ava.LABEL_MAP_FILE} (AVA.LABEL_MAP_FILE) on a key frame that is not "
            f"excluded{rare if split == 'val' and not ava.FULL_TEST_ON_VAL else ''}"
        )
    return AvaTruth(kept, names, excluded)


def read_rows(cfg: Config, name: str, videos: Mapping[str, Sample], *, scored: bool) -> list[BoxRow]:
    rules = BoxRules(
        num_classes=cfg.MODEL.NUM_CLASSES,
        window_s=(cfg.AVA.KEY_FRAMES_S[0], cfg.AVA.KEY_FRAMES_S[1]),
        videos=videos.keys(),
        min_score=cfg.AVA.DETECTION_SCORE_THRESH if scored else 0.0,
    )
    path = Path(cfg.AVA.ANNOTATION_DIR) / name
    return read_boxes(path, rules, scored=scored, skip_bad=cfg.AVA.SKIP_BAD_ROWS)


def _is_judged(split: str, key: Key, *, full: bool) -> bool:
    return split != "val" or full or key[1] % EVERY_S == 0
