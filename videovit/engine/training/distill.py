"""Learning from a teacher: a trained model whose decision on every training clip the student is to take as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.config import Config, load_config
from videovit.engine.checkpoints.weights import load_checkpoint_for_test
from videovit.errors import UserError
from videovit.models import build_model

SAME = ("DATA.NUM_FRAMES", "DATA.MEAN", "DATA.STD", "DATA.REVERSE_INPUT_CHANNEL", "MODEL.NUM_CLASSES")
"""What a teacher and its student must agree on, since both see the same tensor."""


class TeacherError(UserError):
    """A teacher that cannot teach this student."""


@dataclass(frozen=True)
class Teacher:
    """A teacher and how much it has to say.

    Attributes:
        model: in evaluation mode.
        kind: `hard`, the student learns the teacher's top class; `soft`, all its scores.
        alpha: share of the teacher in the loss, the labels have the rest.
        tau: temperature of both sides of the soft form.

    Source: DeiT (arXiv 2012.12877), eqs. 2 and 3.
    """

    model: nn.Module
    kind: Literal["hard", "soft"]
    alpha: float = 0.5
    tau: float = 1.0

    @torch.no_grad()
    def decide(self, x_BCTHW: Tensor) -> Tensor:
        """The teacher's logits (B, K) of the student's input, mixed and erased as it is."""
        logits: Tensor = self.model(x_BCTHW)
        return logits

    def blend(self, label_loss: Tensor, logits_BK: Tensor, teacher_BK: Tensor) -> Tensor:
        """The student's loss.

        Args:
            label_loss: of the labels.
            logits_BK: those of the student that face the teacher (of the distillation token where there is one).
            teacher_BK: the teacher's.
        """
        return (1.0 - self.alpha) * label_loss + self.alpha * self._distance(logits_BK.float(), teacher_BK.float())

    def _distance(self, logits_BK: Tensor, teacher_BK: Tensor) -> Tensor:
        if self.kind == "hard":
            return F.cross_entropy(logits_BK, teacher_BK.argmax(dim=-1))
        student, teacher = (F.log_softmax(x / self.tau, dim=-1) for x in (logits_BK, teacher_BK))
        # A mean over the batch, as the paper has it; DeiT's code divides by the number of classes as well.
        return self.tau**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def build_teacher(cfg: Config, device: torch.device) -> Teacher | None:
    """The teacher of `DISTILL.*`, None for `DISTILL.TYPE none`.

    Raises:
        TeacherError: its config differs from the student's in what both must share.
        CheckpointError: its checkpoint cannot be read or does not hold all weights.
    """
    distill = cfg.DISTILL
    if distill.TYPE == "none":
        return None
    teacher_cfg = load_config(distill.TEACHER_CFG)
    for key in SAME:
        section, _, name = key.partition(".")
        theirs, ours = (getattr(getattr(c, section), name) for c in (teacher_cfg, cfg))
        if theirs != ours:
            raise TeacherError(f"{key} is {theirs} in DISTILL.TEACHER_CFG {distill.TEACHER_CFG}, {ours} here")
    model = build_model(teacher_cfg)
    load_checkpoint_for_test(model, distill.CHECKPOINT_FILE_PATH)
    model = model.to(device).eval().requires_grad_(False)
    return Teacher(model, "hard" if distill.TYPE == "hard" else "soft", alpha=distill.ALPHA, tau=distill.TAU)
