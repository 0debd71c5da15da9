"""The best validation of a run so far, and the checkpoint that keeps its weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videovit.config import Config
from videovit.engine import distributed
from videovit.engine.checkpoints.folder import Position, best_checkpoint
from videovit.engine.reporting.log import logger
from videovit.models.convert import CheckpointError
from videovit.models.convert.read import read_file

LOWER_IS_BETTER = ("loss",)


@dataclass(frozen=True)
class Best:
    """A validation.

    Attributes:
        measure: by which validations are compared.
        value: of the measure, in percent, or of the loss; finite.
        epoch: after which it was, counted from 1.
        loss: of the validation, which decides between equal values: on few videos, many epochs reach the same accuracy,
            and the first of them is rarely the best. None if it is not known.
    """

    measure: str
    value: float
    epoch: int
    loss: float | None = None


def best_measure(cfg: Config) -> str:
    """The measure of `TRAIN.BEST`; empty if validations are not compared."""
    if cfg.TRAIN.BEST == "auto":
        if cfg.DETECTOR.NAME or cfg.MASK.ENABLE:
            return "loss" if cfg.MASK.ENABLE else "box_ap"
        return "map" if cfg.DATA.MULTI_LABEL or cfg.DETECTION.ENABLE else "top1_acc"
    return cfg.TRAIN.BEST


class BestSoFar:
    """Compares validations; the same on all ranks.

    Args:
        cfg: `TRAIN.BEST`, `TRAIN.EARLY_STOP_EPOCHS`.

    Attributes:
        record: the best validation so far; None before the first one.
    """

    def __init__(self, cfg: Config) -> None:
        self._measure, self._period, self._patience = (
            best_measure(cfg),
            cfg.TRAIN.EVAL_PERIOD,
            cfg.TRAIN.EARLY_STOP_EPOCHS,
        )
        self._path = best_checkpoint(Path(cfg.OUTPUT_DIR))
        self.record: Best | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the best validation, from 1; 0 before the first one."""
        return 0 if self.record is None else self.record.epoch

    def restore(self, *, resumed: bool) -> None:
        """Go on from the best checkpoint of the run, which holds its own record; a collective call.

        Args:
            resumed: whether the run continues; otherwise a best checkpoint in the folder is not its own.
        """
        if not self._measure:
            return
        record = self._read(resumed=resumed) if distributed.rank() == 0 else None
        self.record = distributed.gather(record)[0]

    def _read(self, *, resumed: bool) -> Best | None:
        if not self._path.exists():
            return None
        if not resumed:
            logger.warning("%s is of an earlier run, and the first validation replaces it", self._path)
            return None
        try:
            record = _record(read_file(str(self._path)).get("best"))
        except CheckpointError as error:
            logger.warning("the next validation replaces a best checkpoint that cannot be used: %s", error)
            return None
        if record is None or record.measure != self._measure:
            found = "nothing known" if record is None else record.measure
            logger.warning(
                "%s was chosen by %s, not by %s (TRAIN.BEST), and the next validation replaces it",
                self._path,
                found,
                self._measure,
            )
            return None
        return record

    def improves(self, measures: Mapping[str, float], epoch: int) -> bool:
        """Whether a validation is better than all before; if so, it is the best so far.

        Args:
            measures: of the validation, by name.
            epoch: after which it was, counted from 1.
        """
        if not self._measure:
            return False
        loss = math.nan if self._measure == "loss" else measures.get("loss", math.nan)
        found = Best(self._measure, float(measures[self._measure]), epoch, loss if math.isfinite(loss) else None)
        # What is not a number is never best, not even as the first one.
        if not math.isfinite(found.value) or (self.record is not None and not _is_better(found, self.record)):
            return False
        self.record = found
        return True

    def is_long_ago(self, position: Position) -> bool:
        """Whether the validation at a position, which is done, is `TRAIN.EARLY_STOP_EPOCHS` or more after the best one.

        It follows from position and record, so that a run which stopped for this reason trains no further when started.
        """
        if not (self._patience and self._period) or position.step or position.epoch % self._period:
            return False
        return position.epoch - self.epoch >= self._patience

    def __str__(self) -> str:
        if self.record is None:
            return f"no validation had a finite {self._measure} (TRAIN.EARLY_STOP_EPOCHS {self._patience})"
        return (
            f"the best validation is that of epoch {self.epoch}, {self._measure} {self.record.value:.4g} "
            f"(TRAIN.EARLY_STOP_EPOCHS {self._patience})"
        )

    def state(self) -> dict[str, Any]:
        """The record, as the checkpoint holds it."""
        assert self.record is not None
        return dataclasses.asdict(self.record)


def _is_better(one: Best, two: Best) -> bool:
    """Whether a validation is better than another one: by the measure, or if that is equal, by the loss."""
    if one.value != two.value:
        return (one.value < two.value) == (one.measure in LOWER_IS_BETTER)
    return one.loss is not None and two.loss is not None and one.loss < two.loss


def _record(content: Any) -> Best | None:
    """The record in a file of unknown origin; None if it holds none."""
    if not isinstance(content, dict):
        return None
    measure, value, epoch = (content.get(name) for name in ("measure", "value", "epoch"))
    if not (isinstance(measure, str) and isinstance(value, float) and isinstance(epoch, int) and math.isfinite(value)):
        return None
    loss = content.get("loss")
    return Best(measure, value, epoch, loss if isinstance(loss, float) and math.isfinite(loss) else None)
