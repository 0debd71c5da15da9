"""What is in this video: a trained model on any video file, without a list, in constant memory.

Frames, crops and the joining of scores are those of the test of TEST.DATASET, but that clips stand back to back over
the whole video where the test takes a fixed number of them:

    kinetics    windows of NUM_FRAMES * SAMPLING_RATE frames, mean of softmax scores
    charades    windows of frames SAMPLING_RATE apart, each class its highest sigmoid score
    ssv2        one clip from the whole video
    imagenet    one image; a folder is each of the images in it
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from videovit.config import Config
from videovit.data.build import build_decode_options
from videovit.data.catalog import find_dataset, read_names
from videovit.data.decode import open_video
from videovit.data.decode.image_backend import SUFFIXES, images_in
from videovit.data.files.folders import VIDEO_SUFFIXES, files_below
from videovit.data.transforms.pipeline import build_eval_transform, build_image_eval_transform, build_preparation
from videovit.engine.checkpoints.weights import test_dtype
from videovit.engine.evaluation.metrics import NonFiniteScoresError
from videovit.engine.evaluation.sinks import ACTIVATIONS
from videovit.engine.reporting.log import Progress, format_table
from videovit.engine.training.step import autocast
from videovit.errors import UserError

Join = Callable[[torch.Tensor], torch.Tensor]
JOINED: dict[str, tuple[Join, str]] = {
    "sum": (lambda scores_VK: scores_VK.mean(dim=0), "mean score"),
    "max": (lambda scores_VK: scores_VK.amax(dim=0), "highest score of each class"),
}
"""DATA.ENSEMBLE_METHOD -> (V views, K) to (K,), and what to call it."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The best classes of a whole video, and of each of its windows.

    Attributes:
        top: (class name, score) from the best on; scores of the windows joined as DATA.ENSEMBLE_METHOD says.
        windows: (start_s, end_s, top) of each window, in seconds.
        views: how many views there were, and how their scores were joined.
    """

    path: str
    top: list[tuple[str, float]]
    windows: list[tuple[float, float, list[tuple[str, float]]]]
    views: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
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
    """First frames of windows that cover a video, the last one ending with it.

        frames   0 . . . . . . . . . 9      clip_size 4, stride 4
        windows  [0 - 3] [4 - 7]
                             [6 - 9]

    Args:
        num_frames: length of the video.
        clip_size: frames from first to last of a window.
        stride: frames from one window's start to the next.

    Returns:
        At least one start; a video shorter than a window has the one start 0.
    """
    last = max(num_frames - clip_size, 0.0)
    starts = [i * stride for i in range(int(last // stride) + 1)]
    return starts if last - starts[-1] < 1.0 else [*starts, last]


def list_inputs(cfg: Config, names: Sequence[str]) -> list[str]:
    """What to predict: a folder is a video of frames, or all videos below it; for a model of images, all images.

    Raises:
        UserError: a folder with nothing to predict; a detector.
    """
    if cfg.DETECTION.ENABLE:
        raise UserError(
            "DETECTION.ENABLE: prediction names what a whole video shows; a detector needs the boxes of people. List "
            "them in a file of proposals (AVA.TEST_PREDICT_BOX_LISTS) and run the test, which writes detections.csv"
        )
    about_images = find_dataset(cfg.TEST.DATASET).images
    found: list[str] = []
    for name in names:
        if not Path(name).is_dir():
            inside = [name]
        elif about_images:
            inside = files_below(name, SUFFIXES)
        else:
            inside = [name] if images_in(name) else files_below(name, VIDEO_SUFFIXES)
        if not inside:
            other = f", and TEST.DATASET {cfg.TEST.DATASET} is about images" if about_images else " and without videos"
            raise UserError(f"{name}: a folder without images{other}")
        found += inside
    return found


def predict_video(cfg: Config, model: nn.Module, path: str, device: torch.device, *, quiet: bool = False) -> Prediction:
    """Score all windows of a video and join them.

    The frames of one window are in memory at a time, however long the video.

    Args:
        model: in eval mode, on `device`.
        path: a video file.
        quiet: no progress bar.

    Raises:
        DecodeError: the file cannot be read.
    """
    names = read_names(cfg)
    spec = find_dataset(cfg.TEST.DATASET)
    plan, num_crops = spec.plan(cfg, "test"), 1 if spec.images else cfg.TEST.NUM_SPATIAL_CROPS
    transform = build_image_eval_transform(cfg) if spec.images else build_eval_transform(cfg, num_crops)
    prepare = build_preparation(cfg, train=False)
    score = ACTIVATIONS[cfg.MODEL.HEAD_ACT]
    top_k = min(cfg.PREDICT.TOP_K, cfg.MODEL.NUM_CLASSES)
    windows: list[tuple[float, float, list[tuple[str, float]]]] = []
    scores_WK: list[torch.Tensor] = []
    join, how = JOINED[cfg.DATA.ENSEMBLE_METHOD]
    # PyAV holds one window; decord reads ahead through the whole file (1.4 GB for one frame of a 30-minute movie).
    # The time limit is for data sets: a movie takes as long as it is, one window after the other.
    decoding = dataclasses.replace(build_decode_options(cfg), timeout_s=0.0)
    backend = "image" if spec.images else "pyav"
    with open_video(path, backend, decoding) as video, torch.inference_mode(), autocast(device, test_dtype(cfg)):
        clip_size = plan.span(video.num_frames, video.fps)
        stride = cfg.PREDICT.WINDOW_STRIDE_S * video.fps or clip_size
        starts = window_starts(video.num_frames, clip_size, stride)
        progress = Progress(Path(path).name, len(starts), quiet=quiet)
        for _, start in progress.over(starts):
            clips_VTSSC = torch.stack(transform(video.frames(plan.window(start, video.num_frames, video.fps))))
            scores_K = join(score(model(prepare(clips_VTSSC.to(device), None))).cpu())
            if not torch.isfinite(scores_K).all():
                raise NonFiniteScoresError(f"{path}: the model's scores are not finite; are the weights broken?")
            scores_WK.append(scores_K)
            end = min(start + clip_size, video.num_frames)
            windows.append((start / video.fps, end / video.fps, _top(scores_K, names, top_k)))
            progress.count(1)
    views = f"{len(windows)} windows x {num_crops} crops, {how}"
    return Prediction(path, _top(join(torch.stack(scores_WK)), names, top_k), windows, views)


def _top(scores_K: torch.Tensor, names: Sequence[str], k: int) -> list[tuple[str, float]]:
    values, indices = scores_K.topk(k)
    return [(names[i], v) for i, v in zip(indices.tolist(), values.tolist(), strict=True)]


def format_prediction(prediction: Prediction, *, in_percent: bool = True) -> str:
    """The table that is printed for one video.

    Args:
        in_percent: the scores are shares of 1; otherwise logits (MODEL.HEAD_ACT none).
    """
    rows = [[name, f"{100 * score:.1f}" if in_percent else f"{score:.2f}"] for name, score in prediction.top]
    header = ["class", "score %" if in_percent else "logit"]
    return f"{prediction.path}  ({prediction.views})\n" + format_table(header, rows)
