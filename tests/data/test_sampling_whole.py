"""Segments of the whole video (Something-Something) and clips of exact stride (Charades), against simple formulas."""

from __future__ import annotations

import numpy as np
import pytest

from videovit.data.sampling import Segments, StridedClips


def bounds(num_frames: int, num_sampled: int) -> list[tuple[int, int]]:
    """First and last frame of each segment: round(i * (F - 1) / T), half to even."""
    size = float(num_frames - 1) / num_sampled
    return [(round(size * i), round(size * (i + 1))) for i in range(num_sampled)]


@pytest.mark.parametrize("num_sampled", [1, 4, 16, 32])
def test_segments_middle_frames(num_sampled: int) -> None:
    for num_frames in range(1, 201):
        (indices,) = Segments(num_sampled)(num_frames, 12.0, np.random.default_rng(0))
        expected = [(first + last) // 2 for first, last in bounds(num_frames, num_sampled)]
        assert indices.tolist() == expected and indices.dtype == np.int64


def test_segments_docstring_example() -> None:
    assert bounds(11, 4) == [(0, 2), (2, 5), (5, 8), (8, 10)]
    assert Segments(4)(11, 30.0, np.random.default_rng(0))[0].tolist() == [1, 3, 6, 9]


@pytest.mark.parametrize("num_frames", [1, 3, 16, 37])
def test_segments_random_stay_within_bounds(num_frames: int) -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([Segments(8, random=True)(num_frames, 30.0, rng)[0] for _ in range(400)])
    for place, (first, last) in enumerate(bounds(num_frames, 8)):
        assert set(drawn[:, place]) == set(range(first, last + 1))


@pytest.mark.parametrize("num_clips", [2, 10])
def test_strided_clips_even_starts(num_clips: int) -> None:
    for num_frames in (*range(1, 60), 200):
        clips = StridedClips(5, 4, 24.0, num_clips=num_clips)(num_frames, 24.0, np.random.default_rng(0))
        gap = max(num_frames - (4 * 4 + 1), 0) / (num_clips - 1)
        expected = [[max(min(round(gap * k) + 4 * i, num_frames - 1), 0) for i in range(5)] for k in range(num_clips)]
        assert [clip.tolist() for clip in clips] == expected


def test_strided_clips_single_centered_and_fps_scaled() -> None:
    rng = np.random.default_rng(0)
    assert StridedClips(3, 2, 24.0)(9, 24.0, rng)[0].tolist() == [2, 4, 6]
    assert StridedClips(3, 2, 24.0)(9, 48.0, rng)[0].tolist() == [0, 4, 8]
    assert StridedClips(4, 4, 24.0)(100, 30.0, rng)[0].tolist() == [42, 47, 52, 57]


@pytest.mark.parametrize(("num_frames", "starts"), [(20, range(12)), (9, range(1)), (5, range(-4, 1))])
def test_strided_clips_random_starts(num_frames: int, starts: range) -> None:
    """A clip of 9 frames; a shorter video is anywhere inside it."""
    rng = np.random.default_rng(0)
    drawn = {tuple(StridedClips(5, 2, 30.0, random=True)(num_frames, 30.0, rng)[0]) for _ in range(500)}
    expected = {tuple(min(max(s + 2 * i, 0), num_frames - 1) for i in range(5)) for s in starts}
    assert drawn == expected


@pytest.mark.parametrize("plan", [Segments(4), StridedClips(4, 2, 30.0)])
def test_plans_no_frames_raises(plan: Segments | StridedClips) -> None:
    with pytest.raises(ValueError, match="0 frames"):
        plan(0, 30.0, np.random.default_rng(0))
