"""Frames that are in memory already, as a video."""

from __future__ import annotations

from numbers import Real

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videovit.data.decode.protocol import BaseVideo, Indices
from videovit.errors import UserError
from videovit.messages import Plain

LEAST_FPS, MOST_FPS = 1e-3, 1e6  # from time lapses to the fastest cameras; with less, windows would never end
Frames = Tensor | NDArray[np.uint8]


class ArrayVideo(BaseVideo):
    """A video in memory; see `open_array`."""

    served_by = "array"

    def __init__(self, frames_THWC: Tensor, fps: float) -> None:
        self._frames_THWC = frames_THWC
        self.num_frames, self.fps = len(frames_THWC), fps

    def _decode(self, wanted: Indices) -> Tensor:
        return self._frames_THWC[torch.from_numpy(wanted)]


def open_array(frames_THWC: Frames, fps: float, *, name: str = "array") -> ArrayVideo:
    """Open frames in memory as a video; they are copied only if the memory has an unusual layout.

    Args:
        frames_THWC: uint8 (T, H, W, 3), RGB, upright.
        fps: frames per second.
        name: for messages.

    Raises:
        UserError: another type or shape, or a frame rate that no camera has.
    """
    frames = as_frames(frames_THWC, name)
    if not isinstance(fps, Real) or not LEAST_FPS <= fps <= MOST_FPS:  # nor if it is NaN
        expected = f"frames per second, above 0: {LEAST_FPS:g} to {MOST_FPS:,.0f}"
        raise UserError("the frame rate", where=name, found=fps, expected=expected)
    return ArrayVideo(frames, float(fps))


def as_frames(frames_THWC: Frames, name: str) -> Tensor:
    """An array as a tensor of frames, such as decoders return: uint8 (T, H, W, 3), on the CPU.

    Raises:
        UserError: another type or shape.
    """
    check_frames(frames_THWC, name)
    if isinstance(frames_THWC, Tensor):
        return frames_THWC.cpu()
    # Without negative strides, as of BGR turned into RGB, and writable, which torch insists on.
    return torch.from_numpy(np.require(frames_THWC, requirements=["C", "W"]))


def check_frames(frames_THWC: Frames, name: str) -> None:
    """Check that an array holds frames.

    Raises:
        UserError: another type or shape than uint8 (T, H, W, 3).
    """
    shape, dtype = tuple(frames_THWC.shape), str(frames_THWC.dtype).removeprefix("torch.")
    if isinstance(frames_THWC, Tensor) and (frames_THWC.layout != torch.strided or frames_THWC.is_meta):
        dtype += " without pixels (meta)" if frames_THWC.is_meta else " (sparse)"
    if dtype == "uint8" and len(shape) == 4 and shape[-1] == 3 and min(shape) > 0:
        return
    hint = ""
    if not dtype.startswith("uint8"):
        hint = "Values are 0 to 255, and are normalized later"
    elif len(shape) == 4 and 3 in shape:
        hint = "Color is the last dimension: permute the array"
    found = Plain(f"{dtype} {shape}")
    raise UserError("frames in memory", where=name, found=found, expected="uint8 (T, H, W, 3), RGB", hint=hint)
