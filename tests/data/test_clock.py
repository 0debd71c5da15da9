"""Clips, labels and predictions of videos whose rate varies or whose pictures begin late, in player time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.decode.test_rate import write_late
from tests.helpers.videos import VIDEO_BACKENDS, read_barcodes, write_video
from videovit.data.clock import Clock, clock_of
from videovit.data.dataset import ActionsShown, ClipDataset, FixedCrops
from videovit.data.decode import open_video
from videovit.data.decode.protocol import Knots
from videovit.data.records import Action, KeyFrame, Sample
from videovit.data.sampling import AroundKeyFrame, ClockPlan, EvenSpans, RandomSpans, Segments, StridedClips
from videovit.preparation.checks import Entry, compare, inspect_file

Numbered = Callable[..., Path]
# 30 frames in a second, a still screen until second 10, and 30 frames in another second
PAUSE = np.concatenate([np.arange(30), 300 + np.arange(30)]) / 30
KNOTS: Knots = (np.arange(60), PAUSE)
PLANS = [
    EvenSpans(4, 2, 30.0, num_clips=3),
    RandomSpans(4, 2, 30.0),
    StridedClips(4, 2, 30.0, num_clips=3),
    StridedClips(4, 2, 30.0, random=True),
]


@dataclass
class Times:
    """A video of which only times are known."""

    num_frames: int
    fps: float
    knots: Knots | None = None
    start_s: float = 0.0


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("fps", [30.0, 24.0])
def test_constant_rate_counts_frames(plan: ClockPlan, fps: float) -> None:
    clock = clock_of(Times(60, fps), plan.target_fps)  # type: ignore[arg-type]
    assert (clock.num_ticks, clock.rate) == (60, fps)
    clips = plan(60, fps, np.random.default_rng(0))
    for ticks, again in zip(clips, plan(clock.num_ticks, clock.rate, np.random.default_rng(0)), strict=True):
        assert clock.frames(again).tolist() == ticks.tolist()


def test_varying_rate_shows_what_is_on_screen() -> None:
    clock = clock_of(Times(60, 60 / 11, KNOTS), 30.0)  # type: ignore[arg-type]
    assert (clock.num_ticks, clock.rate) == (330, 30.0)
    assert clock.frames(np.array([0, 1, 29, 30, 150, 299, 300, 301, 329, 400])).tolist() == [
        *(0, 1, 29, 29, 29, 29, 30, 31, 59, 59)
    ]
    # Times that a container rounded up
    rounded: Knots = (np.arange(60), np.ceil(PAUSE * 1000) / 1000)
    assert Clock(330, 30.0, 0.0, rounded).frames(np.arange(30)).tolist() == list(range(30))


def test_segments_count_frames() -> None:
    clock = clock_of(Times(60, 60 / 11, KNOTS, 2.0), Segments(4).target_fps)  # type: ignore[arg-type]
    assert clock.num_ticks == 60 and clock.frames(np.arange(60)).tolist() == list(range(60))
    assert (clock.time_s(0), clock.time_s(60)) == (2.0, 13.0)


def test_key_frame_in_pause() -> None:
    (indices,) = AroundKeyFrame(4, 2, 30.0).at(9.95, 60, 60 / 11, KNOTS)
    assert indices.tolist() == [29, 29, 29, 30]


@pytest.mark.parametrize("backend", VIDEO_BACKENDS)
def test_clips_stride_apart_in_time(tmp_path: Path, backend: str) -> None:
    places = np.round(PAUSE * 30).astype(int).tolist()
    path = write_video(tmp_path / "pause.mkv", num_frames=60, bframes=0, pts=places)
    plan = EvenSpans(4, 4, 30.0, num_clips=3)
    dataset = ClipDataset([Sample(str(path), 0)], plan=plan, crops=FixedCrops(lambda frames: [frames]), backend=backend)
    shown = [read_barcodes(clip.frames_THWC) for clip in dataset[0, 0].clips]
    assert shown == [[0, 5, 10, 15], [29] * 4, [44, 49, 54, 59]]


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_labels_in_player_time(tmp_path: Path, name: str) -> None:
    """Pictures begin in second 2; the action of class 1 in second 3."""
    path = write_late(tmp_path / name, late_s=2)
    sample = Sample(str(path), actions=(Action(0, 2.0, 3.0), Action(1, 3.0, 4.0)))
    dataset = ClipDataset(
        [sample],
        plan=StridedClips(4, 1, 24.0, random=True),
        crops=FixedCrops(lambda frames: [frames], ActionsShown(2)),
        backend="pyav",
    )
    for epoch in range(20):
        (clip,) = dataset[epoch, 0].clips
        expected = sorted({number // 24 for number in read_barcodes(clip.frames_THWC)})
        assert isinstance(clip.label, torch.Tensor) and clip.label.nonzero().flatten().tolist() == expected


def test_key_frames_in_player_time(tmp_path: Path) -> None:
    path = write_late(tmp_path / "late.mp4", late_s=2)
    with open_video(path, "pyav") as video:
        (expected,) = AroundKeyFrame(4, 2, 24.0).at(1.0, video.num_frames, video.fps)
    sample = Sample(str(path), key=KeyFrame("late", 3.0, ()))
    dataset = ClipDataset(
        [sample],
        plan=AroundKeyFrame(4, 2, 24.0),
        crops=FixedCrops(lambda frames: [frames]),
        backend="pyav",
    )
    (clip,) = dataset[0, 0].clips
    assert read_barcodes(clip.frames_THWC) == expected.tolist() == [20, 22, 24, 26]


def test_check_compares_player_time(tmp_path: Path) -> None:
    """The check of prepared data sets reports no correct label."""
    late = write_late(tmp_path / "late.mp4", late_s=2)
    dropped = write_video(
        tmp_path / "dropped.avi", num_frames=40, fps=25, codec="mpeg4", bframes=0, pts=range(0, 120, 3)
    )
    for path, end_s in ((late, 4.0), (dropped, 4.8)):
        inspection = inspect_file(str(path), backend="pyav", timeout_s=0.0)
        assert not inspection.error and inspection.end_s == pytest.approx(end_s, abs=0.07)
        label = Entry(str(path), "train", latest_s=end_s - 0.5)
        assert not list(compare(label, inspection))
        assert [finding.kind for finding in compare(replace(label, latest_s=end_s + 0.5), inspection)] == ["mislabeled"]
