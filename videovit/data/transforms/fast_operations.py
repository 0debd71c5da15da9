"""RandAugment's operations on whole clips at once: PIL's arithmetic, vectorized.

Every operation gives the same result as PIL, frame by frame, up to one level of 255 in a few values (the differences
are listed in `docs/augmentation.md`), with less work:

- what all frames share (coordinates, weights, tables) is computed once per clip;
- only the pixels in the following crop are computed. Going backwards through the operations gives the pixels that each
  of them needs: a table needs the same pixels, a blur one more on each side, a rotation those under the rotated window,
  a histogram all of them.

Legend: T frames, H W pixels of the frame, h w pixels of a window, C channels (3), N pixels of a window, K taps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from videovit.data.transforms.pil_operations import Step
from videovit.data.transforms.spatial import Box

Frames = NDArray[np.uint8]
Matrix = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): (x, y) comes from (a x + b y + c, d x + e y + f); the center of the first pixel is (0.5, 0.5)."""

# PIL truncates where OpenCV rounds. Slightly less than one half leaves room for the rounding errors of float32.
_TRUNCATE = -0.4999
_TILE = 128  # pixels; side of the square tiles in which frames are resampled


def apply_steps(frames_THWC: Tensor, plan: Sequence[Step], window: Box) -> Tensor:
    """Apply operations to a clip and cut a window out of the result.

    Args:
        frames_THWC: uint8 (T, H, W, 3).
        plan: the operations in order.
        window: part of the result to return.

    Returns:
        uint8 (T, h, w, 3); a view of `frames_THWC` if the plan is empty.
    """
    height, width = frames_THWC.shape[1:3]
    # Backwards from the crop: the pixels that each operation needs are what the one before must produce.
    windows = [window]
    for step in reversed(plan):
        windows.append(_source_window(step, windows[-1], height, width))
    windows.reverse()
    frames = _cut(frames_THWC.numpy(), windows[0], Box(0, 0, height, width))
    for step, have, want in zip(plan, windows, windows[1:], strict=False):
        if step.name in _MATRICES:
            frames = _move(frames, step, have, want, height, width)
        elif step.name in _TABLES:
            frames = _look_up(frames, _TABLES[step.name](step.argument))
        elif step.name in _FRAME_TABLES:
            tables = _FRAME_TABLES[step.name](frames, step.argument)
            frames = _look_up_each(_cut(frames, want, have), tables)
        else:
            frames = _cut(_BLENDS[step.name](frames, step.argument), want, have)
    return torch.from_numpy(frames)


def _source_window(step: Step, want: Box, height: int, width: int) -> Box:
    if step.name in _FRAME_TABLES:
        # A histogram counts all pixels.
        return Box(0, 0, height, width)
    if step.name == "Sharpness":
        right, bottom = want.left + want.width, want.top + want.height
        # The kernel of 3 x 3 pixels reaches one beyond the window.
        return _limit(want.left - 1, want.top - 1, right + 1, bottom + 1, height, width)
    if step.name not in _MATRICES:
        return want
    a, b, c, d, e, f = _MATRICES[step.name](step.argument, height, width)
    corners = [
        (x, y)
        for x in (want.left + 0.5, want.left + want.width - 0.5)
        for y in (want.top + 0.5, want.top + want.height - 0.5)
    ]
    xs, ys = [a * x + b * y + c for x, y in corners], [d * x + e * y + f for x, y in corners]
    # Three more on each side: the widest kernel reaches two pixels beyond the one left of the position.
    left, top = math.floor(min(xs)) - 3, math.floor(min(ys)) - 3
    return _limit(left, top, math.ceil(max(xs)) + 3, math.ceil(max(ys)) + 3, height, width)


def _limit(left: int, top: int, right: int, bottom: int, height: int, width: int) -> Box:
    """The part inside the frame, at least one pixel."""
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    right, bottom = min(max(right, left + 1), width), min(max(bottom, top + 1), height)
    return Box(top, left, bottom - top, right - left)


def _cut(frames: Frames, want: Box, have: Box) -> Frames:
    top, left = want.top - have.top, want.left - have.left
    return frames[:, top : top + want.height, left : left + want.width]


def _flat(frames: Frames) -> Frames:
    """All frames below each other, as one image (T * h, w, 3)."""
    # OpenCV takes single images; one call for all frames saves its overhead.
    return np.ascontiguousarray(frames).reshape(-1, *frames.shape[2:])


# ------------------------------------------------------------------------------------------------ moving pixels


def _turn(degrees: float, height: int, width: int) -> Matrix:
    # The matrix maps output to input, so it is the inverse rotation, about the center of the frame.
    angle = -math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


_MATRICES: dict[str, Callable[[float, int, int], Matrix]] = {
    "Rotate": _turn,
    "ShearX": lambda slope, height, width: (1, slope, 0, 0, 1, 0),
    "ShearY": lambda slope, height, width: (1, 0, 0, slope, 1, 0),
    "TranslateXRel": lambda share, height, width: (1, 0, share * width, 0, 1, 0),
    "TranslateYRel": lambda share, height, width: (1, 0, 0, 0, 1, share * height),
}


def _move(frames: Frames, step: Step, have: Box, want: Box, height: int, width: int) -> Frames:
    """Resample all frames at the same positions, tile by tile, which bounds the working memory for any frame size."""
    # The working memory of a tile is K places, weights and float copies of all its pixels.
    moved = np.empty((len(frames), want.height, want.width, 3), np.uint8)
    bottom, right = want.top + want.height, want.left + want.width
    for top in range(want.top, bottom, _TILE):
        for left in range(want.left, right, _TILE):
            tile = Box(top, left, min(_TILE, bottom - top), min(_TILE, right - left))
            source = _source_window(step, tile, height, width)
            _cut(moved, tile, want)[:] = _move_tile(_cut(frames, source, have), step, source, tile, height, width)
    return moved


def _move_tile(frames: Frames, step: Step, have: Box, want: Box, height: int, width: int) -> Frames:
    """Resample one tile: weighted sums over K pixels, for the 3 T values of all frames at a time."""
    a, b, c, d, e, f = _MATRICES[step.name](step.argument, height, width)
    # Centers of the pixels.
    x = want.left + 0.5 + np.arange(want.width)[None]
    y = want.top + 0.5 + np.arange(want.height)[:, None]
    x_N, y_N = (a * x + b * y + c).ravel(), (d * x + e * y + f).ravel()
    columns_KN, weights_x_KN = _taps(x_N, width, step.resample)
    rows_KN, weights_y_KN = _taps(y_N, height, step.resample)
    # Flat indices into the tile. The kernel is separable, so its weights are products.
    places = (rows_KN - have.top)[:, None] * have.width + (columns_KN - have.left)[None]
    weights = weights_y_KN[:, None] * weights_x_KN[None]
    num_frames = len(frames)
    # Pixels as rows, so that the values of all frames at a place are adjacent in memory.
    by_pixel = cv2.transpose(np.ascontiguousarray(frames).reshape(num_frames, -1))  # (h * w * 3, T)
    # A gather and weighted sum in one pass over memory.
    moved = F.embedding_bag(
        torch.from_numpy(cv2.transpose(places.reshape(-1, x_N.size))),
        torch.from_numpy(by_pixel).reshape(-1, 3 * num_frames).float(),
        per_sample_weights=torch.from_numpy(cv2.transpose(weights.reshape(-1, x_N.size))),
        mode="sum",
    )
    # Rounded and kept within 0..255.
    levels = np.asarray(cv2.add(moved.numpy(), _TRUNCATE, dtype=cv2.CV_8U), np.uint8)  # type: ignore[call-overload]
    # PIL fills every position outside the frame, whatever its kernel would reach.
    levels[(x_N < 0) | (x_N >= width) | (y_N < 0) | (y_N >= height)] = np.repeat(step.fill, num_frames)
    by_frame = np.asarray(cv2.transpose(levels.reshape(-1, num_frames)), np.uint8)
    return by_frame.reshape(num_frames, want.height, want.width, 3)


def _taps(
    position_N: NDArray[np.float64], length: int, resample: Image.Resampling
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Pixels of a row or column that contribute to a position, and their weights.

    Beyond the border the nearest pixel is used. PIL's bicubic kernel has a = -1 (OpenCV's and torch's have -0.75).

    Returns:
        int32 (K, N) pixels in 0..length-1, float32 (K, N) weights that sum to 1.
    """
    if resample != Image.Resampling.NEAREST:
        # From coordinates of edges to coordinates of centers.
        position_N = position_N - 0.5
    first_N = np.floor(position_N)
    t = (position_N - first_N).astype(np.float32)
    first = first_N.astype(np.int32)
    # At integer positions, the kernels reduce to a single pixel.
    if resample == Image.Resampling.NEAREST or not t.any():
        offsets, weights = [0], [np.ones_like(t)]
    elif resample == Image.Resampling.BILINEAR:
        offsets, weights = [0, 1], [1 - t, t]
    else:
        t2, t3 = t * t, t * t * t
        offsets, weights = [-1, 0, 1, 2], [2 * t2 - t - t3, 1 - 2 * t2 + t3, t + t2 - t3, t3 - t2]
    places = np.stack([np.clip(first + offset, 0, length - 1) for offset in offsets])
    return places, np.stack(weights)


# --------------------------------------------------------------------------------------- levels through tables

_LEVELS = np.arange(256)


def _as_table(levels: NDArray[np.floating] | NDArray[np.integer]) -> Frames:
    return np.asarray(np.clip(levels, 0, 255), np.uint8)  # truncates fractions


def _blend_table(background: float, factor: float) -> Frames:
    return _as_table(np.float32(background) + np.float32(factor) * (_LEVELS - background).astype(np.float32))


_TABLES: dict[str, Callable[[float], Frames]] = {
    "Invert": lambda _: _as_table(255 - _LEVELS),
    "Posterize": lambda num_bits: _as_table(_LEVELS & (256 - 2 ** (8 - int(num_bits)))),
    "Solarize": lambda threshold: _as_table(np.where(int(threshold) > _LEVELS, _LEVELS, 255 - _LEVELS)),
    "SolarizeAdd": lambda amount: _as_table(np.where(_LEVELS < 128, _LEVELS + int(amount), _LEVELS)),
    "Brightness": lambda factor: _blend_table(0, factor),
}


def _look_up(frames: Frames, table: Frames) -> Frames:
    flat = _flat(frames)
    return np.asarray(cv2.LUT(flat.reshape(len(flat), -1), table), np.uint8).reshape(frames.shape)


def _look_up_each(frames: Frames, tables: list[Frames]) -> Frames:
    out = np.empty(frames.shape, np.uint8)
    for frame, table, place in zip(frames, tables, out, strict=True):
        # Every frame has its own table, because its histogram is its own.
        cv2.LUT(np.ascontiguousarray(frame), table, dst=place)
    return out


def _stretch(counts: NDArray[np.integer]) -> Frames:
    """AutoContrast: the darkest level becomes 0, the brightest 255."""
    present = np.flatnonzero(counts)
    low, high = int(present[0]), int(present[-1])
    # A frame of a single level cannot be stretched.
    if high <= low:
        return _as_table(_LEVELS)
    scale = 255.0 / (high - low)
    return _as_table(_LEVELS * scale - low * scale)


def _flatten(counts: NDArray[np.integer]) -> Frames:
    """Equalize: about as many pixels at every level."""
    present = counts[counts > 0]
    # The published arithmetic of PIL, without the last level.
    step = int(present.sum() - present[-1]) // 255
    if len(present) <= 1 or step == 0:
        return _as_table(_LEVELS)
    return _as_table((step // 2 + np.cumsum(counts) - counts) // step)


def _by_histogram(frames: Frames, table: Callable[[NDArray[np.integer]], Frames]) -> list[Frames]:
    def count(frame: Frames, channel: int) -> NDArray[np.integer]:
        return cv2.calcHist([frame], [channel], None, [256], [0, 256]).ravel().astype(np.int64)

    full = np.ascontiguousarray(frames)
    return [np.stack([table(count(frame, channel)) for channel in range(3)], axis=-1)[None] for frame in full]


def _contrast_tables(frames: Frames, factor: float) -> list[Frames]:
    # PIL blends with the mean gray of each frame, rounded.
    return [_blend_table(int(gray.mean() + 0.5), factor) for gray in _gray(frames)]


_FRAME_TABLES: dict[str, Callable[[Frames, float], list[Frames]]] = {
    "AutoContrast": lambda frames, _: _by_histogram(frames, _stretch),
    "Equalize": lambda frames, _: _by_histogram(frames, _flatten),
    "Contrast": _contrast_tables,
}


# --------------------------------------------------------------------------------- blends with another picture


def _gray(frames: Frames) -> Frames:
    return np.asarray(cv2.cvtColor(_flat(frames), cv2.COLOR_RGB2GRAY), np.uint8).reshape(frames.shape[:3])


def _blend(background: Frames, flat: Frames, factor: float) -> Frames:
    """Interpolate: `background` at factor 0, `flat` at 1; extrapolate above 1."""
    return np.asarray(cv2.addWeighted(flat, factor, background, 1.0 - factor, _TRUNCATE), np.uint8)


def _color(frames: Frames, factor: float) -> Frames:
    flat = _flat(frames)
    gray = np.asarray(cv2.cvtColor(_gray(frames).reshape(flat.shape[:2]), cv2.COLOR_GRAY2RGB), np.uint8)
    return _blend(gray, flat, factor).reshape(frames.shape)


def _sharpness(frames: Frames, factor: float) -> Frames:
    flat = _flat(frames)
    kernel = np.ones((3, 3), np.float32)
    # PIL's smoothing kernel.
    kernel[1, 1] = 5
    smooth = np.asarray(cv2.filter2D(flat, -1, kernel / 13), np.uint8).reshape(frames.shape)
    own = flat.reshape(frames.shape)
    for edge in (0, -1):  # PIL does not filter the outermost pixels
        smooth[:, edge] = own[:, edge]
        smooth[:, :, edge] = own[:, :, edge]
    return _blend(_flat(smooth), flat, factor).reshape(frames.shape)


_BLENDS: dict[str, Callable[[Frames, float], Frames]] = {"Color": _color, "Sharpness": _sharpness}
