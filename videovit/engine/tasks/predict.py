"""Prediction: the classes of any video file, without a list, in constant memory.

Frames, crops and the ensemble of scores are those of the test of TEST.DATASET, except that clips lie back to back over
the whole video, where the test takes a fixed number of them:

    kinetics    windows of NUM_FRAMES * SAMPLING_RATE frames, mean of softmax scores
    charades    windows of frames SAMPLING_RATE apart, highest sigmoid score per class
    ssv2        one clip of the whole video
    imagenet    one image; of a folder, each of its images
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from videovit.config import Config
from videovit.data.build import build_decode_options
from videovit.data.catalog import find_dataset
from videovit.data.clock import clock_of
from videovit.data.decode import open_video
from videovit.data.decode.image_backend import SUFFIXES, images_in
from videovit.data.files.folders import VIDEO_SUFFIXES, files_below
from videovit.data.transforms.pipeline import build_eval_transform, build_image_eval_transform
from videovit.engine.checkpoints.weights import test_dtype
from videovit.engine.evaluation.inference import Inference
from videovit.engine.problem import Problem
from videovit.engine.reporting.log import format_table
from videovit.engine.reporting.progress import Progress
from videovit.errors import UserError
from videovit.messages import printable
from videovit.models.contract import VideoModel

Join = Callable[[Tensor], Tensor]
JOINS: dict[str, tuple[Join, str]] = {
    "sum": (lambda scores_VK: scores_VK.mean(dim=0), "mean score"),
    "max": (lambda scores_VK: scores_VK.amax(dim=0), "highest score of each class"),
}
"""DATA.ENSEMBLE_METHOD -> what joins the scores of V views, (V, K) to (K,), and its description."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The best classes of a whole video, and of each of its windows.

    Attributes:
        path: of the video.
        top: (class name, score), best first; scores of the windows are joined by DATA.ENSEMBLE_METHOD.
        windows: (start_s, end_s, top) of each window, in seconds of player time.
        views: number of views, and how their scores were joined.
    """

    path: str
    top: list[tuple[str, float]]
    windows: list[tuple[float, float, list[tuple[str, float]]]]
    views: str = ""

    def as_dict(self) -> dict[str, object]:
        """As the JSON file has it."""
        return {
            "path": self.path,
            "views": self.views,
            "top": [{"class": name, "score": score} for name, score in self.top],
            "windows": [
                {"start_s": a, "end_s": b, "top": [{"class": n, "score": s} for n, s in top]}
                for a, b, top in self.windows
            ],
        }


def window_starts(num_frames: int, clip_size: float, stride: float) -> list[float]:
    """First frames of windows that cover a video; the last window ends where the video does.

        frames   0 . . . . . . . . . 9      clip_size 4, stride 4
        windows  [0 - 3] [4 - 7]
                             [6 - 9]

    Args:
        num_frames: length of the video.
        clip_size: span of a window in frames.
        stride: distance between the starts of two windows in frames.

    Returns:
        At least one start; for a video shorter than a window, 0.
    """
    last = max(num_frames - clip_size, 0.0)
    starts = [i * stride for i in range(int(last // stride) + 1)]
    return starts if last - starts[-1] < 1.0 else [*starts, last]


def list_inputs(cfg: Config, names: Sequence[str]) -> list[str]:
    """Expand folders: a folder is a video of frames, or all videos below it; for a model of images, all its images.

    Raises:
        UserError: a folder holds nothing to predict, or the model is a detector.
    """
    if cfg.DETECTION.ENABLE:
        raise UserError(
            "prediction classifies whole videos, but a detector needs the boxes of people",
            where="DETECTION.ENABLE",
            hint="List them in a file of proposals (AVA.TEST_PREDICT_BOX_LISTS) and run the test, which writes "
            "detections.csv",
        )
    of_images = find_dataset(cfg.TEST.DATASET).images
    found: list[str] = []
    for name in names:
        if not Path(name).is_dir():
            inside = [name]
        elif of_images:
            inside = files_below(name, SUFFIXES)
        else:
            inside = [name] if images_in(name) else files_below(name, VIDEO_SUFFIXES)
        if not inside:
            other = f", and TEST.DATASET {cfg.TEST.DATASET} is about images" if of_images else " and without videos"
            raise UserError(f"a folder without images{other}", where=name)
        found += inside
    return found


class Predictor:
    """Predicts the classes of videos, one after the other.

    Args:
        cfg: the config that the model was trained with.
        model: trained; on `device`.
        device: where it runs.

    Raises:
        AnnotationError: the file of class names cannot be used.
    """

    def __init__(self, cfg: Config, model: VideoModel, device: torch.device) -> None:
        problem = Problem(cfg)
        spec = find_dataset(cfg.TEST.DATASET)
        self._names, self._activation = problem.class_names, problem.activation
        self._plan = spec.plan(cfg, "test")
        self._num_crops = 1 if spec.images else cfg.TEST.NUM_SPATIAL_CROPS
        self._crop = build_image_eval_transform(cfg) if spec.images else build_eval_transform(cfg, self._num_crops)
        self._join, self._join_name = JOINS[cfg.DATA.ENSEMBLE_METHOD]
        self._inference = Inference(model, problem.preparation, device, dtype=test_dtype(cfg))
        self._top_k, self._stride_s = min(cfg.PREDICT.TOP_K, cfg.MODEL.NUM_CLASSES), cfg.PREDICT.WINDOW_STRIDE_S
        # PyAV holds one window; decord reads ahead through the whole file (1.4 GB for one frame of a 30-minute movie).
        self._backend = "image" if spec.images else "pyav"
        # A movie may take as long as it needs, window by window.
        self._decoding = dataclasses.replace(build_decode_options(cfg), each_request=True)

    def predict(self, path: str, *, quiet: bool = False) -> Prediction:
        """Score all windows of a video and join them; one window is in memory at a time, however long the video.

        Args:
            path: a video file, a folder of frames, or an image.
            quiet: show no progress bar.

        Raises:
            DecodeError: the file cannot be read.
            UserError: the scores are not finite.
        """
        windows: list[tuple[float, float, list[tuple[str, float]]]] = []
        scores_WK: list[Tensor] = []
        with open_video(path, self._backend, self._decoding) as video, self._inference.mode():
            clock = clock_of(video, self._plan.target_fps)
            clip_size = self._plan.span(clock.num_ticks, clock.rate)
            starts = window_starts(clock.num_ticks, clip_size, self._stride_s * clock.rate or clip_size)
            progress = Progress(Path(path).name, len(starts), quiet=quiet)
            for _, start in progress.over(starts):
                ticks_T = self._plan.window(start, clock.num_ticks, clock.rate)
                frames_THWC = video.frames(clock.frames(ticks_T))
                clips_VTSSC = torch.stack(self._crop(frames_THWC))
                logits_VK = self._inference.model(self._inference.prepared(clips_VTSSC))
                scores_K = self._join(self._activation(logits_VK)).cpu()
                if not torch.isfinite(scores_K).all():
                    raise UserError("the model's scores are not finite: are the weights broken?", where=path)
                scores_WK.append(scores_K)
                end = min(start + clip_size, clock.num_ticks)
                windows.append((clock.time_s(start), clock.time_s(end), self._top(scores_K)))
                progress.count(1)
        views = f"{len(windows)} windows x {self._num_crops} crops, {self._join_name}"
        return Prediction(path, self._top(self._join(torch.stack(scores_WK))), windows, views)

    def _top(self, scores_K: Tensor) -> list[tuple[str, float]]:
        values, indices = scores_K.topk(self._top_k)
        return [(self._names[i], v) for i, v in zip(indices.tolist(), values.tolist(), strict=True)]


def format_prediction(prediction: Prediction, *, in_percent: bool = True) -> str:
    """Format a table for one video.

    Args:
        prediction: of the video.
        in_percent: whether scores are shares of 1, rather than logits (MODEL.HEAD_ACT none).
    """
    rows = [[name, f"{100 * score:.1f}" if in_percent else f"{score:.2f}"] for name, score in prediction.top]
    header = ["class", "score %" if in_percent else "logit"]
    return f"{printable(prediction.path)}  ({prediction.views})\n" + format_table(header, rows)
