"""Corruptions that video meets, in five severities: what a camera, a codec and a connection do to a clip.

Every corruption is a function of (frames, severity, rng) and depends on nothing else. A new one is a function and a row
in `CORRUPTIONS`.

T frames, H W pixels, C channels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import av
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

SEVERITIES = (1, 2, 3, 4, 5)
SIDE = 224  # pixels; the size of frames that the blur is given for

NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation; pixels are from 0 to 1
BLUR = (1.0, 2.0, 3.0, 4.0, 6.0)  # standard deviation in pixels of a frame of SIDE
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)  # added to the value (HSV)
CRF = (23, 30, 37, 44, 51)  # x264's constant rate factor; 51 is the worst
LOST = (0.125, 0.25, 0.375, 0.5, 0.75)  # share of the frames


def noise(frames_THWC: Tensor, severity: int, rng: np.random.Generator) -> Tensor:
    """Gaussian noise in every pixel."""
    noise_THWC = torch.from_numpy(rng.standard_normal(tuple(frames_THWC.shape), dtype=np.float32))
    return _as_bytes(frames_THWC / 255 + NOISE[severity - 1] * noise_THWC.to(frames_THWC.device))


def blur(frames_THWC: Tensor, severity: int, rng: np.random.Generator) -> Tensor:
    """Gaussian blur, as wide relative to the frame whatever its size."""
    short_side = min(frames_THWC.shape[1:3])
    sigma = BLUR[severity - 1] * short_side / SIDE
    radius = min(math.ceil(3 * sigma), short_side - 1)  # reflected pixels are those of the frame
    blurred_TCHW: Tensor = gaussian_blur(frames_THWC.permute(0, 3, 1, 2), [2 * radius + 1] * 2, [sigma] * 2)
    return blurred_TCHW.permute(0, 2, 3, 1).contiguous()


def brightness(frames_THWC: Tensor, severity: int, rng: np.random.Generator) -> Tensor:
    """More light: a higher value with the same hue and saturation; what is white already stays white."""
    pixels_THWC = frames_THWC / 255
    value_THW1 = pixels_THWC.amax(dim=-1, keepdim=True)
    brighter_THW1 = (value_THW1 + BRIGHTNESS[severity - 1]).clamp(max=1)
    # Black has no hue, and becomes gray.
    return _as_bytes(torch.where(value_THW1 > 0, pixels_THWC * (brighter_THW1 / value_THW1), brighter_THW1))


def h264(frames_THWC: Tensor, severity: int, rng: np.random.Generator) -> Tensor:
    """Encode the clip by x264 and decode it; one frame is coded as a picture."""
    frames = frames_THWC.cpu().numpy()
    height, width = frames.shape[1:3]
    # 4:2:0 needs even sides.
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as written:
        # With mbtree (x264's default), the result also depends on memory that x264 does not initialize.
        options = {"crf": str(CRF[severity - 1]), "x264-params": "threads=1:mbtree=0:log-level=none"}
        stream = written.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = even.shape[1], even.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in even:
            written.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        written.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as read:
        read.streams.video[0].codec_context.thread_count = 1
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in read.decode(video=0)])
    return torch.from_numpy(decoded[:, :height, :width].copy()).to(frames_THWC.device)


def frame_drop(frames_THWC: Tensor, severity: int, rng: np.random.Generator) -> Tensor:
    """Single frames are lost, here and there; each shows the last one before it that is not. The first one arrives."""
    T = len(frames_THWC)
    index_T = np.arange(T)
    lost = 1 + rng.choice(T - 1, size=_num_lost(T, severity), replace=False)
    index_T[lost] = 0
    return frames_THWC[torch.from_numpy(np.maximum.accumulate(index_T))]


def frame_freeze(frames_THWC: Tensor, severity: int, rng: np.random.Generator) -> Tensor:
    """The picture stands still for a part of the clip, and goes on where it would have been."""
    T = len(frames_THWC)
    number = _num_lost(T, severity)
    first = 1 + int(rng.integers(T - number))
    index_T = np.arange(T)
    index_T[first : first + number] = first - 1
    return frames_THWC[torch.from_numpy(index_T)]


def _num_lost(num_frames: int, severity: int) -> int:
    return min(max(1, round(LOST[severity - 1] * num_frames)), num_frames - 1)


def _as_bytes(pixels_THWC: Tensor) -> Tensor:
    return (pixels_THWC * 255).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Corruption:
    """A row of the table.

    Attributes:
        apply: (frames (T, H, W, 3) uint8, severity 1 to 5, rng) -> frames of the same shape.
        levels: what the severities mean.
        in_time: needs at least two frames.
    """

    apply: Callable[[Tensor, int, np.random.Generator], Tensor]
    levels: str
    in_time: bool = False


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption(noise, f"Gaussian, standard deviation {NOISE} of the range of pixels"),
    "blur": Corruption(blur, f"Gaussian, standard deviation {BLUR} pixels if the short side has {SIDE}"),
    "brightness": Corruption(brightness, f"value (HSV) raised by {BRIGHTNESS}"),
    "h264": Corruption(h264, f"x264, constant rate factor {CRF}, preset medium without mbtree"),
    "frame_drop": Corruption(frame_drop, f"shares {LOST} of the frames lost, one by one", in_time=True),
    "frame_freeze": Corruption(frame_freeze, f"shares {LOST} of the frames frozen, in one piece", in_time=True),
}
"""By name. Noise, blur and brightness have the severities of ImageNet-C (arXiv 1903.12261), H.264 those of Kinetics-C
(arXiv 2110.06513); lost frames are this project's."""


def corrupt(name: str, severity: int, frames_THWC: Tensor, seed: Sequence[int]) -> Tensor:
    """Corrupt a clip.

    Args:
        name: a row of `CORRUPTIONS`.
        severity: 1 to 5.
        frames_THWC: uint8 (T, H, W, 3).
        seed: words of the random numbers, such as (seed, index of the video).

    Returns:
        uint8 (T, H, W, 3).
    """
    row = CORRUPTIONS[name]
    number = list(CORRUPTIONS).index(name)
    return row.apply(frames_THWC, severity, np.random.default_rng((*seed, number, severity)))


def mean_corruption_error(
    errors: Mapping[str, Sequence[float]], reference: Mapping[str, Sequence[float]]
) -> tuple[dict[str, float], float]:
    """Errors of a model under corruption relative to those of a reference model.

        CE_c = sum over severities s of E_sc / sum over s of E_sc of the reference          mCE = mean of CE_c over c

    Args:
        errors: corruption -> error per severity, in percent.
        reference: the same of another model, with the same corruptions and severities.

    Returns:
        CE of every corruption, and mCE, in percent; infinite where only the reference makes no errors, and 100 where
        neither does.

    Source: Hendrycks and Dietterich (arXiv 1903.12261), section 4.
    """
    relative = {}
    for name, values in errors.items():
        mine, others = sum(values), sum(reference[name])
        relative[name] = 100 * mine / others if others else (math.inf if mine else 100.0)
    return relative, sum(relative.values()) / len(relative)
