"""One data set class for training and evaluation: an index in, all clips of that video out.

Every random choice is a function of (seed, epoch, index), so a clip is the same on any worker and rank.

Shape letters: T frames of a clip, N distinct frames decoded, H W pixels of the video, S pixels of a crop, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from videovit.data.decode import DecodeError, DecodeOptions, open_video
from videovit.data.decode.protocol import DEFAULTS, Indices, Knots
from videovit.data.decode.remote_videos import prefetch_videos
from videovit.data.objects import Objects
from videovit.data.records import Clip, Failure, Item, Sample
from videovit.data.sampling import ClipPlan
from videovit.data.transforms.boxes import Placement, has_area
from videovit.data.workers import NOTHING, note_reading
from videovit.messages import plural

# An unreadable video is replaced by another one at most this many times in a row.
MOST_FAILURES_IN_A_ROW = 10

Key = tuple[int, int] | tuple[int, int, int]
"""(epoch, index in the data set), and the number of earlier draws of the video in the epoch, if any."""


class Stream(IntEnum):
    """Separates the random numbers of different purposes, whatever the seeds."""

    CLIPS = 0
    ORDER_OF_VIDEOS = 1


def random_stream(stream: Stream, *words: int) -> np.random.Generator:
    """A generator that depends only on its purpose and these non-negative integers."""
    return np.random.default_rng(np.random.SeedSequence(words, spawn_key=(int(stream),)))


LabelRule = Callable[[Sample, float, float], int | Tensor]
"""(sample, player time at which the clip begins, at which it ends, in seconds) -> label of the clip."""


def seconds_of(indices_T: Indices, fps: float, knots: Knots | None = None, start_s: float = 0.0) -> Interval:
    """Start and end of a clip in seconds of player time.

    Frame i lasts from start_s + i / fps to start_s + (i + 1) / fps, unless `knots` give its time.

    Args:
        indices_T: (T,) frames of the clip, in any order.
        fps: frame rate of the video.
        knots: for a variable frame rate, some frames and their times in seconds, to interpolate between.
        start_s: player time of the first frame of the video.
    """
    first, last = int(indices_T.min()), int(indices_T.max())
    if knots is None:
        return start_s + first / fps, start_s + (last + 1) / fps
    begin_s, last_s, end_s = np.interp((first, last, last + 1), *knots).tolist()
    return start_s + begin_s, start_s + (end_s if last < knots[0][-1] else last_s + 1 / fps)


def one_class(sample: Sample, begin_s: float, end_s: float) -> int:
    """The class of the video, whatever part of it the clip covers."""
    return sample.label


@dataclass(frozen=True)
class ActionsShown:
    """Multi-label: the actions in a video, as a row of zeros and ones.

    Args:
        num_classes: K.
        whole_video: use all actions (evaluation), not only those that overlap the clip (training).

    Source: PySlowFast's training and test on Charades.
    """

    num_classes: int
    whole_video: bool = False

    def __call__(self, sample: Sample, begin_s: float, end_s: float) -> Tensor:
        """Returns float32 (K,)."""
        target_K = torch.zeros(self.num_classes)
        for action in sample.actions or ():
            if self.whole_video or (action.start_s < end_s and action.end_s > begin_s):
                target_K[action.class_id] = 1.0
        return target_K


Interval = tuple[float, float]
"""Start and end in seconds."""


class Cut(NamedTuple):
    """A crop of a clip.

    Attributes:
        frames_THWC: uint8 (T, S, S, 3), or (1, H, W, 3) of an image with objects.
        label, boxes_R4, objects: see `Clip`.
    """

    frames_THWC: Tensor
    label: int | Tensor
    boxes_R4: Tensor | None = None
    objects: Objects | None = None


class Crops(Protocol):
    """Cuts a clip into crops with labels."""

    def cut(self, frames_THWC: Tensor, sample: Sample, shown_s: Interval, rng: np.random.Generator) -> list[Cut]:
        """Cut and label the crops of a clip.

        Args:
            frames_THWC: uint8 (T, H, W, 3).
            sample: the video of the clip.
            shown_s: the part of the video that the clip covers.
            rng: source of randomness.

        Raises:
            DecodeError: the frames are not those that the sample describes.
        """


@dataclass(frozen=True)
class RepeatedCrops:
    """Training: `times` independent augmentations of the same clip (AUG.NUM_SAMPLE)."""

    transform: Callable[[Tensor, np.random.Generator], Tensor]
    times: int = 1
    label: LabelRule = one_class

    def cut(self, frames_THWC: Tensor, sample: Sample, shown_s: Interval, rng: np.random.Generator) -> list[Cut]:
        """See `Crops.cut`."""
        label = self.label(sample, *shown_s)
        return [Cut(self.transform(frames_THWC, rng), label) for _ in range(self.times)]


@dataclass(frozen=True)
class FixedCrops:
    """Evaluation: the same crops for every clip."""

    transform: Callable[[Tensor], list[Tensor]]
    label: LabelRule = one_class

    def cut(self, frames_THWC: Tensor, sample: Sample, shown_s: Interval, rng: np.random.Generator) -> list[Cut]:
        """See `Crops.cut`; does not use `rng`."""
        label = self.label(sample, *shown_s)
        return [Cut(crop, label) for crop in self.transform(frames_THWC)]


@dataclass(frozen=True)
class BoxCrops:
    """Detection: crops of a clip with the boxes of its key frame.

    Args:
        transform: (frames, rng) -> the crop, and the placement of the frame in it.
        crop_size: S.
        num_classes: K.
        times: number of crops (AUG.NUM_SAMPLE).
        drop_empty: drop boxes outside the crop (training). In evaluation every box counts.
    """

    transform: Callable[[Tensor, np.random.Generator], tuple[Tensor, Placement]]
    crop_size: int
    num_classes: int
    times: int = 1
    drop_empty: bool = False

    def cut(self, frames_THWC: Tensor, sample: Sample, shown_s: Interval, rng: np.random.Generator) -> list[Cut]:
        """See `Crops.cut`; labels are float32 (R, K), and R may be 0."""
        key = sample.key
        if key is None:
            raise ValueError(f"{sample.path}: detection needs a sample with a key frame")
        corners_R4 = torch.tensor([[box.x1, box.y1, box.x2, box.y2] for box in key.boxes]).reshape(-1, 4)
        target_RK = torch.zeros(len(key.boxes), self.num_classes)
        for row, box in enumerate(key.boxes):
            # Classes of boxes count from 1, columns from 0.
            target_RK[row, [class_id - 1 for class_id in box.class_ids]] = 1.0
        cuts: list[Cut] = []
        for _ in range(self.times):
            frames_TSSC, placement = self.transform(frames_THWC, rng)
            boxes_R4 = placement.boxes(corners_R4, self.crop_size)
            # A detection outside the crop is still a detection, so evaluation keeps it.
            kept_R = has_area(boxes_R4) if self.drop_empty else torch.ones(len(boxes_R4), dtype=torch.bool)
            cuts.append(Cut(frames_TSSC, target_RK[kept_R], boxes_R4[kept_R]))
        return cuts


class ClipDataset(Dataset[Item]):
    """Videos of a list, decoded, sampled in time and cropped in space.

    Indexed by `Key`. An item holds every view of a video; the view number is clip * num_crops + crop. The
    video is opened once, and one call decodes the frames of all its clips.

    Args:
        samples: the videos.
        plan: chooses the frames of every clip.
        crops: cuts a clip into crops, and labels them.
        num_crops: number of crops per clip.
        backend: name of the decoder.
        decoding: options and limits of the decoder.
        seed: seed of all random choices.
        replace_unreadable: draw another video in place of an unreadable one (training); otherwise its item is empty.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        plan: ClipPlan,
        crops: Crops,
        num_crops: int = 1,
        backend: str = "decord",
        decoding: DecodeOptions = DEFAULTS,
        seed: int = 0,
        replace_unreadable: bool = False,
    ) -> None:
        self.samples = samples
        self.num_views = plan.num_clips * num_crops
        self._plan = plan
        self._crops = crops
        self._num_crops = num_crops
        self._backend = backend
        self._decoding = decoding
        self._seed = seed
        self._replace_unreadable = replace_unreadable

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, keys: Sequence[Key]) -> list[Item]:
        """The items of a batch; remote videos are downloaded several at once."""
        prefetch_videos((self.samples[key[1]].path for key in keys), self._decoding)
        return [self[key] for key in keys]

    def __getitem__(self, key: Key) -> Item:
        """All clips of a video, or of its replacement if it is unreadable.

        Args:
            key: which video, and the words of its random numbers.

        Returns:
            An Item of num_views clips and the failures met; no clips if the video is unreadable and not replaced.

        Raises:
            DecodeError: too many videos in a row are unreadable (training).
        """
        index = key[1]
        rng = random_stream(Stream.CLIPS, self._seed, *key)
        failures: list[Failure] = []
        while True:
            try:
                return self._read_item(index, rng, failures)
            except DecodeError as error:
                failures.append(Failure(error.path, error.reason, error.backend))
            if not self._replace_unreadable:
                return Item([], failures)
            # A missing disk would otherwise be skipped video by video.
            if len(failures) == MOST_FAILURES_IN_A_ROW:
                listed = "".join(f"\n  {failure.path}: {failure.reason}" for failure in failures[1:])
                others = plural(len(failures) - 1, "replacement")
                reason = f"{failures[0].reason}; {others} drawn for it cannot be read either:{listed}"
                raise DecodeError(failures[0].path, reason, failures[0].backend)
            # From the generator of the item, so the replacement is reproducible.
            index = int(rng.integers(len(self.samples)))

    def _read_item(self, index: int, rng: np.random.Generator, failures: list[Failure]) -> Item:
        sample = self.samples[index]
        # If this worker is killed or hangs, the error can name the video.
        note_reading(index)
        with open_video(sample.path, self._backend, self._decoding) as video:
            # Missing images would shift all later frames in time.
            if sample.num_frames not in (None, video.num_frames):
                reason = f"{plural(video.num_frames, 'image')}, but the list states {sample.num_frames}"
                raise DecodeError(sample.path, reason, video.served_by)
            indices = self._plan.clips(video, rng, sample.key.time_s if sample.key else None)
            # The clips of a test overlap: decode each frame once, and in ascending order.
            wanted = np.unique(np.concatenate(indices))
            frames_NHWC = video.frames(wanted)
            fps, knots, start_s, served_by = video.fps, video.knots, video.start_s, video.served_by
        clips = []
        for place, indices_T in enumerate(indices):
            # Indexing copies; a clip of exactly the decoded frames needs no copy.
            in_order = np.array_equal(wanted, indices_T)
            frames_THWC = frames_NHWC if in_order else frames_NHWC[torch.from_numpy(np.searchsorted(wanted, indices_T))]
            cuts = self._crops.cut(frames_THWC, sample, seconds_of(indices_T, fps, knots, start_s), rng)
            for crop, cut in enumerate(cuts):
                view = place * self._num_crops + crop
                # The seed of erasing is drawn here, so that it does not depend on the batch that the clip ends up in.
                seed = int(rng.integers(2**63))
                clips.append(Clip(cut.frames_THWC, cut.label, index, view, seed, cut.boxes_R4, cut.objects))
        note_reading(NOTHING)
        return Item(clips, failures, served_by)
