"""Distillation: the student learns labels, and what a trained teacher predicts for the same clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.config import Config, load_config
from videovit.config.schema.training import Distill
from videovit.engine.checkpoints.weights import load_all_weights
from videovit.engine.objectives.classification import Classification, both_logits, build_classification
from videovit.engine.objectives.objective import Example, Losses
from videovit.errors import UserError
from videovit.messages import plural
from videovit.models import build_model, optimize_for_inference
from videovit.models.zoo import find, load_zoo_config

SHARED = ("DATA.NUM_FRAMES", "DATA.MEAN", "DATA.STD", "DATA.REVERSE_INPUT_CHANNEL", "MODEL.NUM_CLASSES")
"""What the configs of a teacher and its student must agree on, since both get the same tensor."""


@dataclass(frozen=True)
class Teacher:
    """A trained model to learn from.

    Attributes:
        model: in evaluation mode.
        kind: `hard`, the student learns the teacher's top class; `soft`, all its scores.
        alpha: share of the teacher in the total loss; labels have the rest.
        tau: temperature of both sides of the soft form.

    Source: DeiT (arXiv 2012.12877), eqs. 2 and 3.
    """

    model: nn.Module
    kind: Literal["hard", "soft"]
    alpha: float = 0.5
    tau: float = 1.0

    @torch.no_grad()
    def logits(self, x_BCTHW: Tensor) -> Tensor:
        """The teacher's logits (B, K) for the student's input, mixed and erased as it is."""
        logits_BK: Tensor = self.model(x_BCTHW)
        return logits_BK

    def distance(self, logits_BK: Tensor, teacher_BK: Tensor) -> Tensor:
        """How far the student is from the teacher; a scalar, the mean over the batch.

        Args:
            logits_BK: the student's.
            teacher_BK: the teacher's.
        """
        logits_BK, teacher_BK = logits_BK.float(), teacher_BK.float()
        if self.kind == "hard":
            return F.cross_entropy(logits_BK, teacher_BK.argmax(dim=-1))
        student, teacher = (F.log_softmax(x / self.tau, dim=-1) for x in (logits_BK, teacher_BK))
        # A mean over the batch, as in the paper; DeiT's code also divides by the number of classes.
        return self.tau**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


class Distillation(Classification):
    """Labels and teacher; in a model with two classifiers the first learns the labels, the second the teacher.

    Args:
        labels: the objective without the teacher.
        teacher: whose predictions are learned.
    """

    def __init__(self, labels: Classification, teacher: Teacher) -> None:
        super().__init__(labels.loss, labels.mixup)
        self.teacher = teacher

    def __call__(self, model: nn.Module, example: Example) -> Losses:
        logits, distillation = both_logits(model(example.x_BCTHW, example.boxes_R5))
        alpha, teacher_BK = self.teacher.alpha, self.teacher.logits(example.x_BCTHW)
        labels = self.loss(logits, example.targets)
        teacher = self.teacher.distance(distillation, teacher_BK)
        return Losses((1.0 - alpha) * labels + alpha * teacher, {"labels": labels, "teacher": teacher})


def build_distillation(cfg: Config, device: torch.device) -> Distillation:
    """Classification with the teacher of `DISTILL.*`."""
    return Distillation(build_classification(cfg), build_teacher(cfg, device))


def build_teacher(cfg: Config, device: torch.device) -> Teacher:
    """Load the teacher of `DISTILL.*`.

    Raises:
        UserError: the teacher's config differs from the student's in something that both must share.
        CheckpointError: its checkpoint cannot be read or does not hold all weights.
    """
    distill = cfg.DISTILL
    teacher_cfg = _teacher_config(distill)
    origin = f"DISTILL.TEACHER_CFG {distill.TEACHER_CFG or distill.CHECKPOINT_FILE_PATH}"
    for key in SHARED:
        section, _, name = key.partition(".")
        theirs, ours = (getattr(getattr(c, section), name) for c in (teacher_cfg, cfg))
        if theirs != ours:
            raise UserError(f"{key} is {theirs} in {origin}, {ours} here")
    model = build_model(teacher_cfg)
    if model.in_channels != cfg.DATA.INPUT_CHANNEL_NUM[0]:
        raise UserError(
            f"the teacher of {origin} takes {plural(model.in_channels, 'channel')}",
            where="DATA.INPUT_CHANNEL_NUM",
            hint=f"Set DATA.INPUT_CHANNEL_NUM [{model.in_channels}]",
        )
    load_all_weights(model, distill.CHECKPOINT_FILE_PATH)
    model = optimize_for_inference(model.to(device).requires_grad_(False))
    return Teacher(model, "hard" if distill.TYPE == "hard" else "soft", alpha=distill.ALPHA, tau=distill.TAU)


def _teacher_config(distill: Distill) -> Config:
    """The config of the teacher; a model of the zoo has one of its own."""
    if distill.TEACHER_CFG:
        return load_config(distill.TEACHER_CFG)
    return load_zoo_config(find(distill.CHECKPOINT_FILE_PATH))
