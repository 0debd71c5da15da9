"""A loss or a gradient norm that is not finite: the run writes a dump and stops, or the step is skipped."""

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
from videovit.messages import plural

SMALLEST_SCALE = 2.0**-14  # of fp16 gradients: the smallest normal number of that type
HINT = (
    "Usual remedies: lower SOLVER.BASE_LR, raise SOLVER.WARMUP_EPOCHS, set SOLVER.CLIP_GRAD_L2NORM 1.0, use bf16 "
    "instead of fp16. TRAIN.NONFINITE skip leaves such steps out"
)
MAX_NAMED = 8  # videos in one message


@dataclass(frozen=True)
class StepFacts:
    """One step of one rank, before its weights are changed."""

    epoch: int
    step: int
    lr: float
    loss: float
    grad_norm: float
    seed: int
    rank: int
    batch: Batch

    def is_finite(self) -> bool:
        """Whether the step of this rank is usable."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class NonFiniteGuard:
    """Decides about steps whose loss or gradient norm is not finite on some rank; all ranks decide the same.

    Args:
        policy: "raise" stops the run; "skip" skips the step, but not more than `most_in_a_row` consecutive ones.
        most_in_a_row: see `policy`.
        output_dir: where `nan_dump_rank<rank>.pt` is written before the run stops; None for nowhere.
        paths: videos of the training list, for messages.

    Attributes:
        num_skipped: steps skipped so far.
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

    def accept(self) -> None:
        """Count a usable step."""
        self._in_a_row = 0

    def reject(self, facts: StepFacts) -> None:
        """Skip an unusable step, or stop the run; a collective call.

        Raises:
            UserError: the run must stop. The message is the same on all ranks, and the dumps are written.
        """
        mine = None if facts.is_finite() else self._describe(facts)
        message = (
            "; ".join(text for text in distributed.gather(mine) if text)
            or f"epoch {facts.epoch + 1}, step {facts.step + 1}: not finite"
        )
        self._in_a_row += 1
        if self._policy == "skip" and self._in_a_row <= self._most_in_a_row:
            self.num_skipped += 1
            if distributed.rank() == 0:
                logger.warning("step skipped, %d so far: %s", self.num_skipped, message)
            return
        dump = self._dump(facts)
        if self._policy == "skip":
            message += f"; {plural(self._in_a_row, 'step')} in a row (TRAIN.NONFINITE_IN_A_ROW)"
        details = f"; details in {dump}" if dump else ""
        raise UserError(f"{message}; the weights were not touched{details}", hint=HINT)

    def check_scale(self, scale: float) -> None:
        """Check a gradient scaler after its update; it halves its scale after every overflow.

        Raises:
            UserError: no scale is small enough, so the gradients themselves are not finite.
        """
        if scale < SMALLEST_SCALE:
            raise UserError(f"gradients overflow at every scale of fp16, now {scale:g}", hint=HINT)

    def _describe(self, facts: StepFacts) -> str:
        videos = list(dict.fromkeys(facts.batch.videos_B.tolist()))
        named = ", ".join(f"{v} ({self._paths[v]})" if v < len(self._paths) else str(v) for v in videos[:MAX_NAMED])
        return (
            f"rank {facts.rank}, epoch {facts.epoch + 1}, step {facts.step + 1}: loss {facts.loss:g}, gradient norm "
            f"{facts.grad_norm:g}, learning rate {facts.lr:g}, videos {named} of the training list, counted from 0"
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
        except (OSError, RuntimeError) as error:
            # The message that follows matters more than the dump.
            logger.warning("%s could not be written: %s", path, error)
            return None
        return path
