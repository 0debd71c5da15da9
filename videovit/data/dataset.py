"""One data set class for training and evaluation: an index in, all clips of that video out.

Every random choice is a function of (seed, epoch, index), so a clip does not depend on which worker or rank makes it.

Shape letters: T frames of a clip, N distinct frames decoded, H W pixels of the video, S pixels of a crop, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from videovit.data.decode import DecodeError, DecodeOptions, open_video
from videovit.data.decode.protocol import DEFAULTS, Knots
from videovit.data.records import Clip, Failure, Item, KeyFrame, Sample
from videovit.data.sampling import AroundKeyFrame, ClipPlan, Indices
from videovit.data.transforms.boxes import Placement, has_area
from videovit.data.workers import NOTHING, note_reading

# A video that cannot be read is replaced by another one at most so often in a row.
MOST_FAILURES_IN_A_ROW = 10

Key = tuple[int, int]


class Stream(IntEnum):
    """Keeps the random numbers of different purposes apart, whatever the seeds."""

    CLIPS = 0
    ORDER_OF_VIDEOS = 1


def random_stream(stream: Stream, *words: int) -> np.random.Generator:
    """A generator that depends on nothing but its purpose and these whole numbers, none below 0."""
    return np.random.default_rng(np.random.SeedSequence(words, spawn_key=(int(stream),)))


@dataclass(frozen=True)
class RepeatedCrops:
    """Training: the same clip augmented `times` times, independently (AUG.NUM_SAMPLE)."""

    transform: Callable[[Tensor, np.random.Generator], Tensor]
    times: int = 1

    def __call__(self, frames_THWC: Tensor, rng: np.random.Generator) -> list[Tensor]:
        """`times` tensors, uint8 (T, S, S, 3)."""
        return [self.transform(frames_THWC, rng) for _ in range(self.times)]


@dataclass(frozen=True)
class FixedCrops:
    """Evaluation: the crops of a clip, always the same."""

    transform: Callable[[Tensor], list[Tensor]]

    def __call__(self, frames_THWC: Tensor, rng: np.random.Generator) -> list[Tensor]:
        """One uint8 (T, S, S, 3) per position; `rng` is not touched."""
        return self.transform(frames_THWC)


Cut = tuple[Tensor, int | Tensor, Tensor | None]
"""A crop of a clip (T, S, S, 3), its label, and in detection its boxes (R, 4) in pixels."""


@dataclass(frozen=True)
class BoxCrops:
    """Detection: crops of a clip with the boxes of its key frame.

    Args:
        transform: (frames, rng) -> crop, and where the frame lies in it.
        crop_size: S.
        num_classes: K.
        times: how many crops (AUG.NUM_SAMPLE).
        drop_empty: leave boxes out that lie outside the crop (training); in evaluation every box is judged.
    """

    transform: Callable[[Tensor, np.random.Generator], tuple[Tensor, Placement]]
    crop_size: int
    num_classes: int
    times: int = 1
    drop_empty: bool = False

    def cut(self, frames_THWC: Tensor, key: KeyFrame, rng: np.random.Generator) -> list[Cut]:
        """`times` crops with labels float32 (R, K) and boxes (R, 4); R may be 0."""
        corners_R4 = torch.tensor([[box.x1, box.y1, box.x2, box.y2] for box in key.boxes]).reshape(-1, 4)
        target_RK = torch.zeros(len(key.boxes), self.num_classes)
        for row, box in enumerate(key.boxes):
            target_RK[row, [class_id - 1 for class_id in box.class_ids]] = 1.0
        cuts: list[Cut] = []
        for _ in range(self.times):
            frames_TSSC, placement = self.transform(frames_THWC, rng)
            boxes_R4 = placement.boxes(corners_R4, self.crop_size)
            kept_R = has_area(boxes_R4) if self.drop_empty else torch.ones(len(boxes_R4), dtype=torch.bool)
            cuts.append((frames_TSSC, target_RK[kept_R], boxes_R4[kept_R]))
        return cuts


LabelRule = Callable[[Sample, float, float], int | Tensor]
"""(sample, second at which a clip of it begins, at which it ends) -> what the clip shows."""


def seconds_of(indices_T: Indices, fps: float, knots: Knots | None = None) -> tuple[float, float]:
    """When a clip begins and ends: a frame i lasts from i / fps to (i + 1) / fps, or where `knots` say."""
    first, last = int(indices_T.min()), int(indices_T.max())
    if knots is None:
        return first / fps, (last + 1) / fps
    begin_s, last_s, end_s = np.interp((first, last, last + 1), *knots).tolist()
    return begin_s, end_s if last < knots[0][-1] else last_s + 1 / fps


def one_class(sample: Sample, begin_s: float, end_s: float) -> int:
    """The class of the video, whichever part of it the clip shows."""
    return sample.label


@dataclass(frozen=True)
class ActionsShown:
    """Multi-label: the actions of the video, as a row of zeros and ones.

    Args:
        num_classes: K.
        whole_video: all of them (evaluation), and not only those that overlap the clip (training).

    Source: Charades as PySlowFast trains and tests on it.
    """

    num_classes: int
    whole_video: bool = False

    def __call__(self, sample: Sample, begin_s: float, end_s: float) -> Tensor:
        """float32 (K,)."""
        target_K = torch.zeros(self.num_classes)
        for action in sample.actions or ():
            if self.whole_video or (action.start_s < end_s and action.end_s > begin_s):
                target_K[action.class_id] = 1.0
        return target_K


class ClipDataset(Dataset[Item]):
    """Videos from a list, decoded, sampled in time and cropped in space.

    Indexed by (epoch, index). An item holds every view of the video; the view number is clip * num_crops + crop. The
    video is opened once, and one call decodes all the frames of all its clips.

    Args:
        samples: the videos.
        plan: chooses the frames of every clip of a video.
        crops: cuts a clip into its crops.
        num_crops: how many crops that gives.
        label: what a clip shows; by default the class of its video.
        backend: name of the decoder.
        decoding: its options and limits.
        seed: of all random choices.
        replace_unreadable: draw another video for one that cannot be read (training); otherwise its item is empty.

    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        plan: ClipPlan | AroundKeyFrame,
        crops: Callable[[Tensor, np.random.Generator], list[Tensor]] | BoxCrops,
        num_crops: int = 1,
        label: LabelRule = one_class,
        backend: str = "decord",
        decoding: DecodeOptions = DEFAULTS,
        seed: int = 0,
        replace_unreadable: bool = False,
    ) -> None:
        self.samples = list(samples)
        self.num_views = plan.num_clips * num_crops
        self._plan = plan
        self._crops = crops
        self._num_crops = num_crops
        self._label = label
        self._backend = backend
        self._decoding = decoding
        self._seed = seed
        self._replace_unreadable = replace_unreadable

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> Item:
        """All clips of a video, or of the one that stands in for it.

        Args:
            key: (epoch, index).

        Returns:
            An Item of num_views clips and the failures met; without clips when an unreadable video is not replaced.

        Raises:
            DecodeError: too many videos in a row cannot be read (training).
        """
        epoch, index = key
        rng = random_stream(Stream.CLIPS, self._seed, epoch, index)
        failures: list[Failure] = []
        while True:
            try:
                return self._read_item(index, rng, failures)
            except DecodeError as error:
                failures.append(Failure(error.path, error.reason, error.backend))
            if not self._replace_unreadable:
                return Item([], failures)
            if len(failures) == MOST_FAILURES_IN_A_ROW:
                listed = "".join(f"\n  {failure.path}: {failure.reason}" for failure in failures[1:])
                reason = f"{failures[0].reason}; nor can {len(failures) - 1} others drawn in its place:{listed}"
                raise DecodeError(failures[0].path, reason, failures[0].backend)
            index = int(rng.integers(len(self.samples)))

    def _read_item(self, index: int, rng: np.random.Generator, failures: list[Failure]) -> Item:
        sample = self.samples[index]
        note_reading(index)
        with open_video(sample.path, self._backend, self._decoding) as video:
            if sample.num_frames not in (None, video.num_frames):
                reason = f"{video.num_frames} images, but the list names {sample.num_frames}"
                raise DecodeError(sample.path, reason, video.served_by)
            if isinstance(self._plan, AroundKeyFrame):
                indices = self._plan.at(_key(sample).time_s, video.num_frames, video.fps, video.knots)
            else:
                indices = self._plan(video.num_frames, video.fps, rng)
            wanted = np.unique(np.concatenate(indices))
            frames_NHWC = video.frames(wanted)
            fps, knots, served_by = video.fps, video.knots, video.served_by
        clips = []
        for place, indices_T in enumerate(indices):
            # A clip of every decoded frame, in order, is not copied.
            in_order = np.array_equal(wanted, indices_T)
            frames_THWC = frames_NHWC if in_order else frames_NHWC[torch.from_numpy(np.searchsorted(wanted, indices_T))]
            for crop, cut in enumerate(self._cut(frames_THWC, sample, seconds_of(indices_T, fps, knots), rng)):
                frames_TSSC, label, boxes_R4 = cut
                view = place * self._num_crops + crop
                clips.append(Clip(frames_TSSC, label, index, view, int(rng.integers(2**63)), boxes_R4))
        note_reading(NOTHING)
        return Item(clips, failures, served_by)

    def _cut(
        self, frames_THWC: Tensor, sample: Sample, shown_s: tuple[float, float], rng: np.random.Generator
    ) -> list[Cut]:
        """The crops of a clip, with their labels."""
        if isinstance(self._crops, BoxCrops):
            return self._crops.cut(frames_THWC, _key(sample), rng)
        crops = self._crops(frames_THWC, rng)
        label = self._label(sample, *shown_s)
        return [(crop, label, None) for crop in crops]


def _key(sample: Sample) -> KeyFrame:
    if sample.key is None:
        raise ValueError(f"{sample.path}: a sample without a key frame, which detection needs")
    return sample.key
