"""A job that pauses during training until it is signalled; processes of submitit import it too, so it must be light."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission

from videovit.engine import slurm

PATIENCE_S = 120.0


class HeldJob(slurm.Job):
    """Does one step; then every process writes its number to a file, and waits for a signal or for the file `go_on`.

    After the requeue it is an ordinary job.
    """

    @property
    def folder(self) -> Path:
        return Path(self.configs[0].OUTPUT_DIR)

    def __call__(self) -> list[dict[str, dict[str, float]]]:
        from videovit.engine.distributed import preemption
        from videovit.engine.training import trainer

        train_step = trainer.train_step

        def step_or_wait(*args: Any, step: int, **others: Any) -> trainer.StepResult:
            if step == 1:
                (self.folder / f"held{os.environ['RANK']} {os.getpid()}").touch()
                end = time.monotonic() + PATIENCE_S
                with preemption.install() as signals:
                    while not signals.requested() and not (self.folder / "go_on").exists():
                        assert time.monotonic() < end, "no signal came"
                        time.sleep(0.01)
            return train_step(*args, step=step, **others)

        trainer.train_step = step_or_wait
        return super().__call__()

    def checkpoint(self) -> DelayedSubmission:
        if not self.held():  # signalled before it paused
            return DelayedSubmission(HeldJob(self.configs, self.code))
        return super().checkpoint()

    def held(self) -> dict[int, int]:
        """Rank -> process id of those that wait."""
        words = [path.name.removeprefix("held").split() for path in self.folder.glob("held*")]
        return {int(rank): int(pid) for rank, pid in words}
