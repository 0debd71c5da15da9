"""Training of a supernet: another path through it in every step."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from videovit.data.records import Batch
from videovit.engine.objectives.objective import Example, Losses, Objective, StepKey


class HasPaths(Protocol):
    """A supernet, of which a step trains one path."""

    def draw_path(self, seed: int, epoch: int, step: int) -> None:
        """Train the path that follows from seed, epoch and step."""


class PathSampling(Objective):
    """Another objective, on a path that is drawn per step, uniformly.

    Args:
        objective: what is minimized on the path.
        supernet: the model, without a distributed wrapper.

    Source: SPOS (arXiv 1904.00420), section 3.3.
    """

    uses_all_parameters = False

    def __init__(self, objective: Objective, supernet: HasPaths) -> None:
        self._objective, self._supernet = objective, supernet

    def example(self, x_BCTHW: Tensor, batch: Batch) -> Example:
        return self._objective.example(x_BCTHW, batch)

    def prepare(self, example: Example, key: StepKey) -> Example:
        # Without the rank: gradients are averaged, so all processes must train the same path.
        self._supernet.draw_path(key.seed, key.epoch, key.step)
        return self._objective.prepare(example, key)

    def __call__(self, model: nn.Module, example: Example) -> Losses:
        return self._objective(model, example)
