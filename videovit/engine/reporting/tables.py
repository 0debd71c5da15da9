"""Results as one table with its explanation, for the log and as JSON that needs no further knowledge to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import simplejson

from videovit.engine.reporting.json_lines import replacing
from videovit.engine.reporting.log import format_table

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        title: what it shows, of which model.
        columns: their titles, with units.
        rows: as many cells as columns; None is an empty cell.
        notes: how the numbers were measured, one sentence or two each.
        source: the paper that they follow.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default_factory=tuple)
    source: str = ""

    def as_dict(self) -> dict[str, object]:
        """JSON values."""
        return {
            "title": self.title,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            "notes": list(self.notes),
            "source": self.source,
        }

    def __str__(self) -> str:
        rows = [[f"{cell:.2f}" if isinstance(cell, float) else cell for cell in row] for row in self.rows]
        return f"{self.title}\n{format_table(self.columns, rows)}"


def write_report(path: Path, table: Table, more: Mapping[str, object]) -> None:
    """Write a table and other values as one JSON object; numbers that are not finite become null.

    Raises:
        UserError: it cannot be written.
    """
    text = simplejson.dumps({**table.as_dict(), **more}, indent=1, ignore_nan=True)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
