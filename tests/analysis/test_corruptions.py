"""Corruptions: what each does, that they are functions of their seed, and errors relative to a reference."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from torch import Tensor

from tests.helpers.videos import barcode, read_barcodes
from videovit.analysis.corruptions import (
    BRIGHTNESS,
    CORRUPTIONS,
    LOST,
    NOISE,
    SEVERITIES,
    corrupt,
    mean_corruption_error,
)
from videovit.config.schema.evaluation import CorruptionName, Severity

T = 8


@pytest.fixture(scope="module")
def frames() -> Tensor:
    """A textured square that moves over a smooth background; odd sides, as large as the weakest blur needs."""
    rng = np.random.default_rng(0)
    square = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
    shade = np.linspace(20, 150, 129)[None, :, None] * np.array([1.0, 0.7, 0.4])
    clip = np.broadcast_to(shade, (T, 97, 129, 3)).astype(np.uint8).copy()
    for t in range(T):
        clip[t, 8:20, 3 * t : 3 * t + 12] = square
    return torch.from_numpy(clip)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_is_deterministic_and_grows(name: str, frames: Tensor) -> None:
    before = frames.clone()
    found = [corrupt(name, severity, frames, (0, 7, 0)) for severity in SEVERITIES]
    assert all(one.shape == frames.shape and one.dtype == torch.uint8 for one in found)
    assert torch.equal(frames, before)
    for _ in range(4):  # an encoder that reads memory of its own is not the same every time
        again = [corrupt(name, severity, frames, (0, 7, 0)) for severity in SEVERITIES]
        assert all(map(torch.equal, found, again))
    errors = [(one.float() - frames).abs().mean().item() for one in found]
    assert errors == sorted(errors) and errors[0] > 0
    others = [corrupt(name, 3, frames, (0, video, 0)) for video in range(20)]
    is_random = any(not torch.equal(one, found[2]) for one in others)
    assert is_random == (name in ("noise", "frame_drop", "frame_freeze"))


def test_config_and_table_name_the_same() -> None:
    assert get_args(CorruptionName) == tuple(CORRUPTIONS) and get_args(Severity) == SEVERITIES


def test_noise_has_its_standard_deviation() -> None:
    gray = torch.full((2, 64, 64, 3), 128, dtype=torch.uint8)
    for severity in (1, 2, 3):
        found = corrupt("noise", severity, gray, (severity,)).float() / 255
        assert found.std().item() == pytest.approx(NOISE[severity - 1], rel=0.03)
        assert found.mean().item() == pytest.approx(128 / 255, abs=0.01)


def test_brightness_raises_the_value(frames: Tensor) -> None:
    hsv = rgb_to_hsv(frames.numpy() / 255)
    hsv[..., 2] = (hsv[..., 2] + BRIGHTNESS[3]).clip(0, 1)
    expected = np.round(255 * hsv_to_rgb(hsv))
    assert np.abs(corrupt("brightness", 4, frames, (0,)).numpy() - expected).max() <= 1
    black = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    assert (corrupt("brightness", 1, black, (0,)) == round(255 * BRIGHTNESS[0])).all()


def test_lost_frames_show_the_last_one_that_came() -> None:
    clip = torch.from_numpy(np.stack([barcode(i) for i in range(T)]))
    for severity, share in zip(SEVERITIES, LOST, strict=True):
        for video in range(5):
            lost = round(share * T)
            dropped = read_barcodes(corrupt("frame_drop", severity, clip, (0, video)))
            assert dropped[0] == 0 and len(set(dropped)) == T - lost
            assert all(shown == place or shown == dropped[place - 1] for place, shown in enumerate(dropped) if place)
            frozen = read_barcodes(corrupt("frame_freeze", severity, clip, (0, video)))
            (stuck,) = {shown for shown in frozen if frozen.count(shown) > 1}
            assert frozen == [*range(stuck + 1), *[stuck] * lost, *range(stuck + lost + 1, T)]


def test_h264_of_one_frame_keeps_what_it_shows(frames: Tensor) -> None:
    found = corrupt("h264", 1, frames[:1], (0,))
    assert 0 < (found.float() - frames[:1]).abs().mean() < 10


def test_mean_corruption_error_by_hand() -> None:
    errors = {"blur": [10.0, 30.0], "noise": [5.0, 5.0]}
    reference = {"blur": [20.0, 60.0], "noise": [2.0, 3.0]}
    relative, mean = mean_corruption_error(errors, reference)
    assert relative == {"blur": 50.0, "noise": 200.0} and mean == 125.0
    assert mean_corruption_error(errors, errors)[1] == 100.0
    perfect = {"blur": [0.0, 0.0], "noise": [5.0, 5.0]}
    assert mean_corruption_error(perfect, perfect)[1] == 100.0
    assert mean_corruption_error(errors, perfect)[0]["blur"] == math.inf
