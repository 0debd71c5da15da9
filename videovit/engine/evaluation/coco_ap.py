"""Average precision of objects as COCO defines it; pycocotools computes it.

K categories.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from videovit.data.masks import check_runs, import_pycocotools
from videovit.data.objects import Runs
from videovit.data.readers.coco import Annotations, Row, segmentation_of
from videovit.data.records import AnnotationError

Kind = Literal["bbox", "segm"]
NAMES = tuple("ap ap50 ap75 ap_small ap_medium ap_large ar1 ar10 ar100 ar_small ar_medium ar_large".split())
"""COCO's twelve numbers in its order: AP over IoU 0.5 to 0.95, at 0.5, at 0.75, by size; recall with at most 1, 10 and
100 detections per image, by size."""


@dataclass(frozen=True)
class Precision:
    """The numbers of one kind of detections, in percent; NaN if there is no object to find.

    Attributes:
        summary: by `NAMES`.
        ap_K, ap50_K: per category, in the order of their ids.
    """

    summary: Mapping[str, float]
    ap_K: NDArray[np.float64]
    ap50_K: NDArray[np.float64]


def build_truth(annotations: Annotations, *, masks: bool) -> dict[str, Any]:
    """The ground truth as the library reads it.

    Annotations are numbered anew from 1: the number 0, which own data may have, stands for no match in it. Polygons of
    fewer than three points cover nothing.

    Args:
        annotations: with any ids.
        masks: whether masks are evaluated.

    Raises:
        AnnotationError: masks are evaluated, but an object has none, or damaged run lengths.
    """
    images = {row["id"]: row for row in annotations.images}
    rows = []
    for number, row in enumerate(annotations.annotations, 1):
        new = {**row, "id": number, "iscrowd": row.get("iscrowd", 0)}
        new.setdefault("area", row["bbox"][2] * row["bbox"][3])
        if masks:
            new["segmentation"] = _segmentation(row, images[row["image_id"]], annotations)
        else:
            new.pop("segmentation", None)
        rows.append(new)
    categories = [{"id": key, "name": name} for key, name in annotations.categories.items()]
    return {"info": {}, "images": list(images.values()), "annotations": rows, "categories": categories}


def _segmentation(row: Row, image: Row, annotations: Annotations) -> object:
    value = row.get("segmentation")
    if value is None:
        raise AnnotationError(
            f"annotation {row['id']} of image {row['image_id']} has no segmentation",
            where=annotations.path,
            hint="Set COCO.MASKS False to learn and evaluate boxes alone",
        )
    shape = segmentation_of(row)
    if isinstance(shape, Runs):
        try:
            check_runs(shape, image["height"], image["width"])
        except ValueError as error:
            what = f"annotation {row['id']} of image {row['image_id']}: {error}"
            raise AnnotationError(
                what, where=annotations.path, hint="datasets/coco/prepare.py --repair leaves it out"
            ) from error
        return value
    polygons = [polygon for polygon in value if len(polygon) >= 6]
    size = [image["height"], image["width"]]
    return polygons or {"size": size, "counts": [size[0] * size[1]]}


def measure(truth: dict[str, Any], results: Sequence[Row], kind: Kind, image_ids: Collection[int]) -> Precision:
    """Compare detections with the ground truth.

    Args:
        truth: see `build_truth`.
        results: detections in COCO's result format.
        kind: `bbox` compares boxes, `segm` masks.
        image_ids: the images that count.
    """
    library = import_pycocotools()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        expected = _indexed(library, truth)
        if results:
            # Copied: it adds what it computes to every row.
            found = expected.loadRes([dict(row) for row in results])
        else:  # it cannot read an empty list
            found = _indexed(library, {**truth, "annotations": []})
        evaluation = library.cocoeval.COCOeval(expected, found, kind)
        evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    summary = [float(value) for value in evaluation.stats[: len(NAMES)]]
    precision_TRK = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]  # all areas, most detections
    return Precision(
        {name: 100.0 * value if value >= 0 else float("nan") for name, value in zip(NAMES, summary, strict=True)},
        _per_category(precision_TRK),
        _per_category(precision_TRK[:1]),
    )


def _indexed(library: Any, content: dict[str, Any]) -> Any:
    truth = library.coco.COCO()
    # Copied, since evaluation writes into the rows.
    truth.dataset = {**content, "annotations": [dict(row) for row in content["annotations"]]}
    truth.createIndex()
    return truth


def _per_category(precision_TRK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over thresholds and recalls, in percent; a category without objects has -1 everywhere."""
    flat_NK = precision_TRK.reshape(-1, precision_TRK.shape[-1])
    means_K: NDArray[np.float64] = np.where((flat_NK > -1).all(axis=0), 100.0 * flat_NK.mean(axis=0), np.nan)
    return means_K
