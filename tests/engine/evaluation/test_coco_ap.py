"""Average precision of objects, compared with another implementation of COCO's evaluation."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videovit.data.masks import encode_masks
from videovit.data.readers.coco import Annotations
from videovit.data.records import AnnotationError
from videovit.engine.evaluation.coco_ap import NAMES, Kind, build_truth, measure

CATEGORIES = {2: "small", 5: "medium", 90: "large"}
SIZE = 200  # pixels


def mask_of(box: list[float]) -> dict[str, Any]:
    """An ellipse that fills a box."""
    x, y, w, h = box
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    inside = ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 <= 1
    return encode_masks(inside[None].astype(np.uint8))[0]


def draw_box(rng: np.random.Generator) -> list[float]:
    side = rng.choice([10.0, 40.0, 110.0]) * rng.uniform(0.8, 1.2, 2)  # small, medium and large
    return [*rng.uniform(0, SIZE - 140, 2).round(2).tolist(), *side.round(2).tolist()]


@pytest.fixture(scope="module")
def annotations() -> Annotations:
    """40 images with crowds, images without objects, and gaps between ids."""
    rng = np.random.default_rng(1)
    images = [{"id": 7 * i + 3, "file_name": f"{i}.png", "height": SIZE, "width": SIZE} for i in range(40)]
    rows = []
    for image in images[4:]:
        for _ in range(int(rng.integers(1, 9))):
            box = draw_box(rng)
            rows.append(
                {
                    "id": 5 * len(rows) + 11,
                    "image_id": image["id"],
                    "category_id": int(rng.choice(list(CATEGORIES))),
                    "bbox": box,
                    "area": float(round(box[2] * box[3] * 0.78, 2)),
                    "iscrowd": int(rng.random() < 0.15),
                    "segmentation": mask_of(box),
                }
            )
    return Annotations(Path("made.json"), images, rows, CATEGORIES)


@pytest.fixture(scope="module")
def results(annotations: Annotations) -> list[dict[str, Any]]:
    """Shifted boxes of most objects, false ones, equal scores, and an image with more than 100 detections."""
    rng = np.random.default_rng(2)
    found = []
    for row in annotations.annotations:
        for _ in range(int(rng.integers(0, 3)) if row["image_id"] != 31 else 30):
            box = (np.array(row["bbox"]) + rng.normal(0, 3, 4)).round(2)
            box[2:] = np.maximum(box[2:], 2)
            category = row["category_id"] if rng.random() < 0.9 else int(rng.choice(list(CATEGORIES)))
            score = float(rng.random().__round__(2))
            found.append({"image_id": row["image_id"], "category_id": category, "bbox": box.tolist(), "score": score})
    return found


def of_faster_coco_eval(
    annotations: Annotations, results: list[dict[str, Any]], kind: Kind, image_ids: list[int]
) -> tuple[list[float], np.ndarray]:
    """The twelve numbers, and the precision of every category, of another implementation."""
    library = pytest.importorskip("faster_coco_eval")
    categories = [{"id": key, "name": name} for key, name in annotations.categories.items()]
    truth = library.COCO(
        copy.deepcopy({"images": annotations.images, "annotations": annotations.annotations, "categories": categories})
    )
    evaluation = library.COCOeval_faster(truth, truth.loadRes(copy.deepcopy(results)), kind)
    evaluation.params.imgIds = sorted(image_ids)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[:12].tolist(), evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ap_with_crowds_areas_and_many_detections_equals_another_implementation(
    kind: Kind, annotations: Annotations, results: list[dict[str, Any]]
) -> None:
    if kind == "segm":
        results = [
            {key: value for key, value in row.items() if key != "bbox"} | {"segmentation": mask_of(row["bbox"])}
            for row in results
        ]
    assert max(np.unique([row["image_id"] for row in results], return_counts=True)[1]) > 100
    image_ids = [row["id"] for row in annotations.images][:-3]
    found = measure(build_truth(annotations, masks=kind == "segm"), results, kind, image_ids)
    expected, expected_K = of_faster_coco_eval(annotations, results, kind, image_ids)
    assert list(found.summary) == list(NAMES) and len(expected) == 12
    # It leaves out an epsilon of pycocotools, which changes the last bit of some precisions of 1.
    np.testing.assert_allclose(list(found.summary.values()), 100.0 * np.array(expected), rtol=1e-14)
    assert 5 < found.summary["ap"] < 95 and len(set(expected)) > 8
    np.testing.assert_allclose(found.ap_K, 100.0 * expected_K, rtol=1e-12)


def test_no_detections_and_absent_sizes_are_zero_and_nan(annotations: Annotations) -> None:
    truth = build_truth(annotations, masks=False)
    found = measure(truth, [], "bbox", [row["id"] for row in annotations.images])
    assert found.summary["ap"] == 0.0 and found.ap_K.tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(measure(truth, [], "bbox", [annotations.images[0]["id"]]).summary["ap"])


def test_annotation_number_zero_can_be_found(annotations: Annotations) -> None:
    """pycocotools takes 0 for no match."""
    row = {"id": 0, "image_id": 3, "category_id": 2, "bbox": [10, 10, 20, 20], "area": 400}
    one = Annotations(Path("own.json"), annotations.images[:1], [row], CATEGORIES)
    result = {"image_id": 3, "category_id": 2, "bbox": [10, 10, 20, 20], "score": 0.9}
    assert measure(build_truth(one, masks=False), [result], "bbox", [3]).summary["ap"] == pytest.approx(100.0)
    with pytest.raises(AnnotationError, match="annotation 0 of image 3 has no segmentation"):
        build_truth(one, masks=True)


@pytest.mark.parametrize("counts", ["00", "hello world!", [5, 5], [-1, SIZE * SIZE + 1]])
def test_damaged_run_lengths_are_refused(annotations: Annotations, counts: object) -> None:
    damaged = {**annotations.annotations[0], "segmentation": {"size": [SIZE, SIZE], "counts": counts}}
    with pytest.raises(AnnotationError, match="made.json: annotation 11 of image 31: .*run"):
        build_truth(replace(annotations, annotations=[damaged]), masks=True)
    build_truth(replace(annotations, annotations=[damaged]), masks=False)
