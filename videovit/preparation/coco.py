"""Flaws in annotations of COCO's form, beyond what keeps them from being read, and a mended copy without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from videovit.data.decode import DecodeError, open_video
from videovit.data.files.listed_paths import Folders
from videovit.data.masks import area
from videovit.data.readers.coco import Flaw, Row, known_images, segmentation_of, structure

TOLERANCE = 1.0  # pixels that a box may reach over the border: annotators' boxes are rounded
LEAST_POINTS = 3  # of a polygon


@dataclass
class Mended:
    """A copy of annotations without flaws.

    Attributes:
        content: JSON.
        changes: number of changes by what was done.
    """

    content: dict[str, Any]
    changes: dict[str, int] = field(default_factory=dict)

    def note(self, what: str) -> None:
        """Count a change."""
        self.changes[what] = self.changes.get(what, 0) + 1


def find_flaws(content: dict[str, Any], folder: Path | None, *, open_images: bool = False) -> Iterator[Flaw]:
    """All flaws of a file of annotations, those that keep it from being read first.

    Args:
        content: see `readers.coco.read_content`.
        folder: of the images; None does not look for them.
        open_images: also read every image, and compare its size.
    """
    bad: set[tuple[str, int]] = set()
    for flaw in structure(content):
        if flaw.row is not None and not (flaw.kind == "duplicate id" and flaw.row[0] == "annotations"):
            bad.add(flaw.row)
        yield flaw
    images, folders = known_images(content), Folders()
    for place, image in enumerate(content["images"]):
        if ("images", place) not in bad:
            yield from _image_flaws(image, place, folder, folders, open_images=open_images)
    rows = [
        (place, row) for place, row in enumerate(content.get("annotations", [])) if ("annotations", place) not in bad
    ]
    masks = any(row.get("segmentation") for _, row in rows)  # or boxes alone
    for place, row in rows:
        for kind, text in _object_flaws(row, images[row["image_id"]], masks=masks):
            yield Flaw(kind, text, row["image_id"], row["id"], ("annotations", place))


def _image_flaws(image: Row, place: int, folder: Path | None, folders: Folders, *, open_images: bool) -> Iterator[Flaw]:
    if folder is None:
        return
    path, where = str(folder / image["file_name"]), ("images", place)
    if not folders.has(path):
        yield Flaw("missing", f"{image['file_name']!r} does not exist", image["id"], row=where)
    elif open_images:
        try:
            with open_video(path, "image") as video:
                height, width = video.frames(np.zeros(1, dtype=np.int64)).shape[1:3]
        except DecodeError as error:
            yield Flaw("unreadable", f"{image['file_name']!r}: {error.reason}", image["id"], row=where)
            return
        if (height, width) != (image["height"], image["width"]):
            text = f"{image['file_name']!r} has {width} x {height} pixels, annotated as "
            yield Flaw("size", f"{text}{image['width']} x {image['height']}", image["id"], row=where)


def _object_flaws(row: Row, image: Row, *, masks: bool) -> Iterator[tuple[str, str]]:
    """Kind and text of what is wrong with an annotation that can be read."""
    x, y, w, h = row["bbox"]
    height, width = image["height"], image["width"]
    if w <= 0 or h <= 0:
        yield "zero area", f"a box of {w:g} x {h:g} pixels"
    elif min(x, y) < -TOLERANCE or x + w > width + TOLERANCE or y + h > height + TOLERANCE:
        yield "outside", f"the box {x:g}, {y:g}, {w:g}, {h:g} reaches out of the image of {width} x {height}"
    value = row.get("segmentation")
    if isinstance(value, list) and any(len(polygon) < 2 * LEAST_POINTS for polygon in value):
        fewest = min(map(len, value)) // 2
        yield "polygon", f"a polygon of {fewest} points, expected at least {LEAST_POINTS}"
    shape = segmentation_of(row)
    if shape is None:
        if masks and not value:
            yield "no mask", "no mask, but other objects have one"
        return
    try:
        if not area(shape, height, width):
            yield "zero area", "a mask without a pixel in the image"
    except ValueError as error:
        yield "run lengths", str(error)


def mend(content: dict[str, Any], flaws: Sequence[Flaw]) -> Mended:
    """A copy of annotations without the given flaws.

    Boxes are cut at the border, polygons of fewer than three points removed, annotations with an id that was there
    before numbered anew. What cannot be mended is left out: images that are missing or unreadable, their annotations,
    and annotations without image, category, area or mask.

    Args:
        content: not changed.
        flaws: of `find_flaws`.
    """
    lists = {name: content.get(name, []) for name in ("images", "annotations", "categories")}
    copied = {name: [dict(row) if isinstance(row, dict) else row for row in rows] for name, rows in lists.items()}
    mended, images = Mended({**content, **copied}), known_images(content)
    dropped: set[tuple[str, int]] = set()
    numbers = {row.get("id") for row in content.get("annotations", []) if isinstance(row, dict)}
    highest = max((number for number in numbers if isinstance(number, int)), default=0)
    for flaw in flaws:
        if flaw.row is None or flaw.row in dropped:
            continue
        name, place = flaw.row
        row = mended.content[name][place]
        if name == "annotations" and flaw.kind == "duplicate id":
            highest += 1
            row["id"] = highest
            mended.note("annotations numbered anew")
        elif not (name == "annotations" and _mend_object(row, flaw.kind, images, mended)):
            dropped.add(flaw.row)
            mended.note(f"{name} left out")
    for name, rows in copied.items():
        mended.content[name] = [row for place, row in enumerate(rows) if (name, place) not in dropped]
    _drop_orphans(mended)
    return mended


def _mend_object(row: Row, kind: str, images: dict[int, Row], mended: Mended) -> bool:
    """Mend an annotation; returns whether that is possible."""
    if kind == "polygon":
        row["segmentation"] = [polygon for polygon in row["segmentation"] if len(polygon) >= 2 * LEAST_POINTS]
        mended.note("short polygons removed")
        return bool(row["segmentation"])
    if kind == "outside":
        image = images[row["image_id"]]
        x, y, w, h = row["bbox"]
        left, right = (min(max(value, 0), image["width"]) for value in (x, x + w))
        top, bottom = (min(max(value, 0), image["height"]) for value in (y, y + h))
        row["bbox"] = [left, top, right - left, bottom - top]
        mended.note("boxes cut at the border")
        return bool(right > left and bottom > top)
    return False


def _drop_orphans(mended: Mended) -> None:
    """Leave out annotations of images or categories that are left out."""
    known = {name: {row["id"] for row in mended.content[name]} for name in ("images", "categories")}
    kept = []
    for row in mended.content["annotations"]:
        if row["image_id"] in known["images"] and row["category_id"] in known["categories"]:
            kept.append(row)
        else:
            mended.note("annotations left out")
    mended.content["annotations"] = kept
