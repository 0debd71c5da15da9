"""Color jitter against torchvision, on the same images with the same factors in the same order."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torchvision.transforms import ColorJitter as TorchvisionJitter

from videovit.data.transforms.color_jitter import ClipColor, ColorJitter
from videovit.data.transforms.spatial import Box

THEIRS = {"Brightness": TF.adjust_brightness, "Contrast": TF.adjust_contrast, "Color": TF.adjust_saturation}


def clip():
    return torch.randint(0, 256, (2, 20, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("backend", "most"), [("pil", 0), ("fast", 2)])
def test_color_jitter_equals_torchvision(backend, most):
    jitter, frames = ColorJitter(strength=0.4, backend=backend), clip()
    for seed in range(20):
        plan = jitter.draw(np.random.default_rng(seed))
        ours = jitter.apply(frames, plan, Box(0, 0, 20, 30))
        for frame, found in zip(frames, ours, strict=True):
            picture = Image.fromarray(frame.numpy())
            for step in plan:
                picture = THEIRS[step.name](picture, step.argument)
            assert np.abs(np.asarray(picture).astype(int) - found.numpy()).max() <= most


def test_color_jitter_draws_match_torchvision():
    rng = np.random.default_rng(0)
    plans = [ColorJitter(strength=0.4).draw(rng) for _ in range(3000)]
    theirs = TorchvisionJitter(0.4, 0.4, 0.4)
    for name, (low, high) in zip(
        ("Brightness", "Contrast", "Color"), (theirs.brightness, theirs.contrast, theirs.saturation), strict=True
    ):
        factors = np.array([step.argument for plan in plans for step in plan if step.name == name])
        assert len(factors) == 3000
        assert low <= factors.min() < low + 0.01 and high - 0.01 < factors.max() <= high
        assert abs(factors.mean() - (low + high) / 2) < 0.02
    orders = {tuple(step.name for step in plan) for plan in plans}
    assert len(orders) == 6


def test_color_jitter_strength_above_one():
    factors = [s.argument for seed in range(300) for s in ColorJitter(strength=1.5).draw(np.random.default_rng(seed))]
    assert 0 <= min(factors) < 0.05 and 2.4 < max(factors) <= 2.5


def test_clip_color_equals_torchvision_on_one_tall_picture():
    """PySlowFast stacks the frames of a clip and hands them to torchvision's PIL operations."""
    frames = clip()
    color = ClipColor(limits=(0.4, 0.3, 0.2), hue=0.1, gray_prob=0.5)
    seen_gray = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        is_gray = rng.random() < 0.5
        factors = [rng.uniform(1 - limit, 1 + limit) for limit in color.limits]
        turn = rng.uniform(-0.1, 0.1)
        tall = Image.fromarray(frames.numpy().reshape(-1, *frames.shape[2:]))
        if is_gray:
            tall = TF.rgb_to_grayscale(tall, 3)
        steps = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation]
        steps.append(TF.adjust_hue)
        for i in rng.permutation(4):
            tall = steps[i](tall, [*factors, turn][i])
        got = color(frames, np.random.default_rng(seed)).numpy().reshape(-1, *frames.shape[2:])
        # PIL rounds hue to 256 steps, and after every operation.
        assert np.abs(got.astype(int) - np.asarray(tall).astype(int)).mean() < 2.0, seed
        assert not is_gray or np.ptp(got, axis=-1).max() <= 1
        seen_gray.add(is_gray)
    assert seen_gray == {True, False}
