"""What an evaluator is: it collects the scores of a model on a split, and measures how good they are.

`view_ensemble.ViewEnsemble` adds up the views of whole videos, `boxes.BoxEvaluator` collects boxes on key frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from videovit.data.records import Batch
from videovit.engine.evaluation.predictions import Prediction


class Evaluator(ABC):
    """Collects scores and measures them; a new one gets a row in `EVALUATORS` (engine/problem.py).

    Attributes:
        columns: measures that the table of a test shows -> title of the column.
        has_labels: whether every score has a label, so that a loss can be computed too.
        views: what is scored per video, such as "10 clips x 3 crops".
    """

    columns: ClassVar[Mapping[str, str]]
    has_labels: ClassVar[bool] = True
    views: str = ""

    @abstractmethod
    def update(self, scores: Tensor, batch: Batch) -> None:
        """Take the scores of a batch, after the activation."""

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
