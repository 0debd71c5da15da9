"""The whole training: its losses per epoch, its bar on a terminal, and the time that is left."""

from __future__ import annotations

import math
import time

from torch import Tensor

from videovit.engine import distributed
from videovit.engine.reporting.progress import Bar, duration
from videovit.engine.training.step import StepResult


class LossMeans:
    """Means of the loss and its terms over the steps of an epoch; steps with a loss that is not finite are left out.

    Attributes:
        lr: learning rate of the last step.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float | Tensor] = {}
        self._num = 0
        self.lr = 0.0

    def add(self, result: StepResult) -> float:
        """Count a step.

        Returns:
            The mean of the loss so far, on this rank.
        """
        self.lr, loss = result.lr, result.loss.item()
        if math.isfinite(loss):
            self._num += 1
            terms = {f"loss_{name}": term for name, term in result.terms.items()} if len(result.terms) > 1 else {}
            for name, term in {"loss": loss, **terms}.items():
                self._sums[name] = self._sums.get(name, 0.0) + term  # terms stay on their device
        return float(self._sums["loss"]) / self._num if self._num else loss

    def over_ranks(self) -> dict[str, float]:
        """Means by name, `loss` first, over all ranks; a collective call. NaN if every step was left out."""
        parts = distributed.gather((self._num, {name: float(value) for name, value in self._sums.items()}))
        total = sum(num for num, _ in parts)
        names = dict.fromkeys(["loss", *(name for _, sums in parts for name in sums)])
        if not total:
            return {"loss": math.nan}
        return {name: sum(sums.get(name, 0.0) for _, sums in parts) / total for name in names}


class WholeTraining:
    """Time of a training from its first step to its last validation, with a bar on a terminal.

    Args:
        num_steps: of the training.
        first: steps done by earlier runs.
        validation_steps: steps of a validation, at the batch size of training.
        quiet: show nothing (ranks above 0).
    """

    def __init__(self, num_steps: int, *, first: int, validation_steps: int, quiet: bool) -> None:
        self._num_steps, self._first, self._done = num_steps, first, first
        self._validation_steps = validation_steps
        self._start = time.monotonic()
        self._train_s = 0.0
        self._validation_s: float | None = None
        self._bar = Bar("training", num_steps, first=first, quiet=quiet)

    def step(self) -> None:
        """Count a step."""
        self._done += 1
        self._bar.update()

    def trained(self, seconds: float) -> None:
        """An epoch took this long, without its validation."""
        self._train_s += seconds

    def validated(self, seconds: float) -> None:
        """A validation took this long."""
        self._validation_s = seconds

    def left_s(self, validations: int) -> float:
        """Seconds until the end.

        Args:
            validations: that are due until then. Before the first one, its steps count like those of training.
        """
        step_s = self._train_s / max(1, self._done - self._first)
        validation_s = self._validation_steps * step_s if self._validation_s is None else self._validation_s
        return (self._num_steps - self._done) * step_s + validations * validation_s

    def times(self, validations: int) -> str:
        """`elapsed 0:03:10, left 0:13:00`; elapsed since this run began. Arguments as in `left_s`."""
        return f"elapsed {duration(time.monotonic() - self._start)}, left {duration(self.left_s(validations))}"

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
