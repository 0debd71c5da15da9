"""Losses against those of torch and timm."""

import pytest
import torch
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from videovit.data.transforms.mixup import mix_targets
from videovit.engine.objectives import build_loss
from videovit.errors import UserError


def logits() -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * 3


LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.mark.parametrize("name", ["cross_entropy", "soft_cross_entropy"])
def test_class_numbers(name: str) -> None:
    torch.testing.assert_close(build_loss(name)(logits(), LABELS), nn.CrossEntropyLoss()(logits(), LABELS))


def test_label_smoothing_equals_timm_and_mixed_targets() -> None:
    """MODEL.LABEL_SMOOTHING on class numbers, and MIXUP.LABEL_SMOOTH_VALUE on the rows of an unmixed batch."""
    smoothed = build_loss("cross_entropy", label_smoothing=0.1)(logits(), LABELS)
    torch.testing.assert_close(smoothed, LabelSmoothingCrossEntropy(0.1)(logits(), LABELS))
    rows = mix_targets(LABELS, 5, 1.0, 0.1)
    torch.testing.assert_close(build_loss("soft_cross_entropy")(logits(), rows), smoothed)
    # Mixed targets are smoothed already: the loss does not smooth them again.
    torch.testing.assert_close(build_loss("cross_entropy", label_smoothing=0.1)(logits(), rows), smoothed)


def test_soft_targets_equal_timm() -> None:
    rows = mix_targets(LABELS, 5, 0.3, 0.1)
    torch.testing.assert_close(
        build_loss("soft_cross_entropy")(logits(), rows), SoftTargetCrossEntropy()(logits(), rows)
    )


@pytest.mark.parametrize("name", ["bce", "bce_logit"])
def test_binary_cross_entropy_equals_torch_and_timm(name: str) -> None:
    loss, many = build_loss(name), (logits() > 0.5).float()
    torch.testing.assert_close(loss(logits(), many), nn.BCEWithLogitsLoss()(logits(), many))
    torch.testing.assert_close(loss(logits(), many), nn.BCELoss()(logits().sigmoid(), many))
    torch.testing.assert_close(loss(logits(), LABELS), BinaryCrossEntropy(smoothing=0.0)(logits(), LABELS))


def test_loss_of_bf16_logits_is_fp32() -> None:
    loss = build_loss("cross_entropy")(logits().bfloat16(), LABELS)
    assert loss.dtype == torch.float32


def test_unknown_loss_is_named() -> None:
    with pytest.raises(UserError, match=r"MODEL\.LOSS_FUNC: found 'hinge', expected one of cross_entropy"):
        build_loss("hinge")
