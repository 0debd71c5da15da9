"""AVA and data in its format: from the config (sections AVA and DATA) to key frames and their ground truth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videovit.config import Config
from videovit.data.columns import Array, Columns
from videovit.data.files.annotation_files import read_content
from videovit.data.list_cache import cached_columns
from videovit.data.readers.ava import BoxRow, BoxRules, Key, check_exists, key_frames, read_boxes, read_excluded
from videovit.data.readers.ava_videos import find_frame_folders, find_movies, read_frame_lists
from videovit.data.readers.label_map import read_label_map
from videovit.data.records import AnnotationError, Sample
from videovit.data.sample_list import SampleList, sample_columns
from videovit.data.sampling import AroundKeyFrame
from videovit.messages import Plain, plural

IMAGES_START_S = 900.0  # AVA's images are extracted from its movies from this second on
VALIDATION_INTERVAL_S = 4  # validation uses the key frames of every fourth second, unless AVA.FULL_TEST_ON_VAL


def read_ava(cfg: Config, split: str) -> SampleList:
    """Read the key frames of a split that have at least one box.

    Training uses annotated boxes and proposals (AVA.TRAIN_GT_BOX_LISTS, AVA.TRAIN_PREDICT_BOX_LISTS), evaluation uses
    proposals (AVA.TEST_PREDICT_BOX_LISTS). Proposals scored below AVA.DETECTION_SCORE_THRESH are dropped.

    Raises:
        AnnotationError: a file is missing or has invalid lines, or no box is left.
    """
    ava, training = cfg.AVA, split == "train"
    videos = read_videos(cfg, split)
    annotated = ava.TRAIN_GT_BOX_LISTS if training else ()
    proposed = ava.TRAIN_PREDICT_BOX_LISTS if training else ava.TEST_PREDICT_BOX_LISTS
    files = [Path(ava.ANNOTATION_DIR) / name for name in (*annotated, *proposed)]
    for file in files:
        check_exists(file)
    if not files:
        return SampleList.of(read_key_frames(cfg, split, videos, annotated, proposed))
    # Everything else that the key frames depend on.
    sources = repr([(name, len(annotated)) for name in (*annotated, *proposed)] + sorted(videos.items()))
    rules = cfg.MODEL.NUM_CLASSES, ava.KEY_FRAMES_S, ava.DETECTION_SCORE_THRESH, ava.FULL_TEST_ON_VAL, split
    recipe = f"{rules!r} {hashlib.blake2b(sources.encode('utf-8', 'surrogateescape'), digest_size=16).hexdigest()}"
    paths = {video.path for video in videos.values()}

    def parse() -> tuple[dict[str, Array], bool]:
        samples = read_key_frames(cfg, split, videos, annotated, proposed)
        # Lines that are skipped are warned about in every run.
        return sample_columns(samples), not ava.SKIP_BAD_ROWS

    def accept(columns: Columns) -> bool:
        classes, samples = columns["box_classes"], SampleList(columns)
        known = all(path in paths for path in samples.paths())
        return known and not (len(classes) and not 1 <= classes.min() <= classes.max() <= cfg.MODEL.NUM_CLASSES)

    place = files[0].with_name(f"{files[0].name}.{split}")
    return SampleList(cached_columns(place, b"".join(map(read_content, files)), recipe, parse, accept))


def read_key_frames(
    cfg: Config, split: str, videos: Mapping[str, Sample], annotated: Sequence[str], proposed: Sequence[str]
) -> list[Sample]:
    """Parse the box files of a split, line by line; see `read_ava`.

    Args:
        cfg: the config.
        split: the split.
        videos: the videos that the files may name, by name.
        annotated: files of ground truth.
        proposed: files of proposals.
    """
    ava = cfg.AVA
    rows: list[BoxRow] = []
    for name in annotated:
        rows += read_rows(cfg, name, videos, scored=False)
    for name in proposed:
        rows += read_rows(cfg, name, videos, scored=True)
    samples = key_frames([row for row in rows if _is_evaluated(split, row.key, full=ava.FULL_TEST_ON_VAL)], videos)
    if not samples:
        listed = ", ".join((*annotated, *proposed)) or "no file"
        score = f" with a score of at least {ava.DETECTION_SCORE_THRESH:g} (AVA.DETECTION_SCORE_THRESH)"
        raise AnnotationError(
            f"no boxes for {split} in {listed}{score if proposed else ''}",
            where=f"AVA.ANNOTATION_DIR {ava.ANNOTATION_DIR!r}",
        )
    return samples


def read_videos(cfg: Config, split: str) -> dict[str, Sample]:
    """The videos that the annotations of a split may name: movie files or folders of images.

    Raises:
        AnnotationError: the config names neither, or they cannot be read.
    """
    ava = cfg.AVA
    if ava.MOVIE_DIR:
        return find_movies(ava.MOVIE_DIR)
    # Frame lists also give the number of images, which detects missing ones.
    if ava.FRAME_LIST_DIR:
        names = ava.TRAIN_LISTS if split == "train" else ava.TEST_LISTS
        lists = [Path(ava.FRAME_LIST_DIR) / name for name in names]
        return read_frame_lists(lists, fps=cfg.DATA.FRAMES_FPS, frame_dir=ava.FRAME_DIR)
    if not ava.FRAME_DIR:
        raise AnnotationError(
            where="AVA.FRAME_DIR",
            found=Plain("nothing"),
            expected="a folder that holds a folder of images per video; or set AVA.MOVIE_DIR, a folder of video files",
        )
    return find_frame_folders(ava.FRAME_DIR)


def build_key_plan(cfg: Config) -> AroundKeyFrame:
    """The plan of one clip around each key frame, for training and evaluation."""
    data, start_s = cfg.DATA, cfg.AVA.START_S
    if start_s is None:
        # Time stamps count from the start of the movie, also for images.
        start_s = 0.0 if cfg.AVA.MOVIE_DIR else IMAGES_START_S
    return AroundKeyFrame(data.NUM_FRAMES, data.SAMPLING_RATE, data.TARGET_FPS, start_s)


@dataclass(frozen=True)
class AvaTruth:
    """The ground truth of detections.

    Attributes:
        rows: annotated boxes.
        class_names: class id -> name of the evaluated classes.
        excluded: key frames that are not evaluated.
    """

    rows: tuple[BoxRow, ...]
    class_names: Mapping[int, str]
    excluded: frozenset[Key]


def read_truth(cfg: Config, split: str) -> AvaTruth:
    """Read the ground truth of a split.

    Raises:
        AnnotationError: a file is missing or has invalid lines, or no box would be evaluated.
    """
    ava, folder = cfg.AVA, Path(cfg.AVA.ANNOTATION_DIR)
    rows = read_rows(cfg, ava.GROUNDTRUTH_FILE, read_videos(cfg, split), scored=False)
    names = read_label_map(folder / ava.LABEL_MAP_FILE, cfg.MODEL.NUM_CLASSES)
    excluded = read_excluded(folder / ava.EXCLUSION_FILE) if ava.EXCLUSION_FILE else frozenset()
    kept = tuple(row for row in rows if _is_evaluated(split, row.key, full=ava.FULL_TEST_ON_VAL))
    # Otherwise mAP would be the mean of nothing.
    if not any(row.class_id in names and row.key not in excluded for row in kept):
        count = plural(len(names), "class", "classes")
        sparse = split == "val" and not ava.FULL_TEST_ON_VAL
        raise AnnotationError(
            f"no box to evaluate, of the {count} in {folder / ava.LABEL_MAP_FILE} (AVA.LABEL_MAP_FILE) on "
            "a key frame that is not excluded",
            where=f"{folder / ava.GROUNDTRUTH_FILE} (AVA.GROUNDTRUTH_FILE)",
            hint="Validation uses every fourth second only; AVA.FULL_TEST_ON_VAL True uses all" if sparse else "",
        )
    return AvaTruth(kept, names, excluded)


def read_rows(cfg: Config, name: str, videos: Mapping[str, Sample], *, scored: bool) -> list[BoxRow]:
    """Read the box file `name` of AVA.ANNOTATION_DIR; see `readers.ava.read_boxes`."""
    rules = BoxRules(
        num_classes=cfg.MODEL.NUM_CLASSES,
        window_s=(cfg.AVA.KEY_FRAMES_S[0], cfg.AVA.KEY_FRAMES_S[1]),
        videos=videos.keys(),
        min_score=cfg.AVA.DETECTION_SCORE_THRESH if scored else 0.0,
    )
    path = Path(cfg.AVA.ANNOTATION_DIR) / name
    return read_boxes(path, rules, scored=scored, skip_bad=cfg.AVA.SKIP_BAD_ROWS)


def _is_evaluated(split: str, key: Key, *, full: bool) -> bool:
    return split != "val" or full or key[1] % VALIDATION_INTERVAL_S == 0
