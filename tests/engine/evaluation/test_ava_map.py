"""Frame-mAP against cases computed by hand, and against a second implementation that follows the rules literally."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest

from videovit.engine.evaluation import ava_map
from videovit.engine.evaluation.ava_map import Detections, FrameMap, Truth, average_precision, iou

A, B = ("a", 902.0), ("b", 903.0)
LEFT, RIGHT = (0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0)


class Labeled(NamedTuple):
    """A box of one class, as ground truth or as a detection."""

    key: tuple[str, float]
    box: tuple[float, float, float, float]
    class_id: int
    score: float = 1.0


def frame_map(truth, found, **arguments) -> FrameMap:
    scores = np.full((len(found), 7), np.nan)
    for row, detection in enumerate(found):
        scores[row, detection.class_id - 1] = detection.score
    boxes = np.array([detection.box for detection in found])
    truth = [Truth(row.key, row.box, row.class_id) for row in truth]
    return ava_map.frame_map(truth, Detections([d.key for d in found], boxes, scores), **arguments)


def near(box, shift):
    """The box moved to the right: IoU (w - shift) / (w + shift) with the original, w its width."""
    return (box[0] + shift, box[1], box[2] + shift, box[3])


def test_overlaps_by_hand() -> None:
    boxes = np.array([LEFT, RIGHT, (0.1, 0.1, 0.1, 0.1)])
    found = iou(np.array([LEFT, near(LEFT, 0.2)]), boxes)
    np.testing.assert_allclose(found, [[1.0, 0.0, 0.0], [1 / 3, 0.0, 0.0]], atol=1e-12)


def test_three_boxes_by_hand() -> None:
    # Class 1: hit 0.9, false alarm 0.8, hit 0.7, one of three missed: 1/3 * 1 + 1/3 * 2/3. Class 2: found at once.
    truth = [Labeled(A, LEFT, 1), Labeled(A, RIGHT, 1), Labeled(B, LEFT, 1), Labeled(B, LEFT, 2)]
    found = [
        Labeled(A, near(LEFT, 0.1), 1, 0.9),
        Labeled(A, near(LEFT, 0.05), 1, 0.8),  # better placed, but the box is taken
        Labeled(A, RIGHT, 1, 0.7),
        Labeled(B, near(LEFT, 0.2), 1, 0.6),  # IoU 1/3
        Labeled(B, LEFT, 2, 0.1),
    ]
    result = frame_map(truth, found, class_ids=(1, 2, 3))
    assert result.ap[1] == pytest.approx(1 / 3 + 2 / 9)
    assert result.ap[2] == 1.0
    assert math.isnan(result.ap[3])  # no ground truth: not in the mean
    assert result.mean == pytest.approx((1 / 3 + 2 / 9 + 1.0) / 2)
    assert result.num_boxes == {1: 3, 2: 1, 3: 0}
    assert result.num_detections == {1: 4, 2: 1, 3: 0}


def test_precision_is_made_non_increasing() -> None:
    # hits: no yes yes no yes, 4 boxes -> precision at hits 1/2, 2/3, 3/5; envelope 2/3, 2/3, 3/5
    hits = np.array([False, True, True, False, True])
    assert average_precision(np.array([5.0, 4, 3, 2, 1]), hits, 4) == pytest.approx((2 / 3 + 2 / 3 + 3 / 5) / 4)


def test_excluded_frames_and_other_classes_do_not_count() -> None:
    truth = [Labeled(A, LEFT, 1), Labeled(B, LEFT, 1), Labeled(A, LEFT, 7)]
    found = [Labeled(B, RIGHT, 1, 0.9), Labeled(A, LEFT, 1, 0.5), Labeled(A, LEFT, 7, 0.9)]
    assert frame_map(truth, found, class_ids=(1,)).ap == {1: pytest.approx(0.25)}
    assert frame_map(truth, found, class_ids=(1,), excluded={B}).ap == {1: 1.0}


def test_detections_on_frames_without_truth_are_false_alarms() -> None:
    truth = [Labeled(A, LEFT, 1), Labeled(A, LEFT, 2)]
    found = [Labeled(B, LEFT, 1, 0.9), Labeled(A, LEFT, 1, 0.8)]
    assert frame_map(truth, found, class_ids=(1, 2)).ap == {1: 0.5, 2: 0.0}


def test_box_listed_twice_counts_twice() -> None:
    truth = [Labeled(A, LEFT, 1), Labeled(A, LEFT, 1)]
    found = [Labeled(A, LEFT, 1, 0.9), Labeled(A, LEFT, 1, 0.8)]
    assert frame_map(truth, found, class_ids=(1,)).ap == {1: 0.5}


def test_detection_belongs_to_its_nearest_box() -> None:
    # The second detection overlaps the free box enough (IoU 0.6), but lies nearer to the taken one.
    first, second = (0.0, 0.0, 0.8, 1.0), (0.1, 0.0, 1.0, 1.0)
    truth = [Labeled(A, first, 1), Labeled(A, second, 1)]
    found = [Labeled(A, first, 1, 0.9), Labeled(A, (0.0, 0.0, 0.78, 1.0), 1, 0.8)]
    assert iou(np.array([found[1].box]), np.array([second]))[0, 0] > 0.5
    assert frame_map(truth, found, class_ids=(1,)).ap == {1: 0.5}


def test_mean_without_ground_truth_is_nan() -> None:
    assert math.isnan(frame_map([], [Labeled(A, LEFT, 1)], class_ids=(1,)).mean)


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def literal_ap(truth, found, class_id, excluded):
    """The rules one by one: detections in order of score, and for every threshold the best precision beyond it."""
    truth = [g for g in truth if g.class_id == class_id and g.key not in excluded]
    found = sorted(
        (d for d in found if d.class_id == class_id and d.key not in excluded), key=lambda d: d.score, reverse=True
    )
    taken, points, num_hits = set(), [(0.0, 0.0)], 0
    for rank, detection in enumerate(found, start=1):
        best, place = 0.0, None
        for i, box in enumerate(truth):
            if box.key == detection.key and overlap(detection.box, box.box) > best:
                best, place = overlap(detection.box, box.box), i
        if place is not None and best >= 0.5 and place not in taken:
            taken.add(place)
            num_hits += 1
        points.append((num_hits / len(truth), num_hits / rank))
    area = 0.0
    for i in range(1, len(points)):
        area += (points[i][0] - points[i - 1][0]) * max(p for _, p in points[i:])
    return area


@pytest.mark.parametrize("seed", range(6))
def test_random_boxes_agree_with_the_literal_rules(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def draw(number):
        rows = []
        for score in rng.permutation(number) / number:
            x, y = rng.integers(0, 4, 2) / 10
            width, height = rng.integers(3, 7, 2) / 10
            key = ("v", 902.0 + int(rng.integers(6)))
            rows.append(Labeled(key, (x, y, x + width, y + height), int(rng.integers(1, 4)), float(score)))
        return rows

    truth, found, excluded = draw(40), draw(120), {("v", 903.0)}
    result = frame_map(truth, found, class_ids=(1, 2, 3), excluded=excluded)
    expected = {c: literal_ap(truth, found, c, excluded) for c in (1, 2, 3)}
    assert result.ap == pytest.approx(expected)
    assert all(0.02 < value < 0.98 for value in expected.values())  # the case is neither empty nor trivial
