"""The records of the data path: samples from a list, clips from a decoder, batches for a model.

Shape letters: B clips, T frames, H W pixels, C channels, K classes, R boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from videovit.errors import UserError


class AnnotationError(UserError):
    """An annotation file cannot be used. The message shows the bad lines, with their numbers and content."""


@dataclass(frozen=True, slots=True)
class Action:
    """One of several actions in a video, active in the half-open interval [start_s, end_s)."""

    class_id: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Box:
    """A person on a key frame.

    Attributes:
        x1, y1, x2, y2: corners as fractions of the frame.
        class_ids: the person's actions, counted from 1.
        score: confidence of the person detector; 1 for annotated boxes.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    class_ids: tuple[int, ...] = ()
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """A moment of a video and the boxes on it; `time_s` is the time stamp in the annotation."""

    video: str
    time_s: float
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One video of a data set and its annotation.

    Attributes:
        path: video file, image file, or folder of frames.
        label: class of the video; -1 if the classes are in `actions` or `key`.
        actions: multi-label data sets only: the actions in the video; may be empty.
        num_frames: number of images that a folder of frames must hold, if a frame list states it.
        key: detection only: the key frame, whose boxes carry the classes.
    """

    path: str
    label: int = -1
    actions: tuple[Action, ...] | None = None
    num_frames: int | None = None
    key: KeyFrame | None = None

    @property
    def class_ids(self) -> set[int]:
        """The classes that occur in the video."""
        if self.key is not None:
            return {class_id for box in self.key.boxes for class_id in box.class_ids}
        if self.actions is not None:
            return {action.class_id for action in self.actions}
        return {self.label} - {-1}


@dataclass(frozen=True, slots=True)
class Failure:
    """A video that could not be read, and why."""

    path: str
    reason: str
    backend: str


@dataclass(frozen=True, slots=True)
class Clip:
    """T cropped frames of one video.

    Attributes:
        frames_THWC: uint8 (T, H, W, 3), RGB.
        label: class number; multi-label: float (K,) of zeros and ones; detection: float (R, K).
        video: index of the video in the data set.
        view: index of this clip and crop among the views of the video.
        erase_seed: seed of random erasing, which runs later on the device of the batch.
        boxes_R4: detection only: x1, y1, x2, y2 in pixels of the crop.
    """

    frames_THWC: Tensor
    label: int | Tensor
    video: int
    view: int
    erase_seed: int
    boxes_R4: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """What one index of the data set returns.

    Attributes:
        clips: all clips of the video; empty if it is unreadable and was not replaced.
        failures: videos that could not be read on the way.
        served_by: the decoder that read the video; empty if none did.
    """

    clips: list[Clip]
    failures: list[Failure]
    served_by: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips stacked for a model.

    Attributes:
        frames_BTHWC: uint8 (B, T, H, W, 3), RGB.
        labels: int64 (B,); multi-label: float32 (B, K) of zeros and ones; detection: float32 (R, K).
        videos_B: int64, index of each clip's video in the data set.
        views_B: int64, index of each clip among the views of its video.
        erase_seeds_B: int64, seeds of random erasing.
        failures: videos that could not be read.
        served_by: decoder of each video that was read.
        boxes_R5: detection only: the boxes of all clips in clip order; index of the clip in the batch, then x1, y1,
            x2, y2 in pixels.
    """

    frames_BTHWC: Tensor
    labels: Tensor
    videos_B: Tensor
    views_B: Tensor
    erase_seeds_B: Tensor
    failures: list[Failure]
    served_by: tuple[str, ...] = ()
    boxes_R5: Tensor | None = None

    def __len__(self) -> int:
        return int(self.frames_BTHWC.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """Copy frames, labels and boxes to `device`, asynchronously if they are pinned.

        Indices and seeds stay in host memory, where they are used: reading them back would wait for the GPU.
        """
        # A copy of unpinned memory would be synchronous anyway.
        return self._each(lambda field: field.to(device, non_blocking=field.is_pinned()))

    def pin_memory(self) -> Batch:
        """Move frames, labels and boxes to page-locked memory for fast copies (called by the data loader)."""
        return self._each(Tensor.pin_memory)

    def split(self, num_clips: int) -> Iterator[Batch]:
        """Split into consecutive batches of at most `num_clips` clips, without copying.

        Args:
            num_clips: clips per piece, at least 1.

        Yields:
            At least one Batch, even if there are no clips; only the first carries the failures and decoders.

        Raises:
            ValueError: num_clips is below 1.
        """
        if num_clips < 1:
            raise ValueError(f"num_clips must be at least 1, found {num_clips}")
        # A batch without clips is one piece, which carries its failures.
        for start in range(0, max(len(self), 1), num_clips):
            piece = self._clips(start, start + num_clips)
            # Sums over the pieces must count failures and decoders once.
            yield piece if start == 0 else replace(piece, failures=[], served_by=())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        boxes_R5 = None if self.boxes_R5 is None else change(self.boxes_R5)
        return replace(self, frames_BTHWC=change(self.frames_BTHWC), labels=change(self.labels), boxes_R5=boxes_R5)

    def _clips(self, start: int, stop: int) -> Batch:
        """The clips from `start` up to `stop`, with their boxes."""
        here = slice(start, stop)
        labels, boxes_R5 = clip_labels(self.labels, self.boxes_R5, start, stop)
        return replace(
            self,
            frames_BTHWC=self.frames_BTHWC[here],
            labels=labels,
            videos_B=self.videos_B[here],
            views_B=self.views_B[here],
            erase_seeds_B=self.erase_seeds_B[here],
            boxes_R5=boxes_R5,
        )


def clip_labels(labels: Tensor, boxes_R5: Tensor | None, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
    """Labels and boxes of the clips [start, stop) of a batch; the boxes' clip indices then count from `start`.

    Args:
        labels: (B,) or (B, K); with boxes (R, K).
        boxes_R5: boxes of the batch, or None.
        start: first clip.
        stop: one past the last clip.
    """
    if boxes_R5 is None:
        return labels[start:stop], None
    inside_R = (boxes_R5[:, 0] >= start) & (boxes_R5[:, 0] < stop)
    # Clips count from 0 again.
    return labels[inside_R], boxes_R5[inside_R] - boxes_R5.new_tensor([start, 0, 0, 0, 0])


def collate(items: Sequence[Item]) -> Batch:
    """Stack the clips of several items into one batch, in the order of the items.

    Args:
        items: what the data set returned; their clips must agree in shape.

    Returns:
        A Batch of all clips and all failures. If no item has a clip, its frames have shape (0, 0, 0, 0, 3).
    """
    clips = [clip for item in items for clip in item.clips]
    failures = [failure for item in items for failure in item.failures]
    if clips:
        frames_BTHWC = torch.stack([clip.frames_THWC for clip in clips])
    else:
        # All videos of the step may be unreadable.
        frames_BTHWC = torch.empty((0, 0, 0, 0, 3), dtype=torch.uint8)
    return Batch(
        frames_BTHWC=frames_BTHWC,
        labels=_stack_labels([clip.label for clip in clips]),
        videos_B=torch.tensor([clip.video for clip in clips], dtype=torch.int64),
        views_B=torch.tensor([clip.view for clip in clips], dtype=torch.int64),
        erase_seeds_B=torch.tensor([clip.erase_seed for clip in clips], dtype=torch.int64),
        failures=failures,
        # One entry per video that was read.
        served_by=tuple(item.served_by for item in items if item.served_by),
        boxes_R5=_join_boxes(clips),
    )


def _stack_labels(labels: Sequence[int | Tensor]) -> Tensor:
    # (K,) rows of multi-label clips are stacked; (R, K) matrices of detection clips, where R varies, are joined.
    rows = [label for label in labels if isinstance(label, Tensor)]
    if rows:
        return torch.cat(rows) if rows[0].ndim == 2 else torch.stack(rows)
    # Class numbers.
    return torch.tensor(labels, dtype=torch.int64)


def _join_boxes(clips: Sequence[Clip]) -> Tensor | None:
    numbered = [(place, clip.boxes_R4) for place, clip in enumerate(clips)]
    # The index of the clip comes first, as torchvision.ops.roi_align expects.
    rows = [F.pad(boxes_R4, (1, 0), value=float(place)) for place, boxes_R4 in numbered if boxes_R4 is not None]
    return torch.cat(rows) if rows else None
