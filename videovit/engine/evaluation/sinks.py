"""Where the logits of an inference pass go."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from videovit.data.records import Batch
from videovit.engine import distributed
from videovit.engine.evaluation.metrics import Evaluator

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "softmax": lambda logits_BK: logits_BK.float().softmax(dim=1),
    "sigmoid": lambda logits_BK: logits_BK.float().sigmoid(),
    "none": lambda logits_BK: logits_BK.float(),
}


class ScoreSink:
    """Turns logits into scores and hands them to an Evaluator.

    Args:
        evaluator: what judges the scores.
        activation: a key of ACTIVATIONS (`MODEL.HEAD_ACT`).
    """

    def __init__(self, evaluator: Evaluator, activation: str = "softmax") -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"MODEL.HEAD_ACT: found {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
        self._evaluator = evaluator
        self._score = ACTIVATIONS[activation]

    def update(self, batch: Batch, logits_BK: Tensor) -> None:
        self._evaluator.update(self._score(logits_BK), batch)


class LossSink:
    """Mean of a loss over all clips of all ranks."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._loss = loss
        self._sum, self._num = 0.0, 0

    def update(self, batch: Batch, logits_BK: Tensor) -> None:
        self._sum += self._loss(logits_BK, batch.labels).item() * len(batch)
        self._num += len(batch)

    def result(self) -> float:
        parts = distributed.gather((self._sum, self._num))
        return sum(s for s, _ in parts) / max(1, sum(n for _, n in parts))


class SinkGroup:
    """Hands every batch to several sinks."""

    def __init__(self, *sinks: ScoreSink | LossSink) -> None:
        self._sinks = sinks

    def update(self, batch: Batch, logits_BK: Tensor) -> None:
        for sink in self._sinks:
            sink.update(batch, logits_BK)
