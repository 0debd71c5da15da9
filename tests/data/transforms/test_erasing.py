"""Random erasing of normalized clips."""

import random

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing

from videovit.data.transforms.erasing import Erasing, erase, erase_boxes


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def ones(batch=3, frames=4, side=32):
    return torch.full((batch, 3, frames, side, side), 7.0)


def seeds(*values):
    return torch.tensor(values, dtype=torch.int64)


def test_erase_same_rectangle_in_all_frames():
    x = erase(ones(), seeds(1, 2, 3), prob=1.0, mode="pixel")
    erased = x != 7.0
    for clip in erased:
        assert clip.any()
        assert torch.equal(clip, clip[:1, :1].expand_as(clip))
        rows, columns = clip[0, 0].any(1).sum(), clip[0, 0].any(0).sum()
        assert clip[0, 0].sum() == rows * columns  # a rectangle


def test_erase_pixel_noise_per_element():
    x = erase(torch.full((8, 3, 4, 64, 64), 7.0), torch.arange(8), prob=1.0, mode="pixel")
    values = x[x != 7.0]
    assert values.unique().numel() > 0.99 * values.numel()
    assert abs(values.mean()) < 0.03 and abs(values.std() - 1.0) < 0.03


def test_erase_rand_per_channel_and_frame():
    x = erase(ones(1), seeds(5), prob=1.0, mode="rand")
    for channel in x[0]:
        for frame in channel:
            assert frame[frame != 7.0].unique().numel() == 1
    assert x[x != 7.0].unique().numel() == 3 * 4


def test_erase_const_zero():
    x = erase(ones(1), seeds(5), prob=1.0, mode="const")
    assert x[x != 7.0].unique().tolist() == [0.0]


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_erase_depends_on_own_seed(mode):
    together = erase(ones(), seeds(11, 12, 13), prob=0.7, mode=mode)
    alone = [erase(ones(1), seeds(seed), prob=0.7, mode=mode)[0] for seed in (11, 12, 13)]
    assert torch.equal(together, torch.stack(alone))


def test_erase_in_place():
    x = ones()
    assert erase(x, seeds(1, 2, 3), prob=1.0) is x


def test_erase_distribution():
    drawn = [erase_boxes(112, 160, np.random.default_rng(seed), prob=0.25) for seed in range(8000)]
    assert abs(np.mean([len(boxes) for boxes in drawn]) - 0.25) < 0.02
    boxes = [box for boxes in drawn for box in boxes]
    areas = np.array([box.height * box.width / (112 * 160) for box in boxes])
    aspects = np.array([box.height / box.width for box in boxes])
    assert 0.018 < areas.min() < 0.03 and 0.3 < areas.max() < 0.345
    assert 0.27 < aspects.min() < 0.34 and 2.9 < aspects.max() < 3.6
    assert all(box.top + box.height <= 112 and box.left + box.width <= 160 for box in boxes)
    assert max(box.left + box.width for box in boxes) == 160 and min(box.top for box in boxes) == 0


class PythonRandom:
    """Python's generator with numpy's interface, so that timm and videovit draw the same numbers."""

    def random(self):
        return random.random()

    def uniform(self, low, high):
        return random.uniform(low, high)

    def integers(self, low, high):
        return low if high - low == 1 else random.randint(low, high - 1)


@pytest.mark.parametrize("count", [1, 3])
def test_erase_boxes_equal_timm(count):
    theirs = RandomErasing(probability=0.6, mode="const", max_count=count, device="cpu")
    num_erased = 0
    for seed in range(150):
        image = torch.ones(3, 40, 60)
        random.seed(seed)
        theirs(image)
        random.seed(seed)
        boxes = erase_boxes(40, 60, PythonRandom(), prob=0.6, count=count)
        ours = torch.ones(3, 40, 60)
        for top, left, height, width in boxes:
            ours[:, top : top + height, left : left + width] = 0
        assert torch.equal(ours, image), seed
        num_erased += bool(boxes)
    assert 60 < num_erased < 120


def test_erase_several_rectangles():
    counts = [len(erase_boxes(64, 64, np.random.default_rng(seed), prob=1.0, count=3)) for seed in range(300)]
    assert set(counts) == {1, 2, 3}
    for seed in range(50):
        boxes = erase_boxes(64, 64, np.random.default_rng(seed), prob=1.0, count=3)
        assert sum(box.height * box.width for box in boxes) <= 0.36 * 64 * 64


def test_erasing_invalid_settings_raise():
    with pytest.raises(ValueError, match=r"AUG\.RE_MODE: found 'noise', expected one of const, rand, pixel"):
        Erasing(prob=0.25, mode="noise")
    with pytest.raises(ValueError, match=r"AUG\.RE_COUNT: found 0"):
        Erasing(prob=0.25, count=0)
