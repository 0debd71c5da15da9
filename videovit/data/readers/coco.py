"""Annotations in COCO's form: a JSON file with images, annotations and categories, and a folder of images.

    {"images": [{"id": 139, "file_name": "000000000139.jpg", "height": 426, "width": 640}, ...],
     "annotations": [{"id": 1768, "image_id": 139, "category_id": 3, "bbox": [x, y, width, height], "area": 7.5,
                      "iscrowd": 0, "segmentation": [[x, y, x, y, ...], ...] or {"size": [H, W], "counts": ...}}, ...],
     "categories": [{"id": 3, "name": "car"}, ...]}

Ids are any whole numbers; the classes of a model are the categories in the order of their ids, counted from 1.

R objects.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videovit.data.files.annotation_files import read_json
from videovit.data.files.listed_paths import is_inside
from videovit.data.objects import AnnotatedImage, Polygons, Runs, Segmentation
from videovit.data.records import AnnotationError, Sample
from videovit.messages import plural

MOST_SHOWN = 20  # flaws in one message
LARGEST_SIDE = 1 << 16  # pixels; also how far a polygon may reach out: beyond, pycocotools fills the memory or crashes
LARGEST_ID = (1 << 63) - 1  # of a tensor
LARGEST_NUMBER = 1e18  # two of them multiplied are still finite in float32
Row = dict[str, Any]


@dataclass(frozen=True)
class Flaw:
    """Something wrong with a file of annotations.

    Attributes:
        kind: of the flaw, in a word or two.
        text: what is wrong.
        image_id, annotation_id: where; None if the flaw is elsewhere.
        row: its list (`images`, `annotations` or `categories`) and place in it; None for the file as a whole.
    """

    kind: str
    text: str
    image_id: object = None
    annotation_id: object = None
    row: tuple[str, int] | None = None

    def __str__(self) -> str:
        places = (("image", self.image_id), ("annotation", self.annotation_id))
        where = [f"{name} {number!r:.100}" for name, number in places if number is not None]
        return f"{', '.join(where) or 'the file'}: {self.text}"


@dataclass(frozen=True)
class Annotations:
    """The content of a file of annotations without flaws in its structure.

    Attributes:
        path: the file.
        images, annotations: rows as in the file.
        categories: id -> name, in the order of the ids.
    """

    path: Path
    images: Sequence[Row]
    annotations: Sequence[Row]
    categories: dict[int, str]

    @property
    def class_of(self) -> dict[int, int]:
        """Category id -> class, counted from 1."""
        return {category: number for number, category in enumerate(self.categories, 1)}


def read_annotations(path: Path) -> Annotations:
    """Read a file of annotations.

    Raises:
        AnnotationError: it is missing or not JSON, or its rows cannot be used; shows the first of these.
    """
    content = read_content(path)
    flaws = list(structure(content))
    if flaws:
        shown = "".join(f"\n  {flaw}" for flaw in flaws[:MOST_SHOWN])
        more = f"\n  ... and {len(flaws) - MOST_SHOWN} more" if len(flaws) > MOST_SHOWN else ""
        raise AnnotationError(
            f"{plural(len(flaws), 'flaw')} in the annotations:{shown}{more}",
            where=path,
            hint="datasets/coco/prepare.py --check lists all of them, --repair writes a mended copy",
        )
    categories = {row["id"]: row["name"] for row in sorted(content["categories"], key=lambda row: int(row["id"]))}
    return Annotations(path, content["images"], content.get("annotations", []), categories)


def read_content(path: Path) -> dict[str, Any]:
    """The JSON of a file of annotations, with lists of rows.

    Raises:
        AnnotationError: it is missing, not JSON, or holds something else.
    """
    _, content = read_json(path)
    needed = ("images", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in needed):
        found = list(content)[:5] if isinstance(content, dict) else type(content).__name__
        raise AnnotationError(
            where=path, found=found, expected="an object with the lists images, annotations, categories"
        )
    if not isinstance(content.get("annotations", []), list):
        raise AnnotationError("annotations is not a list", where=path)
    return content


def structure(content: dict[str, Any]) -> Iterator[Flaw]:
    """The flaws of a file that keep it from being read: missing and duplicate ids, values of the wrong type."""
    images = yield from _identified(content["images"], "images", _image_flaw)
    categories = yield from _identified(content["categories"], "categories", _category_flaw)
    seen: set[int] = set()
    for place, row in enumerate(content.get("annotations", [])):
        if not isinstance(row, dict):
            yield Flaw("annotation", f"annotation number {place} is no object", row=("annotations", place))
            continue
        flaw = _annotation_flaw(row, images, categories)
        if not flaw and row["id"] in seen:
            flaw = "duplicate id", f"the id {row['id']} is in annotations twice"
        if flaw:
            yield Flaw(*flaw, row.get("image_id"), row.get("id"), ("annotations", place))
        else:
            seen.add(row["id"])


def _identified(rows: list[Any], name: str, flaw_of: Callable[[Row], str]) -> Generator[Flaw, None, dict[int, Row]]:
    """Yield the flaws of rows with ids; returns id -> row of those that can be used."""
    known: dict[int, Row] = {}
    for place, row in enumerate(rows):
        where = (name, place)
        if not isinstance(row, dict) or not _is_id(row.get("id")):
            yield Flaw("id", f"number {place} of {name} has no whole number as id", row=where)
            continue
        image_id = row["id"] if name == "images" else None
        if row["id"] in known:
            yield Flaw("duplicate id", f"the id {row['id']} is in {name} twice", image_id, row=where)
        elif text := flaw_of(row):
            yield Flaw(name, text, image_id, row=where)
        else:
            known[row["id"]] = row
    return known


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_ID


def known_images(content: dict[str, Any]) -> dict[int, Row]:
    """id -> image of those that can be used; the first one of each id."""
    known: dict[int, Row] = {}
    for row in content["images"]:
        if isinstance(row, dict) and _is_id(row.get("id")) and not _image_flaw(row):
            known.setdefault(row["id"], row)
    return known


def _image_flaw(row: Row) -> str:
    for key in ("height", "width"):
        if not _is_id(row.get(key)) or not 1 <= row[key] <= LARGEST_SIDE:
            return f"{key} is {row.get(key)!r:.100}, expected pixels"
    name = row.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        return f"file_name is {name!r:.100}"
    if os.path.normpath(name) == ".":
        return f"file_name {name!r:.100} is the folder of images"
    if os.path.isabs(name) or not is_inside(os.path.normpath(name), "."):
        return f"file_name {name!r:.100} leads out of the folder of images"
    return ""


def _category_flaw(row: Row) -> str:
    return "" if isinstance(row.get("name"), str) and row["name"] else f"category {row['id']} has no name"


def _annotation_flaw(row: Row, images: dict[int, Row], categories: dict[int, Row]) -> tuple[str, str] | None:
    """Kind and text of what is wrong with an annotation."""
    if not _is_id(row.get("id")):
        return "id", "no whole number as id"
    if not _is_id(row.get("image_id")) or row["image_id"] not in images:
        return "image", "no image has this id"
    if not _is_id(row.get("category_id")) or row["category_id"] not in categories:
        return "category", f"no category has the id {row.get('category_id')!r:.100}"
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return "box", f"bbox is {box!r:.100}, expected [x, y, width, height]"
    if row.get("iscrowd", 0) not in (0, 1):
        return "crowd", f"iscrowd is {row['iscrowd']!r:.100}, expected 0 or 1"
    if text := _segmentation_flaw(row.get("segmentation")):
        return "segmentation", text
    if not _is_number(row.get("area", 0)):
        return "area", f"area is {row['area']!r:.100}"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def _segmentation_flaw(value: object) -> str:
    """What is wrong with a mask; own data without masks have null or []."""
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        sized = isinstance(size, list) and len(size) == 2 and all(map(_is_id, size))
        if not sized or not (isinstance(counts, str) or (isinstance(counts, list) and all(map(_is_id, counts)))):
            return "the run lengths are not of the form {size: [height, width], counts: text or whole numbers}"
    elif isinstance(value, list):
        for polygon in value:
            if not isinstance(polygon, list) or len(polygon) % 2 or not all(map(_is_number, polygon)):
                return "a polygon is not a list of numbers x, y, x, y, ..."
            if (farthest := max(map(abs, polygon), default=0)) > LARGEST_SIDE:
                return f"a polygon has a corner at {farthest:g} pixels, expected at most {LARGEST_SIDE:,}"
    elif value is not None:
        return f"segmentation is {value!r:.100}, expected a list of polygons, or run lengths"
    return ""


def segmentation_of(row: Row) -> Segmentation | None:
    """The mask of a valid annotation; None if it has none that covers anything."""
    value = row.get("segmentation")
    if isinstance(value, dict):
        counts = value["counts"]
        return Runs((value["size"][0], value["size"][1]), counts if isinstance(counts, str) else tuple(counts))
    polygons: Polygons = tuple(np.array(part, dtype=np.float64) for part in value or () if len(part) >= 6)
    return polygons or None


def read(annotations: Annotations, folder: str | Path, *, masks: bool, skip_empty: bool) -> list[Sample]:
    """The images of a file of annotations, in its order.

    Objects without width or height, or with `masks` without a mask, cannot be learned and are left out; boxes are cut
    at the border of the image.

    Args:
        annotations: see `read_annotations`.
        folder: of the images.
        masks: read the masks too.
        skip_empty: leave out images without an object to learn (training).

    Raises:
        AnnotationError: no image is left, or masks are read and no annotation has one.
    """
    rows_of: dict[int, list[Row]] = defaultdict(list)
    for row in annotations.annotations:
        rows_of[row["image_id"]].append(row)
    samples = []
    for image in annotations.images:
        shown = _annotated(image, rows_of[image["id"]], annotations.class_of, masks=masks)
        if shown.crowd_R.all() and skip_empty:  # also if there is none
            continue
        samples.append(Sample(os.path.join(folder, image["file_name"]), image=shown))
    if not samples:
        what = "no image with an object" if annotations.images else "no images"
        hint = "Set COCO.MASKS False if the annotations have boxes alone" if masks and annotations.annotations else ""
        raise AnnotationError(what, where=annotations.path, hint=hint)
    return samples


def _annotated(image: Row, rows: Sequence[Row], class_of: dict[int, int], *, masks: bool) -> AnnotatedImage:
    height, width = image["height"], image["width"]
    limits_4 = np.array([width, height, width, height], dtype=np.float64)
    boxes, labels, crowd, shapes = [], [], [], []
    for row in rows:
        x, y, w, h = row["bbox"]
        box_4 = np.clip(np.array([x, y, x + w, y + h], dtype=np.float64), 0, limits_4)
        shape = segmentation_of(row) if masks else None
        if box_4[2] <= box_4[0] or box_4[3] <= box_4[1] or (masks and shape is None):
            continue
        boxes.append(box_4)
        labels.append(class_of[row["category_id"]])
        crowd.append(bool(row.get("iscrowd", 0)))
        if shape is not None:
            shapes.append(shape)
    return AnnotatedImage(
        image["id"],
        height,
        width,
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(crowd, dtype=np.bool_),
        tuple(shapes),
    )
