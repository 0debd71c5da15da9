"""RandAugment against timm, operation by operation, on the same images and levels."""

import random

import numpy as np
import pytest
import timm.data.auto_augment as timm_augment
import torch
from PIL import Image

from videovit.data.transforms import randaugment
from videovit.data.transforms.pil_operations import Step
from videovit.data.transforms.randaugment import OPERATIONS, RandAugment, parse_randaugment
from videovit.data.transforms.spatial import Box
from videovit.errors import UserError

INCREASING = {"Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness"}


def scene(seed=0, height=48, width=64):
    """A smooth image with noise, which every operation changes."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [100 + 60 * np.sin(rows / (5 + k) + seed) + 40 * np.cos(columns / (4 + 2 * k)) for k in range(3)]
    return (np.stack(waves, axis=-1) + rng.normal(0, 8, (height, width, 3))).clip(0, 255).astype(np.uint8)


def clip(num_frames=3):
    return torch.from_numpy(np.stack([scene(seed) for seed in range(num_frames)]))


def augmented(augment, frames, seed):
    """Augment whole frames."""
    plan = augment.draw(np.random.default_rng(seed))
    return augment.apply(frames, plan, Box(0, 0, *frames.shape[1:3]))


def timm_operation(name, increasing, level, resample):
    timm_name = f"{name}Increasing" if increasing and name in INCREASING else name
    hparams = {"img_mean": (128, 128, 128), "interpolation": resample}
    return timm_augment.AugmentOp(timm_name, prob=1.0, magnitude=level, hparams=hparams)


def force_timm_sign(monkeypatch, sign):
    """timm negates when random.random() > 0.5."""
    monkeypatch.setattr(random, "random", lambda: 0.1 if sign > 0 else 0.9)


@pytest.mark.parametrize("increasing", [True, False], ids=["inc1", "inc0"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_operation_equals_timm(name, sign, increasing, monkeypatch):
    force_timm_sign(monkeypatch, sign)
    for level in (0.0, 3.2, 7.0, 9.4, 10.0):
        for resample in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR):
            picture = Image.fromarray(scene())
            argument = randaugment.level_to_argument(name, level, increasing=increasing, sign=sign)
            ours = OPERATIONS[name](picture, Step(name, argument, resample))
            if name == "Posterize" and argument == 0:  # rejected by recent Pillow, black in older versions
                assert not np.asarray(ours).any()
                continue
            theirs = timm_operation(name, increasing, level, resample)(Image.fromarray(scene()))
            assert np.array_equal(np.asarray(ours), np.asarray(theirs)), (level, resample)


def test_operations_same_set_as_timm():
    increasing = {f"{name}Increasing" if name in INCREASING else name for name in OPERATIONS}
    assert increasing == set(timm_augment._RAND_INCREASING_TRANSFORMS)
    assert set(OPERATIONS) == set(timm_augment._RAND_TRANSFORMS)


@pytest.mark.parametrize("text", ["rand-m7-n4-mstd0.5-inc1", "rand-m9-n6-mstd0.5-inc1", "rand-m9-mstd0.5-inc1", "rand"])
def test_parse_equals_timm(text):
    ours = parse_randaugment(text)
    theirs = timm_augment.rand_augment_transform(text, {"translate_const": 100})
    assert ours.num_ops == theirs.num_layers
    assert ours.level == theirs.ops[0].magnitude
    assert ours.prob == theirs.ops[0].prob
    assert ours.level_std == theirs.ops[0].magnitude_std
    assert ours.increasing == any(op.name == "ColorIncreasing" for op in theirs.ops)


def test_parse_any_order():
    assert parse_randaugment("rand-inc1-p0.3-n3-m5", interpolation="bilinear") == RandAugment(
        level=5.0, num_ops=3, prob=0.3, increasing=True, interpolation="bilinear"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("rand-m7-q4", "'q4'"),
        ("augmix-m3", "'augmix'"),
        ("rand-m7-n4-w0", "'w0'"),
        ("rand-mx", "'mx'"),
        ("rand-m11", r"level m in 0\.\.10"),
        ("rand-n1.5", "integer n"),
        ("rand-p2", "probability"),
        ("rand-inc2", "inc0 or inc1"),
    ],
)
def test_parse_invalid_raises(text, found):
    with pytest.raises(UserError, match=found) as error:
        parse_randaugment(text)
    assert "AUG.AA_TYPE" in str(error.value)


def test_parse_unknown_interpolation_raises():
    with pytest.raises(UserError, match=r"AUG\.INTERPOLATION: found 'cubic', expected one of bilinear, bicubic"):
        parse_randaugment("rand-m7", interpolation="cubic")


def test_parse_unknown_backend_raises():
    with pytest.raises(UserError, match=r"AUG\.BACKEND: found 'cuda', expected one of fast, pil"):
        parse_randaugment("rand-m7", backend="cuda")


@pytest.mark.parametrize("backend", ["fast", "pil"])
def test_randaugment_same_for_all_frames(backend):
    augment = parse_randaugment("rand-m9-n6-mstd0.5-inc1-p1", interpolation="random", backend=backend)
    same = clip(1).expand(4, -1, -1, -1)
    for seed in range(20):
        found = augmented(augment, same, seed)
        assert found.dtype == torch.uint8 and found.shape == same.shape
        assert all(torch.equal(found[0], frame) for frame in found[1:])


def test_randaugment_equals_timm_per_frame(monkeypatch):
    augment = parse_randaugment("rand-m7-n4-mstd0.5-inc1-p1", backend="pil")
    frames = clip()
    for seed in range(10):
        plan = augment.draw(np.random.default_rng(seed))
        pictures = [Image.fromarray(frame.numpy()) for frame in frames]
        for name, argument, resample, fill in plan:
            timm_name = f"{name}Increasing" if name in INCREASING else name
            function = timm_augment.NAME_TO_OP[timm_name]
            arguments = (argument,) if timm_augment.LEVEL_TO_ARG[timm_name] else ()
            options = {"fillcolor": fill, "resample": resample}
            pictures = [function(picture, *arguments, **dict(options)) for picture in pictures]
        expected = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
        assert torch.equal(augmented(augment, frames, seed), expected)


def test_randaugment_frequencies_and_levels():
    augment = parse_randaugment("rand-m7-n4-mstd0.5-inc1")
    rng = np.random.default_rng(0)
    plans = [augment.draw(rng) for _ in range(4000)]
    assert abs(np.mean([len(plan) for plan in plans]) - 2.0) < 0.06  # four drawn, half of them applied
    names = [step.name for plan in plans for step in plan]
    shares = np.array([names.count(name) for name in OPERATIONS]) / len(names)
    assert np.all(np.abs(shares - 1 / 15) < 0.01)
    angles = np.array([step.argument for plan in plans for step in plan if step.name == "Rotate"])
    assert abs((angles > 0).mean() - 0.5) < 0.1
    assert abs(np.abs(angles).mean() - 21.0) < 0.4 and abs(np.abs(angles).std() - 1.5) < 0.3


def test_randaugment_uniform_levels():
    rng = np.random.default_rng(0)
    plans = [parse_randaugment("rand-m8-n1-p1-mstd101").draw(rng) for _ in range(6000)]
    angles = np.abs([step.argument for plan in plans for step in plan if step.name == "Rotate"])
    assert angles.max() <= 24.0 and abs(angles.mean() - 12.0) < 1.2


@pytest.mark.parametrize("backend", ["fast", "pil"])
def test_randaugment_empty_plan_returns_view(backend):
    frames = clip()
    found = augmented(RandAugment(num_ops=4, prob=0.0, backend=backend), frames, 0)
    assert torch.equal(found, frames) and found.data_ptr() == frames.data_ptr()
