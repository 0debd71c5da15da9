"""The epochs of a training, as `stats.jsonl` has them: for the lines of the log, and for curves.

They are read from the file, so that a resumed run knows those of the runs before it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videovit.engine.reporting.json_lines import read_records
from videovit.messages import plural


@dataclass(frozen=True)
class Measure:
    """What a validation measures first.

    Attributes:
        key: its name in `val_epoch` records.
        title: its name for people.
        is_error: 100 minus the measure is stored, as SlowFast does.
    """

    key: str
    title: str
    is_error: bool = False

    def of(self, record: Mapping[str, Any]) -> float | None:
        """The value in percent, the higher the better; None if the record has none."""
        value = number(record, self.key)
        return 100.0 - value if value is not None and self.is_error else value


MEASURES = (Measure("top1_err", "top-1", is_error=True), Measure("map", "mAP"), Measure("box_ap", "box AP"))


@dataclass
class Epoch:
    """Records of one epoch; empty if it has none. The last ones, if an epoch was trained again after a crash."""

    train: Mapping[str, Any] = field(default_factory=dict)
    val: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """Epochs by their number, counted from 1, in ascending order."""

    epochs: Mapping[int, Epoch]

    @property
    def measure(self) -> Measure | None:
        """The main measure of the validations; None without any."""
        found = [m for m in MEASURES if any(m.of(epoch.val) is not None for epoch in self.epochs.values())]
        return found[0] if found else None

    def measured(self) -> dict[int, float]:
        """The main measure of every epoch that was validated."""
        measure = self.measure
        if measure is None:
            return {}
        values = {epoch: measure.of(records.val) for epoch, records in self.epochs.items()}
        return {epoch: value for epoch, value in values.items() if value is not None}


def read_history(output_dir: Path) -> History:
    """Read the epochs of a run.

    Args:
        output_dir: of the run; without `stats.jsonl` there are no epochs.
    """
    epochs: dict[int, Epoch] = {}
    for record in read_records(output_dir / "stats.jsonl", word='_epoch"'):
        with contextlib.suppress(ValueError):  # another program may have written to the file
            epoch = epochs.setdefault(int(str(record.get("epoch")).partition("/")[0]), Epoch())
            if record.get("_type") == "train_epoch":
                epoch.train = record
            elif record.get("_type") == "val_epoch":
                epoch.val = record
    return History(dict(sorted(epochs.items())))


def number(record: Mapping[str, Any], key: str) -> float | None:
    """A number of a record; None if it is absent, or null because it was not finite."""
    value = record.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _loss(epoch: Epoch) -> float:
    """The loss of a validation; infinite if there is none."""
    loss = number(epoch.val, "loss")
    return math.inf if loss is None else loss


def describe_epoch_end(history: History, epoch: int, noun: str = "video") -> str:
    """One line about an epoch: loss, its terms, validation, speed, and what went wrong.

        epoch 3/16  train loss 1.15  val top-1 79.2 (best 81.0, epoch 2)  38.1 clips/s, 2% waiting for data

    Args:
        history: of the run.
        epoch: counted from 1.
        noun: what a sample is.
    """
    records = history.epochs.get(epoch, Epoch())
    train = records.train
    parts = [f"epoch {train.get('epoch') or records.val.get('epoch') or epoch}"]
    loss = number(train, "loss")
    if loss is not None:
        terms = {key.removeprefix("loss_"): number(train, key) for key in train if key.startswith("loss_")}
        named = ", ".join(f"{name} {value:.4g}" for name, value in terms.items() if value is not None)
        parts.append(f"train loss {loss:.4g}" + (f" ({named})" if named else ""))
    measured, measure = history.measured(), history.measure
    if measure is not None and epoch in measured:
        # As the best checkpoint: of equal measures the one with the lower loss, then the first.
        best = max(measured, key=lambda e: (measured[e], -_loss(history.epochs[e]), -e))
        parts.append(f"val {measure.title} {measured[epoch]:.1f} (best {measured[best]:.1f}, epoch {best})")
    elif measure is None and (val_loss := number(records.val, "loss")) is not None:
        losses = {e: value for e, r in history.epochs.items() if (value := number(r.val, "loss")) is not None}
        best = min(losses, key=lambda e: (losses[e], e))
        parts.append(f"val loss {val_loss:.4g} (best {losses[best]:.4g}, epoch {best})")
    speed, share = number(train, "clips_per_s"), number(train, "data_share")
    if speed is not None and share is not None:
        parts.append(f"{speed:.1f} {'images' if noun == 'image' else 'clips'}/s, {share:.0%} waiting for data")
    for key, what in (("bad_samples", f"unreadable {noun}"), ("skipped_steps", "skipped step")):
        count = number(train, key)
        if count:
            parts.append(plural(int(count), what))
    return "  ".join(parts)
