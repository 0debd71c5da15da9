"""Explanation of a detector: where and when it sees a class of one person.

A person is a box at a moment. The clip around that moment is explained, as it would be scored in the test on AVA.

T frames of the clip, S side of the crop, K classes.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from videovit.analysis.explain import DEFAULT_METHOD, find_method
from videovit.config import Config
from videovit.data.clock import clock_of
from videovit.data.decode import Video, open_video
from videovit.data.decode.array import open_array
from videovit.data.transforms.boxes import has_area
from videovit.engine.tasks.explain import Explanation, check_class, on_one_scale
from videovit.engine.tasks.labels import Corners
from videovit.engine.tasks.people import BoxPredictor
from videovit.engine.tasks.predict import Input
from videovit.errors import UserError
from videovit.messages import Plain
from videovit.models.contract import VideoModel


def explain_box(
    predictor: BoxPredictor,
    model: VideoModel,
    video: Input,
    box: Corners,
    class_name: str | None = None,
    *,
    time_s: float | None = None,
    method: str = DEFAULT_METHOD,
    fps: float = 0.0,
) -> Explanation:
    """Explain why a detector sees a class of a person.

    Args:
        predictor: of the model.
        model: in full precision.
        video: a file, a folder of frames, or frames in memory, uint8 (T, H, W, 3).
        box: x1, y1, x2, y2 of the person as fractions of the frame.
        class_name: None for the class with the highest score.
        time_s: when the person is there, in seconds of player time; None for the middle of the video.
        method: a name of `METHODS`.
        fps: frame rate of frames in memory.

    Raises:
        DecodeError: the video cannot be read.
        UserError: there is no such class, method, box or moment.
    """
    heat_of = find_method(method)
    check_class(class_name, list(predictor.names.values()))
    check_box(box)
    with _open(video, fps, predictor) as opened:
        name = str(video) if isinstance(video, str) else "array"
        length_s = opened.num_frames / opened.fps
        moment_s = length_s / 2 if time_s is None else time_s - opened.start_s
        if not 0 <= moment_s <= length_s:
            first, last = opened.start_s, opened.start_s + length_s
            raise UserError(
                "the moment is not in the video", where=name, found=time_s, expected=f"{first:g} to {last:g} s"
            )
        plan = predictor.plan
        (indices_T,) = plan.at(plan.start_s + moment_s, opened.num_frames, opened.fps, opened.knots)
        shown, places_T = np.unique(indices_T, return_inverse=True)
        frames_THWC = opened.frames(shown)[torch.from_numpy(places_T)]
        clock = clock_of(opened, None)
        times = [
            clock.time_s(i) if opened.knots is None else float(np.interp(i, *opened.knots)) for i in shown.tolist()
        ]
    frames_TSSC, boxes_15 = predictor.placed(frames_THWC, [box])
    if not has_area(boxes_15[:, 1:]).all():
        raise UserError("the box is outside of the crop that the model sees", where=name, found=Plain(str(box)))
    scores_K = predictor.scores(frames_THWC, [box])[0][0]
    columns = list(predictor.names)
    if class_name is None:
        column = columns[int(scores_K[columns].argmax())]
    else:
        column = next(k for k, known in predictor.names.items() if known == class_name)
    x_1CTSS = predictor.prepared(frames_TSSC)
    heat_TSS = heat_of(model, x_1CTSS, torch.tensor([column]), boxes_15.to(x_1CTSS.device), scale=False)[0].cpu()
    # At the ends of a video, a clip repeats its first or last frame: each is shown once, as it came first.
    first_F = [int(np.flatnonzero(places_T == place)[0]) for place in range(len(shown))]
    x1, y1, x2, y2 = boxes_15[0, 1:].tolist()
    return Explanation(
        name,
        predictor.names[column],
        float(scores_K[column]),
        method,
        times,
        frames_TSSC.numpy()[first_F],
        on_one_scale([heat_TSS.numpy()[i] for i in first_F]),
        max(len(shown) / opened.fps, times[-1] - times[0] + 1 / opened.fps),
        (x1, y1, x2, y2),
    )


def check_person(cfg: Config, box: Corners | None, time_s: float | None) -> None:
    """Check that a person is named for a detector, and for no other model.

    Raises:
        UserError: it is not so.
    """
    if cfg.DETECTION.ENABLE and box is None:
        raise UserError("a detector explains one person: which box?", where="box")
    if not cfg.DETECTION.ENABLE and (box is not None or time_s is not None):
        raise UserError("this model classifies whole videos", where="time" if box is None else "box")


def check_box(box: Corners) -> None:
    """Check the corners of a box.

    Raises:
        UserError: they are not four increasing fractions.
    """
    numbers = len(box) == 4 and all(isinstance(value, int | float) and math.isfinite(value) for value in box)
    if not numbers or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise UserError(
            where="box",
            found=Plain(str(tuple(box))),
            expected="x1, y1, x2, y2 as fractions of the frame, x1 < x2, y1 < y2",
        )


def _open(video: Input, fps: float, predictor: BoxPredictor) -> Video:
    if isinstance(video, str):
        return open_video(video, "pyav", predictor.decoding)
    if not isinstance(video, np.ndarray | torch.Tensor):
        return open_video(str(video), "pyav", predictor.decoding)
    if not fps:
        raise UserError("the frame rate of frames in memory is missing: fps=25, for example", where="array")
    return open_array(video, fps, name="array")
