"""The fast operations against PIL, singly and combined, and windows against whole frames."""

import numpy as np
import pytest
import torch
from PIL import Image

from videovit.data.transforms import fast_operations, pil_operations
from videovit.data.transforms.pil_operations import OPERATIONS, Step
from videovit.data.transforms.randaugment import level_to_argument, parse_randaugment
from videovit.data.transforms.spatial import Box, cut

EXACT = {"AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd", "Contrast", "Brightness"}
MOVING = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}


def clip(num_frames=3, height=45, width=64):
    """Frames with edges, smooth areas, noise, and a channel that does not use all levels."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[0:height, 0:width]
    frames = rng.normal(0, 6, (num_frames, height, width, 3))
    frames += (90 + 70 * np.sin(rows / 7 + columns / 5))[None, :, :, None]
    frames[:, 10:30, 20:40] = 235
    frames[..., 2] = frames[..., 2] * 0.4 + 40
    for number in range(num_frames):
        frames[number] *= 1 - 0.15 * number
    return torch.from_numpy(frames.clip(0, 255).astype(np.uint8))


def whole(frames):
    return Box(0, 0, *frames.shape[1:3])


def difference(frames, plan):
    fast = fast_operations.apply_steps(frames, plan, whole(frames))
    pil = pil_operations.apply_steps(frames, plan, whole(frames))
    assert fast.dtype == torch.uint8 and fast.shape == pil.shape
    return (fast.int() - pil.int()).abs()


@pytest.mark.parametrize("increasing", [True, False], ids=["inc1", "inc0"])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_operation_equals_pil(name, increasing):
    frames = clip()
    kernels = [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR] if name in MOVING else [Image.Resampling.BICUBIC]
    for level in (0.0, 3.3, 7.0, 10.0):
        for sign in (1, -1):
            argument = level_to_argument(name, level, increasing=increasing, sign=sign)
            for resample in kernels:
                found = difference(frames, [Step(name, argument, resample)])
                if name in EXACT:
                    assert found.max() == 0, (level, sign)
                else:  # PIL truncates, so 99.99999 and 100 differ by a level; weights of 0.2 produce many of those
                    assert found.max() <= 1 and found.float().mean() < 0.04, (level, sign, resample)


@pytest.mark.parametrize("name", sorted(MOVING))
def test_operation_several_tiles(name):
    step = Step(name, level_to_argument(name, 7.0, increasing=True, sign=1), Image.Resampling.BICUBIC)
    found = difference(clip(num_frames=1, height=150, width=270), [step])
    assert found.max() <= 1 and found.float().mean() < 0.01


@pytest.mark.parametrize("name", sorted(MOVING))
def test_nearest_equals_pil_except_ties(name):
    for sign in (1, -1):
        argument = level_to_argument(name, 7.0, increasing=True, sign=sign)
        found = difference(clip(), [Step(name, argument, Image.Resampling.NEAREST)])
        assert (found > 0).float().mean() < 0.01


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize", "Contrast", "Color", "Sharpness", "Rotate"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (7, 3)])
def test_operation_flat_and_tiny_frames(name, shape):
    frames = torch.full((2, *shape, 3), 77, dtype=torch.uint8)
    frames[1, 0, 0] = 200
    argument = level_to_argument(name, 7.0, increasing=True, sign=1)
    assert difference(frames, [Step(name, argument, Image.Resampling.BICUBIC)]).max() <= 1


@pytest.mark.parametrize("name", sorted(MOVING))
def test_operation_fill_color(name):
    fill = (10, 100, 200)
    step = Step(name, level_to_argument(name, 10.0, increasing=True, sign=1), Image.Resampling.BICUBIC, fill)
    frames = clip()
    fast, pil = (module.apply_steps(frames, [step], whole(frames)) for module in (fast_operations, pil_operations))
    outside = (pil == torch.tensor(fill)).all(dim=-1)
    assert outside.float().mean() > 0.05 and torch.equal((fast == torch.tensor(fill)).all(dim=-1), outside)


def test_plan_close_to_pil():
    """Rarely, the next operation carries a difference of one level over a threshold."""
    augment = parse_randaugment("rand-m7-n4-mstd0.5-inc1-p1", interpolation="random")
    frames, means = clip(num_frames=2), []
    for seed in range(40):
        found = difference(frames, augment.draw(np.random.default_rng(seed))).float()
        means.append(found.mean().item())
        assert (found > 1).float().mean() < 0.02
    assert np.mean(means) < 0.03


def test_window_equals_whole_frame():
    augment = parse_randaugment("rand-m9-n5-mstd0.5-inc1-p1", interpolation="random")
    frames = clip(num_frames=2)
    windows = [Box(0, 0, 20, 20), Box(25, 30, 20, 34), Box(11, 13, 5, 40), Box(44, 63, 1, 1), whole(frames)]
    for seed in range(40):
        plan, window = augment.draw(np.random.default_rng(seed)), windows[seed % len(windows)]
        full = cut(fast_operations.apply_steps(frames, plan, whole(frames)), window)
        part = fast_operations.apply_steps(frames, plan, window)
        assert part.shape == full.shape
        differing = (part.int() - full.int()).abs()
        assert (differing > 1).float().mean() <= 0.002 and differing.float().mean() < 0.02


def test_apply_steps_input_unchanged():
    frames = clip()
    before = frames.clone()
    for name in OPERATIONS:
        argument = level_to_argument(name, 9.0, increasing=True, sign=1)
        fast_operations.apply_steps(frames, [Step(name, argument, Image.Resampling.BICUBIC)], Box(3, 4, 20, 20))
        assert torch.equal(frames, before), name


def test_apply_steps_on_view():
    large = clip(num_frames=4)
    frames = large[1:3, 5:40, 7:50]
    for name in OPERATIONS:
        step = Step(name, level_to_argument(name, 7.0, increasing=True, sign=-1), Image.Resampling.BICUBIC)
        assert difference(frames, [step]).max() <= 1, name
