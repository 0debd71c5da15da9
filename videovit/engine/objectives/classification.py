"""Classification of clips, or of boxes in clips: one class or several, with or without mixup."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from videovit.config import Config
from videovit.data.transforms.mixup import Mixup
from videovit.data.transforms.pipeline import build_mixup
from videovit.engine.objectives.losses import Loss, build_loss
from videovit.engine.objectives.objective import Example, Losses, Objective, StepKey


class Classification(Objective):
    """A loss between logits and labels; both classifiers of a distilled model learn the labels.

    Args:
        loss: (logits, targets) -> mean over the targets.
        mixup: mixes the clips and the labels of a batch; None leaves them alone.
    """

    def __init__(self, loss: Loss, mixup: Mixup | None = None) -> None:
        self.loss, self.mixup = loss, mixup

    def prepare(self, example: Example, key: StepKey) -> Example:
        if self.mixup is None:
            return example
        # Each clip is mixed with its mirror image in the batch, so this comes before the batch is cut.
        x_BCTHW, targets = self.mixup(example.x_BCTHW, example.targets, key.rng())
        return replace(example, x_BCTHW=x_BCTHW, targets=targets)

    def __call__(self, model: nn.Module, example: Example) -> Losses:
        logits, distillation = both_logits(model(example.x_BCTHW, example.boxes_R5))
        labels = self.loss(logits, example.targets)
        if distillation is not logits:
            labels = (labels + self.loss(distillation, example.targets)) / 2
        return Losses(labels, {"labels": labels})


def both_logits(output: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The logits that learn labels, and those that learn from a teacher: the same, unless a model has two classifiers.

    Args:
        output: what a model returned in training, see `DistilledLogits`.
    """
    if isinstance(output, tuple):
        logits, distillation = output
        return logits, distillation
    return output, output


def build_classification(cfg: Config) -> Classification:
    """Classification by `MODEL.LOSS_FUNC`, with the mixup of `MIXUP.*`.

    Args:
        cfg: `MODEL.CLASS_WEIGHTS` are numbers, or none; `Problem.objective` has computed them if they are `auto`.
    """
    weights = cfg.MODEL.CLASS_WEIGHTS
    if weights == "auto":
        raise ValueError("MODEL.CLASS_WEIGHTS auto must be numbers by now")
    loss = build_loss(
        cfg.MODEL.LOSS_FUNC,
        label_smoothing=cfg.MODEL.LABEL_SMOOTHING,
        class_weights=None if weights == "none" else weights,
    )
    return Classification(loss, build_mixup(cfg))
