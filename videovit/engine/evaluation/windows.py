"""From a video, or a stream of frames, to the clips of windows that cover it.

W windows, V crops of a window, T frames, H W pixels, S side of a crop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from videovit.config import Config
from videovit.data.catalog import find_dataset
from videovit.data.clock import Clock, clock_of
from videovit.data.decode import Video
from videovit.data.decode.array import Frames, as_frames
from videovit.data.sampling import WindowPlan
from videovit.data.transforms.pipeline import build_eval_transform, build_image_eval_transform
from videovit.engine.evaluation.stream_windows import MOST_MB, StreamWindow, StreamWindows
from videovit.engine.reporting.progress import Progress


@dataclass(frozen=True)
class Clip:
    """What the model sees of a window.

    Attributes:
        start_s, end_s: of the window, in seconds of player time.
        crops_VTSSC: uint8 (V, T, S, S, 3).
    """

    start_s: float
    end_s: float
    crops_VTSSC: Tensor


def window_starts(num_frames: int, clip_size: float, stride: float) -> list[float]:
    """First frames of windows that cover a video; the last window ends at the end of the video.

        frames   0 . . . . . . . . . 9      clip_size 4, stride 4
        windows  [0 - 3] [4 - 7]
                             [6 - 9]

    Args:
        num_frames: length of the video.
        clip_size: span of a window in frames.
        stride: distance between the starts of two windows in frames; below 1 it counts as 1.

    Returns:
        At least one start; for a video shorter than a window, 0.
    """
    last, stride = max(num_frames - clip_size, 0.0), max(stride, 1.0)
    starts = [i * stride for i in range(int(last // stride) + 1)]
    return starts if last - starts[-1] < 1.0 else [*starts, last]


@dataclass(frozen=True)
class Section:
    """A part of a video.

    Attributes:
        start_s, end_s: in seconds of player time.
        first: first tick of its clock.
        num_ticks: its length in ticks.
    """

    start_s: float
    end_s: float
    first: int
    num_ticks: int


def sections(clock: Clock, window_s: float, stride_s: float = 0.0) -> list[Section]:
    """Sections of equal length that cover a video; the last one ends at the end of the video.

    Args:
        clock: of the video.
        window_s: length of a section in seconds; 0 makes one section of the whole video.
        stride_s: between the starts of two sections in seconds; 0 puts sections back to back.
    """
    span = window_s * clock.rate or clock.num_ticks
    found = []
    # Whole ticks: a section then has exactly the frames that a file cut there would have.
    for start in map(round, window_starts(clock.num_ticks, span, stride_s * clock.rate or span)):
        length = max(1, min(round(span), clock.num_ticks - start))
        found.append(Section(clock.time_s(start), clock.time_s(start + length), start, length))
    return found


@dataclass(frozen=True, kw_only=True)
class WindowReader:
    """Cuts videos into windows.

    Args:
        plan: chooses the frames of a window.
        crop: frames (T, H, W, 3) -> crops (T, S, S, 3), each frame by itself.
        num_crops: V.
        stride_s: between the starts of two windows in seconds; 0 puts windows back to back.
    """

    plan: WindowPlan
    crop: Callable[[Tensor], list[Tensor]]
    num_crops: int
    stride_s: float = 0.0

    def clips(self, video: Video, *, name: str = "", quiet: bool = True) -> Iterator[Clip]:
        """The clips of all windows, each decoded when it is requested.

        Args:
            video: stays open.
            name: of the progress bar.
            quiet: show no progress bar.

        Raises:
            DecodeError: a frame cannot be decoded.
        """
        clock = self.clock(video)
        (whole,) = sections(clock, 0.0)
        progress = Progress(name, len(self.starts(clock, whole)), quiet=quiet)
        for _, clip in progress.over(self.section_clips(video, clock, whole)):
            yield clip
            progress.count(1)

    def clock(self, video: Video) -> Clock:
        """The clock that sections and windows of a video are counted on."""
        return clock_of(video, self.plan.target_fps)

    def starts(self, clock: Clock, section: Section) -> list[float]:
        """First ticks of the windows of a section, counted from its own first tick."""
        span = self.plan.span(section.num_ticks, clock.rate)
        return window_starts(section.num_ticks, span, self.stride_s * clock.rate or span)

    def section_clips(self, video: Video, clock: Clock, section: Section) -> Iterator[Clip]:
        """The clips of all windows of a section: those of a video of these frames alone.

        Args:
            video: stays open.
            clock: of the video.
            section: of the video.

        Raises:
            DecodeError: a frame cannot be decoded.
        """
        first, length = section.first, section.num_ticks
        span = self.plan.span(length, clock.rate)
        for start in self.starts(clock, section):
            ticks_T = first + self.plan.window(start, length, clock.rate)
            crops_VTSSC = torch.stack(self.crop(video.frames(clock.frames(ticks_T))))
            start_s, end_s = clock.time_s(first + start), clock.time_s(first + min(start + span, length))
            yield Clip(start_s, end_s, crops_VTSSC)

    def stream(self, frames_HWC: Iterable[Frames], fps: float) -> Iterator[Clip]:
        """The clips of a stream, each as soon as the last frame of its window is there.

        They are those that `clips` would find if the stream were a file. Only the crops of the frames of one window
        and one stride are kept.

        Args:
            frames_HWC: frames at a constant rate, uint8 (H, W, 3), RGB.
            fps: frames per second.

        Raises:
            UserError: the model takes a clip of the whole video, or a frame has another type or shape.
        """
        windows = self.cutter(fps)
        for number, frame_HWC in enumerate(frames_HWC):
            yield from map(self.joined, windows.add(number / fps, self.keep(frame_HWC)))
        yield from map(self.joined, windows.end())

    def cutter(self, fps: float, *, max_mb: float = MOST_MB) -> StreamWindows:
        """What cuts a stream into windows; see `StreamWindows`."""
        return StreamWindows(self.plan, fps=fps, stride_s=self.stride_s, max_mb=max_mb)

    def keep(self, frame_HWC: Frames) -> Tensor:
        """The crops (V, S, S, 3) of one frame of a stream, uint8 (H, W, 3)."""
        return torch.cat(self.crop(as_frames(frame_HWC[None], "frame of the stream")))

    @staticmethod
    def joined(window: StreamWindow) -> Clip:
        """The clip of a window of a stream, from what was kept of its frames."""
        return Clip(window.start_s, window.end_s, torch.stack(window.frames, dim=1))


def build_window_reader(cfg: Config) -> WindowReader:
    """The windows of TEST.DATASET: frames and crops as in the test, PREDICT.WINDOW_STRIDE_S apart."""
    spec = find_dataset(cfg.TEST.DATASET)
    num_crops = 1 if spec.images else cfg.TEST.NUM_SPATIAL_CROPS
    return WindowReader(
        plan=spec.plan(cfg, "test"),
        crop=build_image_eval_transform(cfg) if spec.images else build_eval_transform(cfg, num_crops),
        num_crops=num_crops,
        stride_s=cfg.PREDICT.WINDOW_STRIDE_S,
    )
