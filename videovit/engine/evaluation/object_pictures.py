"""Pictures of objects: what a detector found, beside what is annotated.

N detections, R annotated objects, H W pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.functional import resize
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from videovit.data.decode import DecodeError, open_video
from videovit.data.masks import draw_masks
from videovit.data.objects import Runs, Segmentation
from videovit.data.readers.coco import Annotations, Row, segmentation_of
from videovit.engine.reporting.json_lines import writing
from videovit.engine.reporting.log import logger
from videovit.messages import printable

SURE = 0.5  # score from which detections are drawn and counted
OVERLAP = 0.5  # IoU from which a detection is right
HEIGHT = 320  # pixels of a row
MOST_WIDTH = 4 * HEIGHT  # of an image; longer ones are lower than their row
GAP = 6  # pixels
OPACITY = 0.4  # of masks


@dataclass(frozen=True)
class Shown:
    """An image and what was found in it.

    Attributes:
        path: of the file.
        image_id: of the data set.
        rows: detections, see `evaluation.objects.found_in`.
    """

    path: str
    image_id: int
    rows: Sequence[Row]


def write_pictures(
    folder: Path,
    shown: Sequence[Shown],
    annotations: Annotations,
    names: Sequence[str],
    number: int,
    *,
    suffix: str = "",
) -> list[Path]:
    """Write `detections_best.png` and `detections_worst.png`: annotation on the left, detections on the right.

    Images are ordered by the share of detections that are right and of objects that are found (F1 of boxes at IoU 0.5
    with the right class, among detections of a score of at least 0.5), then by their mean IoU.

    Args:
        folder: exists.
        shown: the images; those without objects are left out.
        annotations: the ground truth.
        names: of the classes.
        number: of images in both files together; 0 writes none.
        suffix: of the file names.

    Returns:
        The files.
    """
    truth: dict[int, list[Row]] = defaultdict(list)
    for row in annotations.annotations:
        if not row.get("iscrowd"):
            truth[row["image_id"]].append(row)
    rated = [(quality(one, truth[one.image_id], annotations.class_of), one) for one in shown if truth[one.image_id]]
    rated.sort(key=lambda pair: pair[0], reverse=True)
    half = min(number // 2, len(rated) // 2)
    files = []
    for name, chosen in (("best", rated[:half]), ("worst", rated[::-1][:half])):
        drawn = [_row(one, truth[one.image_id], annotations, names) for _, one in chosen]
        readable = [row for row in drawn if row is not None]
        if readable:
            files.append(folder / f"detections_{name}{suffix}.png")
            with writing(files[-1]):
                _sheet(readable).save(files[-1])
    return files


def quality(shown: Shown, truth: Sequence[Row], class_of: Mapping[int, int]) -> tuple[float, float]:
    """F1 and mean IoU of an image; see `write_pictures`."""
    sure = sorted((row for row in shown.rows if row["score"] >= SURE), key=lambda row: -float(row["score"]))
    if not sure:
        return 0.0, 0.0
    iou_NR = box_iou(corners([row["box"] for row in sure]), corners([row["bbox"] for row in truth]))
    same_NR = torch.tensor([[class_of[t["category_id"]] == row["label"] for t in truth] for row in sure])
    iou_NR = torch.where(same_NR, iou_NR, 0.0)
    overlaps = []
    for iou_R in iou_NR:
        best = int(iou_R.argmax())
        if iou_R[best] >= OVERLAP:
            overlaps.append(float(iou_R[best]))
            iou_NR[:, best] = 0.0  # every object is found once
    return 2 * len(overlaps) / (len(sure) + len(truth)), sum(overlaps) / max(1, len(overlaps))


def corners(boxes: Sequence[Sequence[float]]) -> Tensor:
    """Boxes x, y, width, height as x1, y1, x2, y2."""
    boxes_N4 = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    boxes_N4[:, 2:] += boxes_N4[:, :2]
    return boxes_N4


def draw_found(
    image_3HW: Tensor, rows: Sequence[Row], names: Sequence[str], *, least: float = SURE, height: int = 0
) -> Tensor:
    """An image with what was found in it.

    Args:
        image_3HW: uint8, RGB.
        rows: see `evaluation.objects.found_in`.
        names: of the classes.
        least: score from which detections are drawn.
        height: that the image is scaled to, in pixels; 0 leaves it.
    """
    sure = [row for row in rows if row["score"] >= least]
    masks = [Runs((image_3HW.shape[1], image_3HW.shape[2]), row["mask"]["counts"]) for row in sure if "mask" in row]
    texts = [f"{names[row['label'] - 1]} {row['score']:.2f}" for row in sure]
    labels = [row["label"] for row in sure]
    return _drawn(image_3HW, corners([row["box"] for row in sure]), labels, texts, masks, height)


def _drawn(
    image_3HW: Tensor,
    boxes_N4: Tensor,
    labels: Sequence[int],
    texts: Sequence[str],
    masks: Sequence[Segmentation],
    height: int,
) -> Tensor:
    colors = [_color(label) for label in labels]
    if masks and len(masks) == len(boxes_N4):
        pixels_NHW = torch.from_numpy(draw_masks(masks, image_3HW.shape[1], image_3HW.shape[2])).bool()
        image_3HW = draw_segmentation_masks(image_3HW, pixels_NHW, alpha=OPACITY, colors=colors)
    if height:  # before boxes and text are drawn, which have a width of their own
        factor = height / image_3HW.shape[1]
        size = [height, max(1, round(image_3HW.shape[2] * factor))]
        image_3HW, boxes_N4 = resize(image_3HW, size, antialias=True), boxes_N4 * factor
    if not len(boxes_N4):
        return image_3HW
    width = max(1, min(image_3HW.shape[1:]) // 150)
    drawn: Tensor = draw_bounding_boxes(image_3HW, boxes_N4, list(map(printable, texts)), colors=colors, width=width)
    return drawn


def _color(label: int) -> tuple[int, int, int]:
    """A color per class, far from those of its neighbors."""
    angle = 2.399963 * label  # the golden angle
    red, green, blue = (int(155 + 100 * np.cos(angle + shift)) for shift in (0.0, 2.094, 4.189))
    return red, green, blue


def _row(shown: Shown, truth: Sequence[Row], annotations: Annotations, names: Sequence[str]) -> Tensor | None:
    """Annotation and detections side by side, of one height; None if the file cannot be read anymore."""
    try:
        with open_video(shown.path, "image") as video:
            image_3HW = video.frames(np.zeros(1, dtype=np.int64))[0].permute(2, 0, 1).contiguous()
    except DecodeError as error:
        logger.warning("not drawn: %s", error)
        return None
    labels = [annotations.class_of[row["category_id"]] for row in truth]
    shapes = [shape for row in truth if (shape := segmentation_of(row)) is not None]
    boxes_R4, texts = corners([row["bbox"] for row in truth]), [names[k - 1] for k in labels]
    height = max(1, min(HEIGHT, MOST_WIDTH * image_3HW.shape[1] // image_3HW.shape[2]))
    left = _drawn(image_3HW, boxes_R4, labels, texts, shapes, height)
    right = draw_found(image_3HW, shown.rows, names, height=height)
    gap = torch.full((3, left.shape[1], GAP), 255, dtype=torch.uint8)
    return torch.cat([left, gap, right], dim=2)


def _sheet(rows: Sequence[Tensor]) -> Image.Image:
    width = max(row.shape[2] for row in rows)
    sheet = Image.new("RGB", (width, len(rows) * (HEIGHT + GAP) - GAP), "white")
    for place, row in enumerate(rows):
        sheet.paste(Image.fromarray(row.permute(1, 2, 0).numpy()), (0, place * (HEIGHT + GAP)))
    return sheet
