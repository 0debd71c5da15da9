"""What a page consists of: sections of blocks, each of which a template draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from videovit.messages import printable
from videovit.report.charts import Chart

Cell = str | int | float | bool | None

LONGEST_CELL = 400  # letters
MOST_ROWS = 30_000  # of a table on the page


@dataclass(frozen=True)
class Tile:
    """A number that is read first, with its unit beside it and a note below."""

    label: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    """Numbers in a row."""

    tiles: list[Tile]
    kind: str = "tiles"


@dataclass(frozen=True)
class Note:
    """A sentence."""

    text: str
    kind: str = "note"


@dataclass(frozen=True)
class Charts:
    """Charts side by side."""

    charts: list[Chart]
    kind: str = "charts"


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, how its cells are shown (text, number or percent), and digits after the point."""

    name: str
    form: str
    digits: int = 0


@dataclass(frozen=True)
class Table:
    """A table that a script draws, a part at a time.

    Attributes:
        name: of the data, unique on the page.
        caption: above it.
        columns: see `Column`.
        rows: cells by column.
        notes: below it.
        source: of the numbers.
        sort: column and direction in the beginning; None keeps the order of the rows.
        names: texts that cells of the columns `coded` are numbers of, so that none is repeated.
        coded: columns whose cells are numbers of names.
    """

    name: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    source: str = ""
    names: list[str] = field(default_factory=list)
    coded: list[int] = field(default_factory=list)
    kind: str = "table"

    @property
    def data(self) -> dict[str, object]:
        """JSON values."""
        columns = [{"name": c.name, "form": c.form, "digits": c.digits} for c in self.columns]
        return {"columns": columns, "rows": self.rows, "names": self.names, "coded": self.coded}


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: class names, and [true, predicted, videos] for every cell that is not 0."""

    names: list[str]
    counts: list[list[int]]
    kind: str = "matrix"


@dataclass(frozen=True)
class Clip:
    """A video that plays.

    Attributes:
        name: of the file.
        facts: below it: name and value.
        still, moving: pictures as data URIs; empty if the video cannot be shown.
        panels: what is side by side in them.
        note: why something is missing.
    """

    name: str
    facts: list[tuple[str, str]]
    still: str = ""
    moving: str = ""
    panels: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Clips:
    """Videos that play."""

    clips: list[Clip]
    kind: str = "clips"


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, and what it shows."""

    uri: str
    text: str
    kind: str = "picture"


@dataclass(frozen=True)
class Code:
    """Text as it is in a file, folded."""

    title: str
    text: str
    kind: str = "code"


Block = Tiles | Note | Charts | Table | Matrix | Clips | Picture | Code


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, title and blocks."""

    anchor: str
    title: str
    blocks: list[Block]


def clean(value: Any) -> Cell:
    """A value of a file as a cell: text printable and of limited length, numbers finite."""
    if isinstance(value, str):
        shown = printable(value)
        return shown if len(shown) <= LONGEST_CELL else f"{shown[:LONGEST_CELL]}…"
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    raise ValueError(f"{type(value).__name__} in a table, expected text or a number")


def table_of(name: str, content: Mapping[str, Any]) -> Table:
    """A table from a file of an analysis.

    Args:
        name: of the data on the page.
        content: {"title", "columns", "rows", "notes", "source"}.

    Raises:
        ValueError: it is not such a table.
    """
    columns, rows = content["columns"], content["rows"]
    if not isinstance(columns, list) or not isinstance(rows, list):
        raise ValueError(f"{name}: columns and rows are not lists")
    if any(not isinstance(row, list) or len(row) != len(columns) for row in rows):
        raise ValueError(f"{name}: a row is not a list with {len(columns)} cells")
    cells = [[clean(cell) for cell in row] for row in rows[:MOST_ROWS]]
    notes = content.get("notes") or []
    notes = [str(clean(note)) for note in (notes if isinstance(notes, list) else [notes])]
    if len(rows) > MOST_ROWS:
        notes.append(f"the first {MOST_ROWS:,} of {len(rows):,} rows")
    described = [describe_column(str(clean(title)), [row[k] for row in cells]) for k, title in enumerate(columns)]
    title, source = (str(clean(content.get(key) or "")) for key in ("title", "source"))
    return Table(name, title, described, cells, notes, source)


def describe_column(name: str, cells: Sequence[Cell]) -> Column:
    """How a column is shown, by its cells and the unit in its name."""
    known = [cell for cell in cells if cell is not None and cell != ""]
    if not known or not all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in known):
        return Column(name, "text")
    if all(isinstance(cell, int) for cell in known):
        return Column(name, "number")
    numbers = [abs(float(cell)) for cell in known if isinstance(cell, int | float)]
    percent = name.endswith("(%)") and max(numbers) <= 100
    digits = 1 if percent else 2 if max(numbers) >= 10 else 3
    return Column(name, "percent" if percent else "number", digits)
