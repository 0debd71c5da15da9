"""Occlusion sensitivity: which parts of a clip a score needs.

B clips, C channels, T H W frames and pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from videovit.analysis.question import Question, ask, scaled
from videovit.errors import UserError
from videovit.models.contract import VideoModel

Triple = tuple[int, int, int]


def occlusion(
    model: VideoModel,
    x: Tensor,
    classes: Tensor,
    boxes_R5: Tensor | None = None,
    *,
    tube: Triple | None = None,
    stride: Triple | None = None,
    fill: float = 0.0,
    batch_size: int = 16,
    scale: bool = True,
) -> Tensor:
    """Heat map by covering one tube of the clip after the other.

        heat of a pixel = max(0, mean over the tubes that cover it of score(clip) - score(covered clip))

    Args:
        model, x, classes, boxes_R5: see `ask`.
        tube: frames, rows and columns of a tube; None for a quarter of the clip along each axis.
        stride: between tubes; None for a whole tube in time and half a tube in space. The last tube of an
            axis ends where the clip does.
        fill: what covers a tube, in units of the normalized input; 0 is the mean color of the data set.
        batch_size: covered clips that go through the model at once.
        scale: divide by the highest value of each clip; otherwise heat is in units of the logit.

    Returns:
        (B, T, H, W), from 0 to 1; of a detector one map per box.

    Raises:
        UserError: see `ask`; or tubes that leave gaps, or do not fit into the clip.

    Source: Zeiler and Fergus (arXiv 1311.2901), section 4.2, for images.
    """
    question = ask(model, x, classes, boxes_R5)
    starts, tube = _tubes(question.size, tube, stride)
    boxes = list(product(*starts))
    sums_BTHW = x.new_zeros(len(question.x_BCTHW), *question.size)
    counts_THW = x.new_zeros(question.size)
    with torch.no_grad():
        scores_B = question.scores(question.x_BCTHW)
        for i in range(len(scores_B)):
            for first in range(0, len(boxes), batch_size):
                group = boxes[first : first + batch_size]
                drops = scores_B[i] - _covered_scores(question, i, group, tube, fill)
                for start, drop in zip(group, drops, strict=True):
                    sums_BTHW[i][_place(start, tube)] += drop
        for start in boxes:
            counts_THW[_place(start, tube)] += 1
    heat_BTHW = sums_BTHW / counts_THW
    return scaled(heat_BTHW) if scale else heat_BTHW.clamp(min=0)


def _tubes(size: Triple, tube: Triple | None, stride: Triple | None) -> tuple[list[list[int]], Triple]:
    """First frame, row and column of all tubes along each axis, and their size."""
    t, h, w = (max(1, n // 4) for n in size)
    tube = (t, h, w) if tube is None else tube
    stride = (tube[0], max(1, tube[1] // 2), max(1, tube[2] // 2)) if stride is None else stride
    if not all(1 <= step <= length <= side for step, length, side in zip(stride, tube, size, strict=True)):
        raise UserError(
            f"a tube of {tube} every {stride} (frames, rows, columns)",
            where="occlusion",
            expected=f"1 <= stride <= tube <= {size}, the size of the clip",
        )
    axes = zip(size, tube, stride, strict=True)
    return [sorted({*range(0, side - length, step), side - length}) for side, length, step in axes], tube


def _place(start: Sequence[int], tube: Triple) -> tuple[slice, ...]:
    return tuple(slice(first, first + length) for first, length in zip(start, tube, strict=True))


def _covered_scores(question: Question, i: int, starts: Sequence[Sequence[int]], tube: Triple, fill: float) -> Tensor:
    """Scores of clip i with one tube covered at a time."""
    number = len(starts)
    x_NCTHW = question.x_BCTHW[i].expand(number, -1, -1, -1, -1).clone()
    for covered_CTHW, start in zip(x_NCTHW, starts, strict=True):
        covered_CTHW[(slice(None), *_place(start, tube))] = fill
    box_N5 = None
    if question.boxes_B5 is not None:
        box_N5 = question.boxes_B5[i].repeat(number, 1)
        box_N5[:, 0] = torch.arange(number, device=box_N5.device)
    return Question(question.model, x_NCTHW, question.classes_B[i].repeat(number), box_N5).scores(x_NCTHW)
