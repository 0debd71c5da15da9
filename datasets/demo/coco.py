"""Render a small data set for detection in the form of COCO: shapes on textured ground, with boxes, masks and crowds.

    python datasets/demo/coco.py --output output/demo/coco

    annotations/instances_train.json, instances_val.json     train/000001.png ...     val/000009.png ...

The six categories are the shapes and patterns of the demo videos. It has the peculiarities of COCO: category ids that
neither begin at 1 nor are consecutive, image ids with gaps, images of several sizes, a few images without any object,
objects that cover each other and that the border cuts off, masks as polygons, or as RLE if another object divides
them, and groups of objects that are annotated as one crowd. Each image depends only on (seed, split, number).

Legend: H W pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from prepare import write_text
from shapes import Track, draw_object, drifting_texture, inside

from videovit.errors import UserError
from videovit.messages import plural

CATEGORIES = {3: "disc", 5: "square", 6: "triangle", 10: "stripes", 21: "ring", 40: "cross"}
"""Category id -> shape."""
SPLITS = {"train": 400, "val": 100}
SIZES = ((128, 160), (160, 128), (144, 144))  # H, W
EMPTY_EVERY, CROWD_EVERY = 25, 12  # every 25th image has no object, every 12th a crowd
LEAST_VISIBLE = 0.25  # objects that are covered more than this are not drawn
CROWD_SIZE = 7  # objects of a crowd
FINER = 4  # contours are traced in pixels of this fraction

Array = np.ndarray


@dataclass(frozen=True)
class Shape:
    """One shape: its category, its visible pixels, and whether it is a crowd."""

    category: int
    mask_HW: Array
    is_crowd: bool = False


def draw_shape(picture_HWC: Array, category: int, rng: np.random.Generator, place: tuple[float, float, float]) -> Array:
    """Draw a shape, in place.

    Args:
        picture_HWC: float32, 0..255.
        category: key of CATEGORIES.
        rng: source of angle and colors.
        place: center x, y and radius in pixels.

    Returns:
        bool (H, W): its pixels.
    """
    height, width = picture_HWC.shape[:2]
    side = max(height, width)
    (x, y, radius), angle = place, rng.uniform(0, 2 * np.pi)
    bright = rng.uniform(150, 255, 3)
    colors = np.stack([bright, bright * rng.uniform(0.0, 0.25, 3)])
    track = Track(*(np.array([value]) for value in (x / side, y / side, radius / side, angle)))
    square_1HWC = np.zeros((1, side, side, 3), np.float32)
    square_1HWC[0, :height, :width] = picture_HWC
    draw_object(square_1HWC, CATEGORIES[category], track, colors)
    picture_HWC[:] = square_1HWC[0, :height, :width]
    rows, columns = np.mgrid[:height, :width] + 0.5
    right, down = (columns - x) / radius, (rows - y) / radius
    u, v = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
    return np.asarray(inside(CATEGORIES[category], u, v) > 0)


def render(rng: np.random.Generator, *, empty: bool, crowd: bool) -> tuple[Array, list[Shape]]:
    """Draw one image.

    Args:
        rng: source of all randomness.
        empty: without shapes.
        crowd: with one crowd beside the shapes.

    Returns:
        uint8 (H, W, 3), and its shapes.
    """
    height, width = SIZES[int(rng.integers(len(SIZES)))]
    picture_HWC = drifting_texture(rng, 1, max(height, width))[0, :height, :width].copy()
    shapes: list[Shape] = []
    for _ in range(0 if empty else int(rng.integers(1, 5))):
        radius = rng.uniform(11, 30)
        place = (
            rng.uniform(0.6 * radius, width - 0.6 * radius),
            rng.uniform(0.6 * radius, height - 0.6 * radius),
            radius,
        )
        before, state = picture_HWC.copy(), [shape.mask_HW for shape in shapes]
        category = list(CATEGORIES)[int(rng.integers(len(CATEGORIES)))]
        mask_HW = draw_shape(picture_HWC, category, rng, place)
        left_over = [old & ~mask_HW for old in state]
        if any(new.sum() < LEAST_VISIBLE * old.sum() for new, old in zip(left_over, state, strict=True)):
            picture_HWC = before  # it would hide another one
            continue
        shapes = [Shape(shape.category, mask) for shape, mask in zip(shapes, left_over, strict=True)]
        shapes.append(Shape(category, mask_HW))
    if crowd and not empty:
        shapes.append(_draw_crowd(picture_HWC, rng, np.any([shape.mask_HW for shape in shapes], axis=0)))
    picture_HWC += rng.normal(0, 6, picture_HWC.shape)
    return np.clip(picture_HWC, 0, 255).astype(np.uint8), [shape for shape in shapes if shape.mask_HW.any()]


def _draw_crowd(picture_HWC: Array, rng: np.random.Generator, taken_HW: Array) -> Shape:
    """Small shapes of one category in a row, where nothing is yet."""
    height, width = picture_HWC.shape[:2]
    category = list(CATEGORIES)[int(rng.integers(len(CATEGORIES)))]
    mask_HW = np.zeros((height, width), bool)
    y = rng.uniform(8, height - 8)
    for number in range(CROWD_SIZE):
        place = (width * (number + 0.5) / CROWD_SIZE, float(np.clip(y + rng.uniform(-4, 4), 6, height - 6)), 5.0)
        attempt = picture_HWC.copy()
        small_HW = draw_shape(attempt, category, rng, place)
        if not (small_HW & taken_HW).any():
            picture_HWC[:] = attempt
            mask_HW |= small_HW
    return Shape(category, mask_HW, is_crowd=True)


def segmentation(shape: Shape) -> list[list[float]] | dict[str, Any]:
    """A mask as COCO writes it: polygons of a single object, RLE of crowds and of masks with holes."""
    # Contours run through the centers of pixels: of small ones, to stay close to the edge of the object.
    fine_HW = shape.mask_HW.astype(np.uint8).repeat(FINER, axis=0).repeat(FINER, axis=1)
    contours, tree = cv2.findContours(fine_HW, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    has_holes = tree is not None and bool((tree[0][:, 3] >= 0).any())
    long_enough = [contour[:, 0] for contour in contours if len(contour) >= 3]
    if shape.is_crowd or has_holes or len(long_enough) < len(contours):
        return run_lengths(shape.mask_HW)
    return [((contour.flatten() + 0.5) / FINER).tolist() for contour in long_enough]


def run_lengths(mask_HW: Array) -> dict[str, Any]:
    """A mask as uncompressed RLE: lengths of runs in column order, beginning with those of zeros."""
    pixels = mask_HW.flatten(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(pixels)) + 1
    counts = np.diff(np.concatenate([[0], edges, [len(pixels)]])).tolist()
    return {"size": list(mask_HW.shape), "counts": ([0] if pixels[0] else []) + counts}


def annotation(shape: Shape, number: int, image_id: int) -> dict[str, Any]:
    """A row of `annotations`."""
    rows, columns = np.nonzero(shape.mask_HW)
    left, top = int(columns.min()), int(rows.min())
    return {
        "id": number,
        "image_id": image_id,
        "category_id": shape.category,
        "bbox": [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top],
        "area": int(shape.mask_HW.sum()),
        "iscrowd": int(shape.is_crowd),
        "segmentation": segmentation(shape),
    }


def prepare(output: Path, counts: dict[str, int], *, seed: int = 0) -> int:
    """Write the images and annotations.

    Args:
        output: folder; existing files are overwritten.
        counts: split -> number of images.
        seed: seed of the data set.

    Returns:
        Number of annotated objects.

    Raises:
        UserError: the folder cannot be written.
    """
    total = 0
    try:
        (output / "annotations").mkdir(parents=True, exist_ok=True)
        for split, count in counts.items():
            total += _write_split(output, split, count, seed)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}", where="--output") from error
    return total


def _write_split(output: Path, split: str, count: int, seed: int) -> int:
    (output / split).mkdir(exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        rng = np.random.default_rng([seed, len(split), number])
        picture_HWC, shapes = render(
            rng, empty=number % EMPTY_EVERY == EMPTY_EVERY - 1, crowd=number % CROWD_EVERY == CROWD_EVERY - 1
        )
        image_id = 1 + 8 * number + 5 * (split == "val")
        name = f"{image_id:06d}.png"
        Image.fromarray(picture_HWC).save(output / split / name)
        height, width = picture_HWC.shape[:2]
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        annotations += [annotation(shape, 1 + 3 * (len(annotations) + i), image_id) for i, shape in enumerate(shapes)]
    categories = [{"id": key, "name": name, "supercategory": "shape"} for key, name in CATEGORIES.items()]
    info = {"description": "shapes rendered by datasets/demo/coco.py"}  # some versions of pycocotools need it
    content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    write_text(output / "annotations" / f"instances_{split}.json", json.dumps(content))
    return len(annotations)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of images and annotations")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the data set (default: 0)")
    for split, count in SPLITS.items():
        parser.add_argument(
            f"--{split}", type=int, default=count, metavar="N", help=f"number of {split} images (default: {count})"
        )
    args = parser.parse_args(argv)
    counts = {split: getattr(args, split) for split in SPLITS}
    if args.seed < 0 or min(counts.values()) < 1:
        parser.error("--seed must be at least 0, and --train and --val at least 1")
    try:
        total = prepare(args.output, counts, seed=args.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"rendered {plural(sum(counts.values()), 'image')} with {plural(total, 'object')} in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
