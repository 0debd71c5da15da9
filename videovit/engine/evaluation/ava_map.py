"""Frame-mAP of AVA: average precision per action over all boxes of all key frames.

The rules are those of the official scorer of AVA submissions (PASCAL VOC's, with the area under the curve):

* Key frames on the exclusion list, and classes not on the class list, count neither as ground truth nor as detections.
* Per class and key frame, detections are taken in descending order of score; of equal scores, the first given.
* A detection belongs to the ground-truth box with the largest IoU; of equal ones, to the first. It is a hit if that
  IoU is at least 0.5 and no earlier detection has hit that box. Otherwise it is a false alarm, even if another box is
  still free. A ground-truth box listed twice for a class counts twice, and one of the two is missed.
* Detections on key frames without ground truth are false alarms. The number of detections per key frame is unlimited.
* Per class, all detections are sorted by score, and precision is made non-increasing from the right. Average precision
  is the area under precision over recall. A class without ground truth is left out of the mean; one without detections
  has 0.

R detected boxes, G ground-truth boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Key = tuple[str, float]
"""A key frame: video and time stamp in seconds."""


@dataclass(frozen=True, slots=True)
class Truth:
    """A ground-truth box: key frame, corners as fractions of the frame (or any unit), one class."""

    key: Key
    corners: tuple[float, float, float, float]
    class_id: int


@dataclass(frozen=True)
class Detections:
    """Boxes with a score for every class.

    Attributes:
        keys: key frame of each box.
        boxes_R4: x1, y1, x2, y2, in the unit of the ground truth.
        scores_RK: column k is the class with id k + 1; NaN: not a detection of that class.
    """

    keys: Sequence[Key]
    boxes_R4: Floats
    scores_RK: Floats


@dataclass(frozen=True)
class FrameMap:
    """Average precision per class.

    Attributes:
        ap: class id -> average precision in 0..1, NaN without ground truth; every class of the class list.
        num_boxes: class id -> ground-truth boxes.
        num_detections: class id -> detections.
    """

    ap: dict[int, float]
    num_boxes: dict[int, int]
    num_detections: dict[int, int]

    @property
    def mean(self) -> float:
        """Mean over the classes that have ground truth; NaN without any."""
        known = [value for value in self.ap.values() if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")


def frame_map(
    ground_truth: Iterable[Truth],
    detections: Detections,
    *,
    class_ids: Collection[int],
    excluded: Collection[Key] = frozenset(),
    min_iou: float = 0.5,
) -> FrameMap:
    """Score detections against ground truth, by the rules at the top of the file.

    Args:
        ground_truth: one entry per box and action.
        detections: boxes and their scores.
        class_ids: the classes that are scored (60 for AVA), from 1.
        excluded: key frames that are not scored.
        min_iou: smallest overlap of a hit.

    Returns:
        The average precision of each class.

    Source: the evaluation of the AVA challenge (ActivityNet); PASCAL VOC 2010 and later.
    """
    left_out = frozenset(excluded)
    truth: dict[int, dict[Key, list[Truth]]] = {class_id: {} for class_id in sorted(class_ids)}
    for row in ground_truth:
        if row.class_id in truth and row.key not in left_out:
            truth[row.class_id].setdefault(row.key, []).append(row)
    places: dict[Key, list[int]] = {}
    for place, key in enumerate(detections.keys):
        places.setdefault(key, []).append(place)
    scored_R = np.array([key not in left_out for key in detections.keys], dtype=bool)
    result = FrameMap({}, {}, {})
    for class_id, boxes in truth.items():
        scores_R = detections.scores_RK[:, class_id - 1]
        kept_R = scored_R & ~np.isnan(scores_R)
        hits_R = np.zeros(len(scores_R), dtype=bool)
        for key, rows in boxes.items():
            here = np.array([place for place in places.get(key, []) if kept_R[place]], dtype=np.int64)
            here = here[np.argsort(-scores_R[here], kind="stable")]
            corners_G4 = np.array([row.corners for row in rows], dtype=np.float64)
            hits_R[here] = match(detections.boxes_R4[here], corners_G4, min_iou)
        result.num_boxes[class_id] = sum(map(len, boxes.values()))
        result.num_detections[class_id] = int(kept_R.sum())
        result.ap[class_id] = average_precision(scores_R[kept_R], hits_R[kept_R], result.num_boxes[class_id])
    return result


def iou(a_R4: Floats, b_G4: Floats) -> Floats:
    """Intersection over union of every pair of boxes (x1, y1, x2, y2), (R, G); 0 for boxes without area."""
    corner = np.maximum(a_R4[:, None, :2], b_G4[None, :, :2])
    opposite = np.minimum(a_R4[:, None, 2:], b_G4[None, :, 2:])
    shared: Floats = np.clip(opposite - corner, 0.0, None).prod(axis=2)
    areas = [np.clip(box[:, 2:] - box[:, :2], 0.0, None).prod(axis=1) for box in (a_R4, b_G4)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    overlaps: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlaps


def match(detections_R4: Floats, boxes_G4: Floats, min_iou: float) -> NDArray[np.bool_]:
    """Which detections of one class on one key frame are hits.

    Args:
        detections_R4: in descending order of score.
        boxes_G4: ground truth.
        min_iou: smallest overlap of a hit.

    Returns:
        (R,) bool.
    """
    hits = np.zeros(len(detections_R4), dtype=bool)
    if not len(boxes_G4):
        return hits
    overlaps = iou(detections_R4, boxes_G4)
    taken = np.zeros(len(boxes_G4), dtype=bool)
    for row, best in enumerate(overlaps.argmax(axis=1).tolist()):
        if overlaps[row, best] >= min_iou and not taken[best]:
            hits[row] = taken[best] = True
    return hits


def average_precision(scores: Floats, hits: NDArray[np.bool_], num_boxes: int) -> float:
    """Area under the precision-recall curve of one class.

    Args:
        scores: (R,) of all detections of the class.
        hits: (R,) which of them are hits.
        num_boxes: ground-truth boxes.

    Returns:
        In 0..1; NaN without ground truth.
    """
    if num_boxes == 0:
        return float("nan")
    hits = hits[np.argsort(-scores, kind="stable")]
    num_hits = np.cumsum(hits)
    precision = num_hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].sum() / num_boxes)
