"""What an evaluator is: it collects what a model finds on a split, and measures how good that is.

`view_ensemble.ViewEnsemble` adds up the views of whole videos, `boxes.BoxEvaluator` collects scores of boxes on key
frames, `objects.ObjectEvaluator` collects objects in images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from videovit.data.records import Batch
from videovit.engine.evaluation.inference import ForwardPass, Pass, Sink
from videovit.engine.evaluation.predictions import Prediction

Activation = Callable[[Tensor], Tensor]
"""Logits (B, K) -> scores of the same shape."""


class Evaluator(ABC):
    """Collects the output of a model and measures it; a new one gets a row in `EVALUATORS` (engine/problem.py).

    Attributes:
        columns: measures that the table of a test shows -> title of the column.
        has_labels: whether every score has a label, so that a loss can be computed too.
        views: what is scored per video, such as "10 clips x 3 crops".
    """

    columns: Mapping[str, str]
    has_labels: ClassVar[bool] = True
    views: str = ""

    @abstractmethod
    def forward_pass(self, activation: Activation, sinks: Sequence[Sink] = ()) -> ForwardPass:
        """The pass that runs a model for this evaluator.

        Args:
            activation: of the head; for models that return logits.
            sinks: receive the logits too, if `has_labels`.
        """

    @abstractmethod
    def gather(self) -> Self:
        """Join what all ranks collected; a collective call."""

    @abstractmethod
    def result(self, *, skipped: Collection[int] = ()) -> dict[str, float]:
        """The measures, the most important one first, then num_videos, num_views and num_skipped.

        Args:
            skipped: videos that could not be read.

        Raises:
            UserError: another video was not scored, or a score is not finite.
        """

    def predictions_of(self, paths: Sequence[str]) -> Iterator[Prediction] | None:
        """What is predicted for every video that was read, in the order of the list; None if videos are not classified.

        Args:
            paths: of all videos.
        """
        return None

    def error_report(self, names: Sequence[str], worst: Sequence[Prediction]) -> dict[str, Any] | None:
        """What the test gets wrong, as JSON values; None if videos are not classified.

        Args:
            names: of the classes.
            worst: the most confident mistakes.
        """
        return None

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What `TEST.SAVE_RESULTS_PATH` stores."""

    @abstractmethod
    def write_report(self, folder: Path, names: Sequence[str], *, suffix: str = "") -> list[Path]:
        """Write tables and plots per class.

        Args:
            folder: exists.
            names: of the classes.
            suffix: of the file names.

        Returns:
            The files.
        """


class ScoreEvaluator(Evaluator):
    """An evaluator of scores: the logits of a classifier, after the activation."""

    @abstractmethod
    def update(self, scores: Tensor, batch: Batch) -> None:
        """Take the scores of a batch, after the activation."""

    def forward_pass(self, activation: Activation, sinks: Sequence[Sink] = ()) -> ForwardPass:
        """See `Evaluator.forward_pass`."""
        return Pass([ScoreSink(self, activation), *sinks])


class ScoreSink:
    """Turns logits into scores for an evaluator.

    Args:
        evaluator: takes the scores.
        activation: of the head.
    """

    def __init__(self, evaluator: ScoreEvaluator, activation: Activation) -> None:
        self._evaluator, self._activation = evaluator, activation

    def update(self, batch: Batch, logits: Tensor) -> None:
        self._evaluator.update(self._activation(logits), batch)
