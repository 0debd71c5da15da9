"""What is in this video: a trained model on any video file, without a list, in constant memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from videovit.config import Config
from videovit.config.errors import UserError
from videovit.data.build import build_decode_options
from videovit.data.catalog import find_dataset, read_names
from videovit.data.decode import open_video
from videovit.data.sampling import span_indices
from videovit.data.transforms.pipeline import build_eval_transform, build_image_eval_transform, build_preparation
from videovit.engine.log import Progress, format_table
from videovit.engine.loops import autocast
from videovit.engine.metrics import NonFiniteScoresError
from videovit.engine.parts import test_dtype
from videovit.engine.sinks import ACTIVATIONS


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The best classes of a whole video, and of each of its windows.

    Attributes:
        top: (class name, score) from the best on; scores of the windows averaged.
        windows: (start_s, end_s, top) of each window, in seconds.
    """

    path: str
    top: list[tuple[str, float]]
    windows: list[tuple[float, float, list[tuple[str, float]]]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": self.path,
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


def predict_video(cfg: Config, model: nn.Module, path: str, device: torch.device, *, quiet: bool = False) -> Prediction:
    """Slide over a video and average the scores of all windows.

    The frames of one window are in memory at a time, however long the video.

    Args:
        model: in eval mode, on `device`.
        path: a video file.
        quiet: no progress bar.

    Raises:
        DecodeError: the file cannot be read.
        UserError: the model is a detector.
    """
    if cfg.DETECTION.ENABLE:
        raise UserError(
            "DETECTION.ENABLE: prediction names what a whole video shows; a detector needs the boxes of people. List "
            "them in a file of proposals (AVA.TEST_PREDICT_BOX_LISTS) and run the test, which writes detections.csv"
        )
    names = read_names(cfg)
    images = find_dataset(cfg.TEST.DATASET).images
    backend = "image" if images else "pyav"
    transform = build_image_eval_transform(cfg) if images else build_eval_transform(cfg, num_crops=1)
    prepare = build_preparation(cfg, train=False)
    score = ACTIVATIONS[cfg.MODEL.HEAD_ACT]
    top_k = min(cfg.PREDICT.TOP_K, cfg.MODEL.NUM_CLASSES)
    windows: list[tuple[float, float, list[tuple[str, float]]]] = []
    total_K = torch.zeros(cfg.MODEL.NUM_CLASSES)
    # PyAV holds one window; decord reads ahead through the whole file (1.4 GB for one frame of a 30-minute movie).
    # The time limit is for data sets: a movie takes as long as it is, one window after the other.
    decoding = dataclasses.replace(build_decode_options(cfg), timeout_s=0.0)
    with open_video(path, backend, decoding) as video, torch.inference_mode(), autocast(device, test_dtype(cfg)):
        clip_size = cfg.DATA.SAMPLING_RATE * cfg.DATA.NUM_FRAMES / cfg.DATA.TARGET_FPS * video.fps
        stride = cfg.PREDICT.WINDOW_STRIDE_S * video.fps or clip_size
        starts = window_starts(video.num_frames, clip_size, stride)
        progress = Progress(Path(path).name, len(starts), quiet=quiet)
        for _, start in progress.over(starts):
            indices = span_indices(
                video.num_frames,
                video.fps,
                num_sampled=cfg.DATA.NUM_FRAMES,
                stride=cfg.DATA.SAMPLING_RATE,
                target_fps=cfg.DATA.TARGET_FPS,
                start=start,
            )
            (clip_TSSC,) = transform(video.frames(indices))
            scores_K = score(model(prepare(clip_TSSC[None].to(device), None)))[0].cpu()
            if not torch.isfinite(scores_K).all():
                raise NonFiniteScoresError(f"{path}: the model's scores are not finite; are the weights broken?")
            total_K += scores_K
            end = min(start + clip_size, video.num_frames)
            windows.append((start / video.fps, end / video.fps, _top(scores_K, names, top_k)))
            progress.count(1)
    return Prediction(path, _top(total_K / len(windows), names, top_k), windows)


def _top(scores_K: torch.Tensor, names: Sequence[str], k: int) -> list[tuple[str, float]]:
    values, indices = scores_K.topk(k)
    return [(names[i], v) for i, v in zip(indices.tolist(), values.tolist(), strict=True)]


def format_prediction(prediction: Prediction) -> str:
    """The table that is printed for one video."""
    rows = [[name, f"{100 * score:.1f}"] for name, score in prediction.top]
    return f"{prediction.path}  ({len(prediction.windows)} windows)\n" + format_table(["class", "score %"], rows)
