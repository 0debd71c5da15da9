"""What becomes of logits: scores by the activation of the head, and a loss; see `Pass`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from videovit.data.records import Batch
from videovit.engine import distributed
from videovit.engine.evaluation.evaluator import Activation

ACTIVATIONS: dict[str, Activation] = {
    "softmax": lambda logits_BK: logits_BK.float().softmax(dim=1),
    "sigmoid": lambda logits_BK: logits_BK.float().sigmoid(),
    "none": lambda logits_BK: logits_BK.float(),
}
"""By `MODEL.HEAD_ACT`."""


class LossSink:
    """Mean of a loss over all clips of all ranks."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._loss = loss
        self._sum, self._num = 0.0, 0

    def update(self, batch: Batch, logits: Tensor) -> None:
        self._sum += self._loss(logits, batch.labels).item() * len(batch)
        self._num += len(batch)

    def result(self) -> float:
        """The mean; a collective call."""
        parts = distributed.gather((self._sum, self._num))
        return sum(s for s, _ in parts) / max(1, sum(n for _, n in parts))
