"""Frames that are in memory already, as a video."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videovit.data.decode.protocol import BaseVideo, Indices
from videovit.errors import UserError
from videovit.messages import Plain

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
    """Open frames in memory as a video; they are not copied.

    Args:
        frames_THWC: uint8 (T, H, W, 3), RGB, upright.
        fps: frames per second.
        name: for messages.

    Raises:
        UserError: another type or shape, or a frame rate that is not above 0.
    """
    check_frames(frames_THWC, name)
    if not (math.isfinite(fps) and fps > 0):
        raise UserError("the frame rate", where=name, found=fps, expected="frames per second, above 0")
    frames = frames_THWC if isinstance(frames_THWC, Tensor) else torch.from_numpy(np.ascontiguousarray(frames_THWC))
    return ArrayVideo(frames.cpu(), float(fps))


def check_frames(frames_THWC: Frames, name: str) -> None:
    """Check that an array holds frames as decoders return them.

    Raises:
        UserError: it does not.
    """
    shape, dtype = tuple(frames_THWC.shape), str(frames_THWC.dtype).removeprefix("torch.")
    if dtype == "uint8" and len(shape) == 4 and shape[-1] == 3 and min(shape) > 0:
        return
    hint = ""
    if dtype != "uint8":
        hint = "Values are 0 to 255, and are normalized later"
    elif len(shape) == 4 and 3 in shape:
        hint = "Color is the last dimension: permute the array"
    found = Plain(f"{dtype} {shape}")
    raise UserError("frames in memory", where=name, found=found, expected="uint8 (T, H, W, 3), RGB", hint=hint)
