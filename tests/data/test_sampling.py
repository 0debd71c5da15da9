"""Frame indices: values of the published formulas, and invariants for every video length."""

from __future__ import annotations

import numpy as np
import pytest

from videovit.data.sampling import (
    AroundKeyFrame,
    EvenSpans,
    RandomSpans,
    key_frame_indices,
    random_start,
    span_indices,
    view_start,
)

LENGTHS = range(1, 201)


def test_span_indices_16x4() -> None:
    # 16 * 4 / 30 * 30 = 64 frames: positions 0, 4.2, 8.4, ... 63, truncated.
    indices = span_indices(300, 30.0, num_sampled=16, stride=4, target_fps=30, start=0.0)
    assert indices.tolist() == [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]
    assert indices.dtype == np.int64


def test_span_indices_other_fps() -> None:
    # At 15 fps the same 2.13 s are 32 frames: from 10 to 41 in 3 steps of 31 / 3.
    indices = span_indices(300, 15.0, num_sampled=4, stride=16, target_fps=30, start=10.0)
    assert indices.tolist() == [10, 20, 30, 41]


def test_span_indices_fractional_start() -> None:
    # 4 * 2 = 8 frames from 2.5 to 9.5: 2.5, 4.83, 7.17, 9.5.
    assert span_indices(20, 30.0, num_sampled=4, stride=2, target_fps=30, start=2.5).tolist() == [2, 4, 7, 9]


def test_span_indices_short_video_repeats_last_frame() -> None:
    assert span_indices(4, 30.0, num_sampled=4, stride=2, target_fps=30, start=0.0).tolist() == [0, 2, 3, 3]
    assert span_indices(1, 30.0, num_sampled=3, stride=8, target_fps=30, start=0.0).tolist() == [0, 0, 0]


def test_span_indices_no_frames_raises() -> None:
    with pytest.raises(ValueError, match="0 frames"):
        span_indices(0, 30.0, num_sampled=4, stride=2, target_fps=30, start=0.0)


@pytest.mark.parametrize(
    ("use_offset", "num_views", "starts"),
    [
        # 300 frames and a span of 64 leave room of 236.
        (True, 5, [0, 59, 118, 177, 236]),
        (True, 10, [0, 26, 52, 78, 104, 130, 156, 182, 208, 234]),  # steps of floor(236 / 9) = 26
        (True, 1, [118]),
        (False, 5, [0, 47.2, 94.4, 141.6, 188.8]),
        (False, 1, [0]),
    ],
)
def test_view_start_known_values(use_offset: bool, num_views: int, starts: list[float]) -> None:
    found = [
        view_start(
            300, 30.0, num_sampled=16, stride=4, target_fps=30, view=view, num_views=num_views, use_offset=use_offset
        )
        for view in range(num_views)
    ]
    assert found == pytest.approx(starts)


def test_view_start_odd_room_rounds_down() -> None:
    # 71 frames and a span of 64 leave room of 7: start 3.
    start = view_start(71, 30.0, num_sampled=16, stride=4, target_fps=30, view=0, num_views=1, use_offset=True)
    assert start == 3


@pytest.mark.parametrize("fps", [5.0, 23.976, 30.0, 59.94])
def test_plans_any_length_sorted_and_inside(fps: float) -> None:
    rng = np.random.default_rng(0)
    plans = [
        RandomSpans(16, 4, 30.0, num_clips=2, jitter_fps=5.0),
        EvenSpans(16, 4, 30.0, num_clips=5, use_offset=True),
        EvenSpans(8, 8, 30.0, num_clips=4, use_offset=False),
    ]
    for plan in plans:
        for length in LENGTHS:
            clips = plan(length, fps, rng)
            assert len(clips) == plan.num_clips
            for indices in clips:
                assert indices.shape == (plan.num_sampled,)
                assert indices[0] >= 0 and indices[-1] < length
                assert (np.diff(indices) >= 0).all()


def test_random_start_reaches_both_ends() -> None:
    rng = np.random.default_rng(0)
    starts = [random_start(164, 30.0, num_sampled=16, stride=4, target_fps=30, rng=rng) for _ in range(2000)]
    assert 0 <= min(starts) < 1 and 99 < max(starts) <= 100
    assert np.mean(starts) == pytest.approx(50, abs=3)
    assert random_start(10, 30.0, num_sampled=16, stride=4, target_fps=30, rng=rng) == 0


def test_view_start_last_view_ends_with_video() -> None:
    plan = EvenSpans(16, 4, 30.0, num_clips=5, use_offset=True)
    clips = plan(300, 30.0, np.random.default_rng(0))
    assert clips[0][0] == 0 and clips[-1][-1] == 299


def test_random_spans_jitter_shortens_span() -> None:
    # 30 to 60 fps: the span has 64 to 32 frames of a 30 fps video.
    plan = RandomSpans(16, 4, 30.0, jitter_fps=30.0)
    rng = np.random.default_rng(0)
    spans = [indices[-1] - indices[0] + 1 for indices in (plan(300, 30.0, rng)[0] for _ in range(300))]
    assert 31 <= min(spans) < 36 and 60 < max(spans) <= 65


def around(
    time_s: float, num_frames: int = 1000, fps: float = 30.0, num_sampled: int = 4, stride: int = 2
) -> list[int]:
    return key_frame_indices(
        num_frames, fps, num_sampled=num_sampled, stride=stride, target_fps=30, time_s=time_s
    ).tolist()


def test_key_frame_indices_known_values() -> None:
    # AVA's first key frame: second 902 of images from second 900 on is image 60; 16 x 4 frames start 32 before it.
    assert around(2.0, num_sampled=16, stride=4) == list(range(28, 92, 4))
    assert around(2.0) == [56, 58, 60, 62]
    assert around(0.0) == [0, 0, 0, 2]  # before the start the first frame is repeated
    assert around(2.0, num_frames=61) == [56, 58, 60, 60]  # after the end the last one
    assert around(1.0, num_sampled=3, stride=3) == [26, 29, 32]  # 9 frames, half of which is 4
    assert around(1.0, num_sampled=1, stride=1) == [30]


def test_key_frame_indices_other_fps() -> None:
    # 56, 58, 60, 62 at 30 fps are 44.8, 46.4, 48, 49.6 at 24 fps and 28, 29, 30, 31 at 15 fps
    assert around(2.0, fps=24.0) == [45, 46, 48, 50]
    assert around(2.0, fps=15.0) == [28, 29, 30, 31]
    # 24000 / 1001 fps, after one hour
    fps = 24000 / 1001
    assert around(3600.0, num_frames=200_000, fps=fps)[2] == round(3600 * fps)


def test_key_frame_indices_variable_fps() -> None:
    knots = np.array([0, 50, 200]), np.array([0.0, 4.0, 10.0])  # 12.5 fps, then 25
    plan = AroundKeyFrame(4, 2, 25.0)
    assert [plan.at(time_s, 200, 20.0, knots)[0].tolist() for time_s in (2.0, 4.0, 8.0, 99.0)] == [
        [23, 24, 25, 26],
        [48, 49, 50, 52],
        [146, 148, 150, 152],
        [199] * 4,
    ]


def test_around_key_frame_start_s() -> None:
    (indices,) = AroundKeyFrame(16, 4, 30.0, start_s=900.0).at(902.0, 27000, 30.0)
    assert indices.tolist() == list(range(28, 92, 4))
