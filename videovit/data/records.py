"""What travels through the data path: samples from a list, clips from a decoder, batches to a model.

Shape letters: B clips, T frames, H W pixels, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from videovit.config.errors import UserError


class AnnotationError(UserError):
    """A list file cannot be used; the message names every bad line with its number and content."""


@dataclass(frozen=True, slots=True)
class Action:
    """One of several classes that a video shows, from `start_s` up to, but not at, `end_s`."""

    class_id: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One video of a data set: where it is and what it shows; `start_s`/`end_s` cut it, None for the whole file.

    A video has either one class, `label`, or any number of `actions` (multi-label data sets; then `label` is -1).
    `num_frames` is how many images the folder of a frame list must hold.
    """

    path: str
    label: int = -1
    start_s: float | None = None
    end_s: float | None = None
    actions: tuple[Action, ...] | None = None
    num_frames: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A video that could not be read, and why."""

    path: str
    reason: str
    backend: str


@dataclass(frozen=True, slots=True)
class Clip:
    """T cropped frames of one video: uint8 (T, H, W, 3), with the places of its video and view in the data set.

    `label` is a class, or in multi-label data sets float (K,) of zeros and ones. `erase_seed` decides where random
    erasing hits this clip, later, on the device of the batch.
    """

    frames_THWC: Tensor
    label: int | Tensor
    video: int
    view: int
    erase_seed: int


@dataclass(frozen=True, slots=True)
class Item:
    """What one index of the data set gives: all clips of a video, and the videos that failed on the way.

    `served_by` tells which decoder read the video, "" when none did.
    """

    clips: list[Clip]
    failures: list[Failure]
    served_by: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips side by side, every field with B entries.

    `labels` are int64 (B,) class numbers, or in multi-label data sets float32 (B, K) of zeros and ones. `failures` are
    the videos that could not be read, `served_by` the decoders of the others, one entry a video.
    """

    frames_BTHWC: Tensor
    labels: Tensor
    videos_B: Tensor
    views_B: Tensor
    erase_seeds_B: Tensor
    failures: list[Failure]
    served_by: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.frames_BTHWC.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """This batch on `device`; pinned memory is copied without waiting."""
        return self._with(
            *(field.to(device, non_blocking=field.is_pinned()) for field in self._tensors()),
        )

    def pin_memory(self) -> Batch:
        """This batch in page-locked memory, for fast copies to a GPU (called by the data loader)."""
        return self._with(*(field.pin_memory() for field in self._tensors()))

    def split(self, num_clips: int) -> Iterator[Batch]:
        """Cut into consecutive batches of at most `num_clips` clips, without copying.

        Args:
            num_clips: clips per piece, at least 1.

        Yields:
            At least one Batch, even of no clips; failures and decoders travel on the first only.

        Raises:
            ValueError: num_clips is below 1.
        """
        if num_clips < 1:
            raise ValueError(f"num_clips must be at least 1, found {num_clips}")
        for start in range(0, max(len(self), 1), num_clips):
            piece = self._with(*(field[start : start + num_clips] for field in self._tensors()))
            yield piece if start == 0 else replace(piece, failures=[], served_by=())

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.frames_BTHWC, self.labels, self.videos_B, self.views_B, self.erase_seeds_B

    def _with(self, *tensors: Tensor) -> Batch:
        frames_BTHWC, labels, videos_B, views_B, erase_seeds_B = tensors
        return Batch(frames_BTHWC, labels, videos_B, views_B, erase_seeds_B, self.failures, self.served_by)


def collate(items: Sequence[Item]) -> Batch:
    """Put the clips of several items into one batch, in the order of the items.

    Args:
        items: what the data set returned; their clips must agree in shape.

    Returns:
        A Batch of all clips and all failures. When no item has a clip, its frames have shape (0, 0, 0, 0, 3).
    """
    clips = [clip for item in items for clip in item.clips]
    failures = [failure for item in items for failure in item.failures]
    if clips:
        frames_BTHWC = torch.stack([clip.frames_THWC for clip in clips])
    else:
        frames_BTHWC = torch.empty((0, 0, 0, 0, 3), dtype=torch.uint8)
    return Batch(
        frames_BTHWC=frames_BTHWC,
        labels=_stack_labels([clip.label for clip in clips]),
        videos_B=torch.tensor([clip.video for clip in clips], dtype=torch.int64),
        views_B=torch.tensor([clip.view for clip in clips], dtype=torch.int64),
        erase_seeds_B=torch.tensor([clip.erase_seed for clip in clips], dtype=torch.int64),
        failures=failures,
        served_by=tuple(item.served_by for item in items if item.served_by),
    )


def _stack_labels(labels: Sequence[int | Tensor]) -> Tensor:
    rows = [label for label in labels if isinstance(label, Tensor)]
    if rows:
        return torch.stack(rows)
    return torch.tensor(labels, dtype=torch.int64)
