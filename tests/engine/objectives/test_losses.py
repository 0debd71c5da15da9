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


WEIGHTS = [0.5, 2.0, 1.0, 0.25, 3.0]


@pytest.mark.parametrize("name", ["cross_entropy", "soft_cross_entropy"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_are_those_of_torch(name: str, smoothing: float) -> None:
    weights = WEIGHTS[: logits().shape[1]]
    loss = build_loss(name, label_smoothing=smoothing, class_weights=weights)
    torchs = nn.CrossEntropyLoss(torch.tensor(weights), label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(loss(logits(), LABELS), torchs(logits(), LABELS).mean())
    # Probabilities: torch's own mean, also for the rows that smooth the same labels.
    rows = nn.functional.one_hot(LABELS, logits().shape[1]) * (1 - smoothing) + smoothing / logits().shape[1]
    torch.testing.assert_close(loss(logits(), rows), nn.CrossEntropyLoss(torch.tensor(weights))(logits(), rows))
    torch.testing.assert_close(loss(logits(), rows), loss(logits(), LABELS))
    mixed = 0.3 * rows + 0.7 * rows.flip(0)
    torch.testing.assert_close(loss(logits(), mixed), nn.CrossEntropyLoss(torch.tensor(weights))(logits(), mixed))


def test_weighted_loss_is_that_of_its_parts() -> None:
    """Parts with other classes have other sums of weights, by which torch's mean would divide."""
    weights = WEIGHTS[: logits().shape[1]]
    loss, many = build_loss("cross_entropy", class_weights=weights), logits()
    whole = loss(many, LABELS) * len(LABELS)
    torch.testing.assert_close(loss(many[:1], LABELS[:1]) + loss(many[1:], LABELS[1:]) * (len(LABELS) - 1), whole)


@pytest.mark.parametrize("name", ["bce", "bce_logit"])
def test_class_weights_of_binary_losses_are_torchs_pos_weight(name: str) -> None:
    weights, many = WEIGHTS[: logits().shape[1]], (logits() > 0.5).float()
    loss, torchs = build_loss(name, class_weights=weights), nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights))
    torch.testing.assert_close(loss(logits(), many), torchs(logits(), many))
    one = nn.functional.one_hot(LABELS, logits().shape[1]).float()
    torch.testing.assert_close(loss(logits(), LABELS), torchs(logits(), one))
    assert loss(logits()[:0], many[:0]) == 0.0


@pytest.mark.parametrize("name", ["cross_entropy", "bce"])
def test_weights_of_one_change_nothing(name: str) -> None:
    loss = build_loss(name, class_weights=[1.0] * logits().shape[1])
    torch.testing.assert_close(loss(logits(), LABELS), build_loss(name)(logits(), LABELS))
