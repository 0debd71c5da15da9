"""MixUp and CutMix, with targets against timm."""

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup as TimmMixup
from timm.data.mixup import mixup_target

from videovit.data.transforms.mixup import Mixup, cutmix_box, mix_clips, mix_targets, paste_clips
from videovit.data.transforms.spatial import Box


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def batch(size=4, side=16):
    return torch.randn(size, 3, 2, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.8125, 1.0])
def test_mixup_targets_equal_timm(lam, smoothing):
    labels = torch.tensor([3, 0, 9, 9, 1, 4])
    ours = mix_targets(labels, 10, lam, smoothing)
    assert torch.allclose(ours, mixup_target(labels, 10, lam, smoothing), atol=1e-7)
    assert torch.allclose(ours.sum(1), torch.ones(6), atol=1e-6)


class LegacyRandom:
    """numpy's global generator with the new interface, so that timm and videovit draw the same numbers."""

    random = staticmethod(np.random.rand)
    beta = staticmethod(np.random.beta)
    integers = staticmethod(np.random.randint)


def test_mixup_batch_equals_timm():
    """Clips, lambda and targets. Unlike PySlowFast's, timm's rectangle is a pixel larger if its side is odd."""
    settings = dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.8, label_smoothing=0.1, num_classes=7)
    ours, theirs = Mixup(**settings), TimmMixup(**settings, mode="batch")
    x, labels = torch.randn(4, 3, 2, 24, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 0, 6, 3])
    num_equal = num_mixed = 0
    for seed in range(120):
        np.random.seed(seed)
        wanted, wanted_targets = theirs(x.flatten(1, 2).clone(), labels)
        np.random.seed(seed)
        found, targets = ours(x.clone(), labels, LegacyRandom())
        equal = torch.allclose(found.flatten(1, 2), wanted, atol=1e-6)
        if not equal:
            np.random.seed(seed)
            lam, cut = ours.draw(LegacyRandom())
            sides = int(24 * np.sqrt(1 - lam)), int(32 * np.sqrt(1 - lam))
            assert cut and any(side % 2 for side in sides), seed
            box, _ = cutmix_box(24, 32, lam, LegacyRandom())
            differing = (found.flatten(1, 2) != wanted).any(1).any(0)
            assert differing.sum() <= box.height + box.width + 1
            continue
        torch.testing.assert_close(targets, wanted_targets)
        num_equal += 1
        num_mixed += not torch.equal(found, x)
    assert num_equal > 60 and num_mixed > 40


def test_mixup_label_smoothing():
    targets = mix_targets(torch.tensor([1]), 4, 1.0, 0.2)
    assert torch.allclose(targets, torch.tensor([[0.05, 0.85, 0.05, 0.05]]))


def test_mixup_mean_with_flipped_batch():
    x = batch()
    expected = 0.3 * x + 0.7 * x.flip(0)
    assert torch.allclose(mix_clips(x.clone(), 0.3), expected, atol=1e-6)


def test_cutmix_one_rectangle():
    x = batch()
    mixed = paste_clips(x.clone(), Box(2, 5, 6, 7))
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[2:8, 5:12] = True
    assert torch.equal(mixed[..., inside], x.flip(0)[..., inside])
    assert torch.equal(mixed[..., ~inside], x[..., ~inside])


def test_cutmix_lambda_of_clipped_box():
    rng = np.random.default_rng(0)
    clipped = 0
    for _ in range(500):
        wanted = rng.beta(1.0, 1.0)
        box, lam = cutmix_box(40, 60, wanted, rng)
        assert min(box) >= 0 and box.top + box.height <= 40 and box.left + box.width <= 60
        assert lam == pytest.approx(1 - box.height * box.width / 2400)
        assert lam >= wanted - 1e-9
        clipped += lam > wanted + 0.1
    assert clipped > 50


def test_cutmix_target_equals_pixel_share():
    mixup = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, num_classes=2)
    x = torch.stack([torch.zeros(3, 2, 20, 30), torch.ones(3, 2, 20, 30)])
    for seed in range(20):
        mixed, targets = mixup(x.clone(), torch.tensor([0, 1]), np.random.default_rng(seed))
        assert mixed[0].mean().item() == pytest.approx(targets[0, 1].item(), abs=1e-6)
        assert mixed[1].mean().item() == pytest.approx(targets[1, 1].item(), abs=1e-6)


def test_mixup_one_lambda():
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=0.0, num_classes=2)
    x = torch.stack([torch.zeros(3, 2, 4, 4), torch.ones(3, 2, 4, 4)])
    mixed, targets = mixup(x, torch.tensor([0, 1]), np.random.default_rng(1))
    assert 0 < targets[0, 1] < 1
    assert torch.allclose(mixed[0], targets[0, 1].expand_as(mixed[0]), atol=1e-6)


def test_mixup_frequencies():
    rng = np.random.default_rng(0)
    draws = [
        Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.6, switch_prob=0.25, num_classes=2).draw(rng)
        for _ in range(4000)
    ]
    mixed = [cut for lam, cut in draws if lam < 1.0]
    assert abs(len(mixed) / 4000 - 0.6) < 0.03
    assert abs(np.mean(mixed) - 0.25) < 0.03
    assert not any(Mixup(mixup_alpha=0.8, cutmix_alpha=0.0, num_classes=2).draw(rng)[1] for _ in range(50))
    assert all(Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, num_classes=2).draw(rng)[1] for _ in range(50))


def test_mixup_not_applied_smooths_only():
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.0, label_smoothing=0.1, num_classes=5)
    x = batch()
    mixed, targets = mixup(x.clone(), torch.tensor([0, 1, 2, 3]), np.random.default_rng(0))
    assert torch.equal(mixed, x)
    assert torch.allclose(targets, mix_targets(torch.tensor([0, 1, 2, 3]), 5, 1.0, 0.1))


def test_mixup_without_alpha_raises():
    with pytest.raises(ValueError, match=r"MIXUP\.ALPHA 0\.0 and MIXUP\.CUTMIX_ALPHA 0\.0.*at least one"):
        Mixup(mixup_alpha=0.0, cutmix_alpha=0.0, num_classes=2)
