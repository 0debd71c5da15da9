"""Still images: crops against torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_train
from torchvision.transforms import v2

from videovit.config import load_config
from videovit.data.transforms import spatial
from videovit.data.transforms.image import ImageEvalTransform, ImageTrainTransform
from videovit.data.transforms.pipeline import (
    build_image_eval_transform,
    build_image_train_transform,
    build_train_transform,
)
from videovit.data.transforms.randaugment import RandAugment


def noise(height: int, width: int) -> torch.Tensor:
    values = np.random.default_rng([height, width]).integers(0, 256, (1, height, width, 3))
    return torch.from_numpy(values.astype(np.uint8))


@pytest.mark.parametrize("size", [(90, 131), (131, 90), (64, 64), (31, 47)])
@pytest.mark.parametrize(("crop", "ratio"), [(56, 0.875), (33, 0.875), (40, 1.0)])
def test_image_eval_equals_torchvision(size: tuple[int, int], crop: int, ratio: float) -> None:
    image = noise(*size)
    theirs = v2.Compose([v2.Resize(int(crop / ratio), v2.InterpolationMode.BICUBIC), v2.CenterCrop(crop)])
    wanted = np.asarray(theirs(Image.fromarray(image[0].numpy())))
    (ours,) = ImageEvalTransform(crop_size=crop, crop_ratio=ratio)(image)
    assert ours.shape == (1, crop, crop, 3) and np.array_equal(ours[0].numpy(), wanted)


def test_image_train_crop_equals_torchvision() -> None:
    image = noise(50, 70)
    for seed in range(4):
        box = spatial.inception_box(50, 70, np.random.default_rng(seed), area=(0.08, 1.0))
        wanted = v2.functional.resized_crop(
            Image.fromarray(image[0].numpy()), *box, [24, 24], v2.InterpolationMode.BICUBIC
        )
        ours = ImageTrainTransform(crop_size=24, flip_prob=0.0)(image, np.random.default_rng(seed))
        assert np.array_equal(ours[0].numpy(), np.asarray(wanted))


def test_image_train_order_of_operations() -> None:
    image = noise(40, 40)
    whole = {"crop_size": 40, "area": (1.0, 1.0), "aspect": (1.0, 1.0)}
    flipped = ImageTrainTransform(**whole, flip_prob=1.0)(image, np.random.default_rng(0))  # type: ignore[arg-type]
    assert torch.equal(flipped, image.flip(2))
    augment = RandAugment(level=9.0, num_ops=4, prob=1.0)
    both = ImageTrainTransform(**whole, flip_prob=1.0, augment=augment)  # type: ignore[arg-type]
    rng = np.random.default_rng(3)
    ImageTrainTransform(**whole, flip_prob=1.0)(image, rng)  # type: ignore[arg-type]
    wanted = augment.apply(flipped, augment.draw(rng), spatial.Box(0, 0, 40, 40))
    assert torch.equal(both(image, np.random.default_rng(3)), wanted)


def test_image_transforms_from_config() -> None:
    opts = "DATA.NUM_FRAMES 1 DATA.TRAIN_CROP_SIZE 48 DATA.TEST_CROP_SIZE 64 DATA.IN_VAL_CROP_RATIO 0.9".split()
    evaluate = build_image_eval_transform(load_config(None, opts))
    assert (evaluate.crop_size, evaluate.crop_ratio) == (64, 0.9)
    train = build_image_train_transform(load_config(None, opts))
    assert (train.crop_size, train.area, train.aspect, train.flip_prob) == (48, (0.08, 1.0), (3 / 4, 4 / 3), 0.5)
    assert train.augment is None
    opts += ["AUG.ENABLE", "True", "AUG.INTERPOLATION", "random", "DATA.TRAIN_JITTER_SCALES_RELATIVE", "[0.5, 1.0]"]
    train = build_image_train_transform(load_config(None, opts))
    assert train.area == (0.5, 1.0) and train.augment is not None and len(train.resample) == 2


@pytest.mark.parametrize("reverse", [False, True])
def test_image_randaugment_fill_is_mean_color(reverse: bool) -> None:
    mean = (0.485, 0.456, 0.406)
    text = "rand-m9-mstd0.5-inc1"
    theirs = transforms_imagenet_train(48, auto_augment=text, mean=mean).transforms[2].ops[0].kwargs["fillcolor"]
    opts = ["AUG.ENABLE", "True", "AUG.AA_TYPE", text, "DATA.MEAN", str(list(mean))]
    cfg = load_config(None, [*opts, "DATA.NUM_FRAMES", "1", "DATA.REVERSE_INPUT_CHANNEL", str(reverse)])
    ours = build_image_train_transform(cfg).augment
    assert isinstance(ours, RandAugment) and ours.fill == theirs
    cfg_of_one = load_config(None, [*opts, "DATA.NUM_FRAMES", "1", "DATA.MEAN", "[0.5]", "DATA.STD", "[0.5]"])
    gray = build_image_train_transform(cfg_of_one).augment
    assert isinstance(gray, RandAugment) and gray.fill == (128, 128, 128)
    clips = build_train_transform(cfg).augment
    assert isinstance(clips, RandAugment) and clips.fill == (128, 128, 128)  # PySlowFast's fill for videos
