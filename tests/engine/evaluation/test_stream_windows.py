"""Windows of streams: the same as those of files, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.streams import feed
from tests.helpers.videos import read_barcodes, write_video
from videovit.data.clock import clock_of
from videovit.data.decode import open_video
from videovit.data.decode.protocol import DEFAULTS
from videovit.data.decode.stream import StreamReader
from videovit.data.sampling import AroundKeyFrame, EvenSpans, Segments, StridedClips, WindowPlan
from videovit.engine.evaluation.stream_windows import StreamWindow, StreamWindows
from videovit.engine.evaluation.windows import window_starts
from videovit.errors import UserError

HELD = [*range(10), *range(25, 70), *range(75, 100)]  # still pictures in between
PLANS = [EvenSpans(4, 3, 30.0), StridedClips(4, 3, 30.0), AroundKeyFrame(4, 3, 30.0)]
FRAME = torch.zeros(10, 10, dtype=torch.uint8)


def windows_of_file(path: Path, plan: WindowPlan, stride_s: float) -> list[tuple[float, float, list[int]]]:
    with open_video(path, "pyav") as video:
        clock = clock_of(video, plan.target_fps)
        n, rate = clock.num_ticks, clock.rate
        span = plan.span(n, rate)
        return [
            (
                clock.time_s(start),
                clock.time_s(min(start + span, n)),
                read_barcodes(video.frames(clock.frames(plan.window(start, n, rate)))),
            )
            for start in window_starts(n, span, stride_s * rate or span)
        ]


def windows_of(cutter: StreamWindows, times_s: list[float]) -> Iterator[StreamWindow]:
    for time_s in times_s:
        yield from cutter.add(time_s, FRAME)
    yield from cutter.end()


@pytest.mark.parametrize("fps", [30, 25, Fraction(30000, 1001), "varies"])
@pytest.mark.parametrize("stride_s", [0.0, 0.25, 1.1])
def test_stream_has_the_windows_of_the_file(tmp_path: Path, fps: int | Fraction | str, stride_s: float) -> None:
    if isinstance(fps, str):
        video = write_video(tmp_path / "a.ts", num_frames=len(HELD), pts=HELD)
    else:
        video = write_video(tmp_path / "a.ts", num_frames=100, fps=fps)
    for plan in PLANS:
        with StreamReader(feed(tmp_path, video.read_bytes()), DEFAULTS) as reader:
            cutter = StreamWindows(plan, fps=reader.fps, stride_s=stride_s)
            windows = [
                window
                for frame in reader.frames()
                for window in cutter.add(frame.time_s, torch.from_numpy(frame.image_HWC.copy()))
            ]
            windows += cutter.end()
        expected = windows_of_file(video, plan, stride_s)
        assert [read_barcodes(torch.stack(window.frames)) for window in windows] == [
            frames for _, _, frames in expected
        ]
        places = [(window.start_s, window.end_s) for window in windows]
        np.testing.assert_allclose(places, [place[:2] for place in expected], atol=1e-5)


def test_window_comes_with_its_last_frame() -> None:
    cutter = StreamWindows(EvenSpans(4, 2, 30.0), fps=30.0)
    counts = [len(list(cutter.add(i / 30, FRAME))) for i in range(17)]
    assert [i for i, count in enumerate(counts) if count] == [7, 15] and cutter.period_s == pytest.approx(8 / 30)


def test_short_stream_is_one_window_and_an_empty_one_none() -> None:
    (window,) = windows_of(StreamWindows(EvenSpans(4, 2, 30.0), fps=30.0), [0.0, 1 / 30])
    assert len(window.frames) == 4 and (window.start_s, window.end_s) == (0.0, pytest.approx(2 / 30))
    assert not list(StreamWindows(EvenSpans(4, 2, 30.0), fps=30.0).end())


def test_rate_that_is_not_stated_is_counted_by_time() -> None:
    windows = list(windows_of(StreamWindows(EvenSpans(4, 2, 30.0), fps=0.0), [i / 15 for i in range(16)]))
    assert [window.start_s for window in windows] == pytest.approx([0, 8 / 30, 16 / 30, 24 / 30])


def test_memory_is_bounded() -> None:
    cutter = StreamWindows(EvenSpans(4, 2, 30.0), fps=30.0)
    for i in range(1000):
        list(cutter.add(i / 30, FRAME))
        assert len(cutter._held) <= 9
    # A stream whose time hardly advances.
    cutter = StreamWindows(EvenSpans(4, 2, 30.0), fps=30.0, max_mb=0.01)
    with pytest.raises(UserError, match=r"DATA.MAX_VIDEO_MB: the 101 frames of one window take more than 0 MB"):
        list(windows_of(cutter, [i / 90000 for i in range(200)]))


def test_clip_of_a_whole_video_is_refused() -> None:
    with pytest.raises(UserError, match="TEST.DATASET: this model takes one clip of a whole video, but a stream has"):
        StreamWindows(Segments(4), fps=30.0)
