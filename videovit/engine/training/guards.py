"""A loss or a gradient norm that is not finite: the run stops and leaves a dump, or the step is skipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from videovit.data.records import Batch
from videovit.engine import distributed
from videovit.engine.reporting.log import logger
from videovit.errors import UserError

SMALLEST_SCALE = 2.0**-14  # of fp16 gradients: the smallest normal number of that type
CURES = (
    "The usual cures: lower SOLVER.BASE_LR, longer SOLVER.WARMUP_EPOCHS, SOLVER.CLIP_GRAD_L2NORM 1.0, bf16 for fp16; "
    "TRAIN.NONFINITE skip leaves such steps out"
)


class NonFiniteLossError(UserError):
    """The loss or the gradient norm is NaN or infinite."""


@dataclass(frozen=True)
class StepFacts:
    """One step of one rank: where it was, and what came out before the weights were touched."""

    epoch: int
    step: int
    lr: float
    loss: float
    grad_norm: float
    seed: int
    rank: int
    batch: Batch

    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class NonFiniteGuard:
    """Called on all ranks when one of them has a loss or norm that is not finite; all take the same decision.

    Args:
        policy: "raise" stops the run; "skip" leaves the step out, at most `most_in_a_row` times without a good one.
        most_in_a_row: see `policy`.
        output_dir: where `nan_dump_rank<rank>.pt` is written before the run stops; None for nowhere.
        paths: of the training list, for messages.

    Attributes:
        num_skipped: steps left out so far.
    """

    def __init__(
        self,
        policy: str = "raise",
        *,
        most_in_a_row: int = 10,
        output_dir: Path | None = None,
        paths: Sequence[str] = (),
    ) -> None:
        self.num_skipped = 0
        self._policy, self._most_in_a_row, self._output_dir, self._paths = policy, most_in_a_row, output_dir, paths
        self._in_a_row = 0

    def passed(self) -> None:
        """A step was good."""
        self._in_a_row = 0

    def refuse(self, facts: StepFacts) -> None:
        """Decide about a step that cannot be used; a collective call.

        Raises:
            NonFiniteLossError: the run must stop; the message is the same on all ranks, and the dumps are written.
        """
        told = [text for text in distributed.gather(None if facts.is_finite() else self._tell(facts)) if text]
        message = "; ".join(told) or f"epoch {facts.epoch + 1}, step {facts.step + 1}: not finite"
        self._in_a_row += 1
        if self._policy == "skip" and self._in_a_row <= self._most_in_a_row:
            self.num_skipped += 1
            if distributed.rank() == 0:
                logger.warning("warning: step skipped, %d so far: %s", self.num_skipped, message)
            return
        dump = self._dump(facts)
        if self._policy == "skip":
            message += f"; {self._in_a_row} steps in a row (TRAIN.NONFINITE_IN_A_ROW)"
        where = f"; details in {dump}" if dump else ""
        raise NonFiniteLossError(f"{message}; the weights were not touched{where}. {CURES}")

    def check_scale(self, scale: float) -> None:
        """After the update of a gradient scaler, which halves its scale after every overflow.

        Raises:
            NonFiniteLossError: no scale is small enough, so the gradients themselves are not finite.
        """
        if scale < SMALLEST_SCALE:
            raise NonFiniteLossError(f"gradients overflow at every scale of fp16, now {scale:g}. {CURES}")

    def _tell(self, facts: StepFacts) -> str:
        videos = list(dict.fromkeys(facts.batch.videos_B.tolist()))
        named = ", ".join(f"{v} ({self._paths[v]})" if v < len(self._paths) else str(v) for v in videos[:8])
        return (
            f"rank {facts.rank}, epoch {facts.epoch + 1}, step {facts.step + 1}: loss {facts.loss:g}, gradient norm "
            f"{facts.grad_norm:g}, learning rate {facts.lr:g}, videos {named} of the training list (from 0)"
        )

    def _dump(self, facts: StepFacts) -> Path | None:
        if self._output_dir is None:
            return None
        path = self._output_dir / f"nan_dump_rank{facts.rank}.pt"
        videos = facts.batch.videos_B.tolist()
        content = {
            "epoch": facts.epoch,
            "step": facts.step,
            "seed": facts.seed,
            "rank": facts.rank,
            "world_size": distributed.world_size(),
            "lr": facts.lr,
            "loss": facts.loss,
            "grad_norm": facts.grad_norm,
            "videos": videos,
            "paths": [self._paths[v] for v in videos if v < len(self._paths)],
            "labels": facts.batch.labels.cpu(),
            "torch_rng_state": torch.get_rng_state(),
        }
        try:
            torch.save(content, path)
        except (OSError, RuntimeError) as error:  # the message of the run is worth more than its dump
            logger.warning("warning: %s could not be written: %s", path, error)
            return None
        return path
