"""The transforms built from the config."""

import numpy as np
import pytest
import torch
from PIL import Image

from videovit.config import load_config
from videovit.data.build import build_dataset
from videovit.data.records import Sample
from videovit.data.transforms import spatial
from videovit.data.transforms.color_jitter import ColorJitter
from videovit.data.transforms.pipeline import (
    EvalTransform,
    Preparation,
    TrainTransform,
    build_eval_transform,
    build_mixup,
    build_preparation,
    build_train_transform,
)
from videovit.data.transforms.randaugment import parse_randaugment


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def config(**values):
    """A config from keys with __ in place of the dot."""
    opts = []
    for key, value in values.items():
        opts += [key.replace("__", "."), str(value)]
    return load_config(opts=opts)


def noise(num_frames=3, height=96, width=128, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, height, width, 3), dtype=torch.uint8, generator=generator)


def test_train_transform_same_seed_same_clip():
    transform = TrainTransform(crop_size=48, short_side=(56, 70), augment=parse_randaugment("rand-m7-n4-mstd0.5-inc1"))
    first, again, other = (transform(noise(), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.shape == (3, 48, 48, 3) and first.dtype == torch.uint8 and first.is_contiguous()
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_train_transform_same_for_all_frames():
    same = noise(1).expand(4, -1, -1, -1)
    for area in (None, (0.08, 1.0)):
        transform = TrainTransform(crop_size=48, short_side=(56, 70), area=area)
        for seed in range(5):
            clip = transform(same, np.random.default_rng(seed))
            assert all(torch.equal(clip[0], frame) for frame in clip[1:])


@pytest.mark.parametrize(("flip", "share"), [(True, 0.5), (False, 0.0)])
def test_flip_half_of_clips(flip, share):
    cfg = config(
        DATA__TRAIN_JITTER_SCALES="[16, 16]", DATA__TRAIN_CROP_SIZE=16, DATA__TEST_CROP_SIZE=16, DATA__RANDOM_FLIP=flip
    )
    transform = build_train_transform(cfg)
    clip = noise(1, 16, 16)
    mirrored = [not torch.equal(transform(clip, np.random.default_rng(seed)), clip) for seed in range(400)]
    assert abs(np.mean(mirrored) - share) < 0.08


def test_train_transform_scale_jitter_or_inception():
    jitter = build_train_transform(config(DATA__TRAIN_JITTER_SCALES="[256, 320]", DATA__INV_UNIFORM_SAMPLE=True))
    assert jitter.area is None and jitter.short_side == (256, 320) and jitter.inverse_uniform
    inception = build_train_transform(
        config(DATA__TRAIN_JITTER_SCALES_RELATIVE="[0.2, 0.9]", DATA__TRAIN_JITTER_ASPECT_RELATIVE="[0.75, 1.3333]")
    )
    assert inception.area == (0.2, 0.9) and inception.aspect == (0.75, 1.3333)


def test_augmentation_disabled():
    recipe = dict(
        AUG__AA_TYPE="rand-m9-n6-mstd0.5-inc1", AUG__RE_PROB=0.3, AUG__RE_COUNT=2, AUG__INTERPOLATION="bilinear"
    )
    off = config(AUG__ENABLE=False, **recipe)
    assert build_train_transform(off).augment is None and build_preparation(off, train=True).erasing is None
    on = config(AUG__ENABLE=True, **recipe)
    augment, erasing = build_train_transform(on).augment, build_preparation(on, train=True).erasing
    assert (augment.level, augment.num_ops, augment.interpolation) == (9.0, 6, "bilinear")
    assert (erasing.prob, erasing.mode, erasing.count) == (0.3, "pixel", 2)
    assert build_preparation(on, train=False).erasing is None


def test_color_jitter_without_randaugment():
    jitter = build_train_transform(config(AUG__ENABLE=True, AUG__AA_TYPE="", AUG__BACKEND="pil")).augment
    assert jitter == ColorJitter(strength=0.4, backend="pil")
    assert build_train_transform(config(AUG__ENABLE=False, AUG__AA_TYPE="")).augment is None
    for off in (0, None):
        cfg = config(AUG__ENABLE=True, AUG__AA_TYPE="", AUG__COLOR_JITTER=off)
        assert build_train_transform(cfg).augment is None


def test_eval_one_crop_centered():
    cfg = config(DATA__TRAIN_JITTER_SCALES="[64, 80]", DATA__TRAIN_CROP_SIZE=48, DATA__TEST_CROP_SIZE=48)
    (crop,) = build_eval_transform(cfg, 1)(noise())
    scaled = spatial.resize_short_side(noise(), 64)
    assert torch.equal(crop, spatial.cut(scaled, spatial.uniform_square(scaled, 48, 1)))
    assert crop.is_contiguous()


def test_eval_three_crops_span_longer_side():
    cfg = config(DATA__TRAIN_JITTER_SCALES="[64, 80]", DATA__TRAIN_CROP_SIZE=48, DATA__TEST_CROP_SIZE=48)
    left, center, right = build_eval_transform(cfg, 3)(noise())
    scaled = spatial.resize_short_side(noise(), 48)
    assert scaled.shape == (3, 48, 64, 3)
    assert torch.equal(left, scaled[:, :, :48])
    assert torch.equal(center, scaled[:, :, 8:56])
    assert torch.equal(right, scaled[:, :, 16:])


@pytest.mark.parametrize("num_crops", [1, 3])
def test_eval_short_side_configured(num_crops):
    cfg = config(
        DATA__TRAIN_JITTER_SCALES="[64, 80]",
        DATA__TRAIN_CROP_SIZE=48,
        DATA__TEST_CROP_SIZE=48,
        DATA__TEST_SHORT_SIDE=52,
    )
    assert build_eval_transform(cfg, num_crops).short_side == 52


def test_eval_val_and_test_crop_sizes():
    """Three test crops scale to their size, whatever the scales of training."""
    cfg = config(TEST__NUM_SPATIAL_CROPS=3, DATA__TEST_CROP_SIZE=312, DATA__TRAIN_CROP_SIZE=224)
    for split, size in (("val", 224), ("test", 312)):
        crops = build_dataset(cfg, split, [])._crops
        cuts = crops.cut(noise(), Sample("a.mp4", 0), (0.0, 1.0), np.random.default_rng(0))
        assert cuts[0][0].shape[1:3] == (size, size)


def test_crop_too_large_raises():
    with pytest.raises(ValueError, match="expected 1 or 3"):
        EvalTransform(short_side=64, crop_size=48, num_crops=2)
    with pytest.raises(ValueError, match="crop of 80 pixels is larger than the short side of 64"):
        EvalTransform(short_side=64, crop_size=80, num_crops=1)


def test_preparation_per_channel_statistics():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    frames = torch.stack([noise(seed=1), noise(seed=2)])
    x = Preparation(mean=mean, std=std)(frames)
    assert x.shape == (2, 3, 3, 96, 128) and x.dtype == torch.float32 and x.is_contiguous()
    expected = (frames.float() / 255 - torch.tensor(mean)) / torch.tensor(std)
    assert torch.allclose(x, expected.permute(0, 4, 1, 2, 3), atol=1e-6)


def test_preparation_channels_reversed_first():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    frames = noise()[None]
    reverse = Preparation(mean=mean, std=std, reverse_channels=True)(frames)
    assert torch.equal(reverse, Preparation(mean=mean, std=std)(frames.flip(-1)))


@pytest.mark.parametrize(("dataset", "reverse"), [("kinetics", False), ("kinetics", True), ("ssv2", True)])
def test_preparation_bgr_statistics_match_pyslowfast(dataset, reverse):
    """PySlowFast normalizes channels in the order it reads them (BGR in ssv2) and reverses them afterwards."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    keys = {"DATA__MEAN": mean, "DATA__STD": std, "DATA__REVERSE_INPUT_CHANNEL": reverse, "TEST__DATASET": dataset}
    cfg = config(**keys, TEST__NUM_ENSEMBLE_VIEWS=1)
    frames = noise()[None]
    read = frames.flip(-1) if dataset == "ssv2" else frames
    theirs = ((read.float() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 4, 1, 2, 3)
    theirs = theirs.flip(1) if reverse else theirs
    assert torch.allclose(build_preparation(cfg, train=False)(frames), theirs, atol=1e-5)


@pytest.mark.parametrize("channels", [(1,), (1, 1)])
@pytest.mark.parametrize("mean", [(0.4,), (0.4, 0.4, 0.4)])
@pytest.mark.parametrize("reverse", [False, True])
def test_preparation_one_channel_is_pillows_gray(channels, mean, reverse):
    keys = {"DATA__MEAN": mean, "DATA__STD": (0.2,), "DATA__REVERSE_INPUT_CHANNEL": reverse}
    frames = noise()[None]
    x = build_preparation(config(DATA__INPUT_CHANNEL_NUM=channels, **keys), train=False)(frames)
    gray = np.stack([np.asarray(Image.fromarray(frame.numpy()).convert("L")) for frame in frames[0]])
    expected = (torch.from_numpy(gray).float() / 255 - 0.4) / 0.2
    assert x.shape == (1, 1, *frames.shape[1:4]) and x.is_contiguous()
    assert (x[0, 0] - expected).abs().max() <= 0.51 / 255 / 0.2  # Pillow rounds


def test_preparation_one_channel_is_erased():
    keys = {"DATA__INPUT_CHANNEL_NUM": (1,), "AUG__ENABLE": True, "AUG__RE_PROB": 1.0}
    frames = torch.stack([noise(seed=1), noise(seed=2)])
    x = build_preparation(config(**keys), train=True)(frames, torch.tensor([5, 6]))
    plain = build_preparation(config(**keys), train=False)(frames)
    assert x.shape == plain.shape and (x != plain).flatten(1).any(1).all()


def test_preparation_erasing_last_needs_seeds():
    cfg = config(AUG__ENABLE=True, AUG__RE_PROB=1.0, AUG__RE_MODE="const")
    prepare = build_preparation(cfg, train=True)
    frames = torch.stack([noise(seed=1), noise(seed=2)])
    x = prepare(frames, torch.tensor([5, 6]))
    plain = build_preparation(cfg, train=False)(frames)
    changed = x != plain
    assert changed.flatten(1).any(1).all() and x[changed].abs().max() == 0  # the mean color after normalization
    with pytest.raises(ValueError, match="one seed per clip"):
        prepare(frames)


def test_build_mixup():
    assert build_mixup(config(MIXUP__ENABLE=False)) is None
    mixup = build_mixup(
        config(MIXUP__ENABLE=True, MODEL__LOSS_FUNC="soft_cross_entropy", MODEL__NUM_CLASSES=12, MIXUP__ALPHA=0.3)
    )
    assert (mixup.mixup_alpha, mixup.cutmix_alpha, mixup.label_smoothing, mixup.num_classes) == (0.3, 1.0, 0.1, 12)
