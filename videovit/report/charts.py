"""Small charts as coordinates; `templates/chart.html` draws them as SVG in the colors of the page.

Charts that show several things tell them apart by shape and dash, not by color alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from videovit.analysis.mistakes import Group, wilson
from videovit.messages import printable

WIDTH, HEIGHT = 440.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 12.0, 40.0
ROW = 26.0  # height of a row of bars
LETTER = 6.4  # mean width of a letter
LONGEST = 26  # letters of a name beside a bar
MOST_DOTS = 60  # of a line; longer ones have none

Points = Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Line:
    """A curve: coordinates as SVG has them, style a, b, c, d or guide, and a name for the legend."""

    points: str
    style: str
    name: str = ""


@dataclass(frozen=True)
class Mark:
    """A dot (shape dot or diamond) with a text that appears when a mouse rests on it."""

    x: float
    y: float
    style: str
    text: str
    shape: str = "dot"


@dataclass(frozen=True)
class Bar:
    """A rectangle with a text that appears when a mouse rests on it."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Label:
    """Text: anchor start, middle or end."""

    x: float
    y: float
    text: str
    anchor: str = "middle"


@dataclass
class Chart:
    """What is drawn, back to front.

    Attributes:
        title: above it.
        described: what it shows, for those who cannot see it.
        x_label, y_label: of the axes.
    """

    title: str
    described: str
    x_label: str = ""
    y_label: str = ""
    width: float = WIDTH
    height: float = HEIGHT
    grid: list[tuple[float, float, float, float]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


class Axis:
    """Values to coordinates, with rounded steps.

    Args:
        values: that must fit; none that are not finite.
        low, high: places of the first and last one.
        limits: of the values, instead of their own.
        whole: steps are whole numbers.
    """

    def __init__(
        self,
        values: Sequence[float],
        low: float,
        high: float,
        *,
        limits: tuple[float, float] | None = None,
        whole: bool = False,
    ) -> None:
        first, last = limits or (min(values, default=0.0), max(values, default=1.0))
        if last <= first:
            first, last = first - (0 if whole else 0.5), first + (1 if whole else 0.5)
        self.step = _step((last - first) / 5, whole=whole)
        if limits is None and not whole:
            first, last = math.floor(first / self.step) * self.step, math.ceil(last / self.step) * self.step
        self._first, self._last, self._low, self._high = first, last, low, high

    def __call__(self, value: float) -> float:
        share = (value - self._first) / (self._last - self._first)
        return round(self._low + share * (self._high - self._low), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Places, and how they are written."""
        number = math.ceil(self._first / self.step - 1e-9)
        found = []
        while number * self.step <= self._last + 1e-9 * self.step:
            value = number * self.step
            found.append((self(value), f"{value:.10g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.2g}"))
            number += 1
        return found


def _step(rough: float, *, whole: bool) -> float:
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= rough * 0.999)
    return max(1.0, step) if whole else step


def line_chart(
    title: str,
    curves: Mapping[str, Points],
    *,
    x_label: str,
    y_label: str = "",
    limits: tuple[float, float] | None = None,
    whole: bool = True,
    guides: Mapping[str, Points] | None = None,
) -> Chart | None:
    """Curves over a common x axis; None if there are no points.

    Args:
        title: above it.
        curves: by name; points without a value are left out.
        x_label, y_label: of the axes.
        limits: of the y axis.
        whole: x counts something.
        guides: dotted lines, by name.
    """
    known = {name: _finite(points) for name, points in curves.items()}
    dotted = {name: _finite(points) for name, points in (guides or {}).items()}
    together = [point for points in [*known.values(), *dotted.values()] for point in points]
    if not together:
        return None
    described = "; ".join(
        f"{name or title}: {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in known.items() if points
    )
    chart = Chart(title, described, x_label, y_label)
    x = Axis([x for x, _ in together], LEFT, WIDTH - RIGHT, whole=whole)
    y = Axis([y for _, y in together], HEIGHT - BOTTOM, TOP, limits=limits)
    _draw_axes(chart, x, y)
    for (name, points), style in zip(known.items(), "abcd", strict=False):
        chart.lines.append(Line(_path(points, x, y), style, name if len(known) + len(dotted) > 1 else ""))
        if len(points) <= MOST_DOTS:
            chart.marks += [Mark(x(a), y(b), style, f"{name} {x_label} {a:g}: {b:.4g}".strip()) for a, b in points]
    chart.lines += [Line(_path(points, x, y), "guide", name) for name, points in dotted.items()]
    return chart


def reliability_chart(rows: Sequence[Sequence[float]], unit: str) -> Chart:
    """A reliability diagram: accuracy over confidence, and how many decisions each bin has.

    Args:
        rows: from, to, number, mean confidence, accuracy; in percent.
        unit: name of the decisions.
    """
    total = sum(row[2] for row in rows)
    chart = Chart("Reliability", f"accuracy of {total:,.0f} {unit} by confidence", "confidence (%)")
    x, y = (Axis([], *ends, limits=(0, 100)) for ends in ((LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP)))
    _draw_axes(chart, x, y)
    chart.lines.append(Line(_path([(0, 0), (100, 100)], x, y), "guide", "as often right as confident"))
    for low, high, number, confidence, accuracy in rows:
        limits = [100 * share for share in wilson(round(accuracy * number / 100), int(number))]
        text = (
            f"confidence {low:.0f} to {high:.0f} %: {number:,.0f} {unit}, mean {confidence:.1f} %, "
            f"accuracy {accuracy:.1f} % ({limits[0]:.1f} to {limits[1]:.1f})"
        )
        height = max(1.0, (HEIGHT - BOTTOM - TOP) * number / total)
        bottom, width = round(HEIGHT - BOTTOM - height, 2), x(high) - x(low) - 2
        chart.bars.append(Bar(x(low) + 1, bottom, round(width, 2), round(height, 2), text))
        chart.lines.append(Line(_path([(confidence, limit) for limit in limits], x, y), "interval"))
        chart.marks.append(Mark(x(confidence), y(accuracy), "a", text))
    chart.lines += [Line("", "dot", "accuracy (%), 95 % interval"), Line("", "bar", f"share of the {unit}")]
    return chart


def interval_chart(title: str, rows: Sequence[tuple[str, float, float, float]], *, x_label: str) -> Chart:
    """A bar per row, in percent, with its interval.

    Args:
        title: above it.
        rows: name, value, low, high.
        x_label: of the axis.
    """
    left, chart = _rows_chart(title, [row[0] for row in rows], x_label)
    x = _draw_rows(chart, left, [row[0] for row in rows])
    for i, (name, value, low, high) in enumerate(rows):
        middle = TOP + ROW * (i + 0.5)
        text = f"{name}: {value:.1f} ({low:.1f} to {high:.1f})"
        chart.bars.append(Bar(left, middle - 8, max(0.0, x(value) - left), 16, text))
        chart.lines.append(Line(_path([(low, middle), (high, middle)], x, None), "interval"))
    chart.described = "; ".join(f"{name} {value:.1f}" for name, value, *_ in rows)
    return chart


def group_chart(title: str, groups: Sequence[Group], names: Sequence[str]) -> Chart:
    """Accuracy with its interval and mean confidence, of groups of videos.

    Args:
        title: above it.
        groups: of videos.
        names: of the groups.
    """
    left, chart = _rows_chart(title, names, "percent")
    x = _draw_rows(chart, left, names)
    for i, (name, group) in enumerate(zip(names, groups, strict=True)):
        middle, (low, high) = TOP + ROW * (i + 0.5), group.interval
        chart.lines.append(Line(_path([(100 * low, middle), (100 * high, middle)], x, None), "interval"))
        said = f"{name}, {group.number:,} videos"
        text = f"{said}: accuracy {100 * group.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        chart.marks.append(Mark(x(100 * group.accuracy), middle, "a", text))
        text = f"{said}: mean confidence {100 * group.confidence:.1f} %"
        chart.marks.append(Mark(x(100 * group.confidence), middle, "b", text, "diamond"))
    chart.lines += [Line("", "dot", "accuracy, 95 % interval"), Line("", "diamond", "mean confidence")]
    chart.described = "; ".join(f"{n} {100 * g.accuracy:.1f}" for n, g in zip(names, groups, strict=True))
    return chart


def _rows_chart(title: str, names: Sequence[str], x_label: str) -> tuple[float, Chart]:
    longest = max((min(len(printable(name)), LONGEST) for name in names), default=0)
    return 14 + LETTER * longest, Chart(title, "", x_label, height=TOP + ROW * len(names) + BOTTOM)


def _draw_rows(chart: Chart, left: float, names: Sequence[str]) -> Axis:
    x = Axis([], left, WIDTH - RIGHT - 4, limits=(0, 100))
    end = chart.height - BOTTOM
    for place, text in x.ticks():
        chart.grid.append((place, TOP, place, end))
        chart.labels.append(Label(place, end + 16, text))
    for i, name in enumerate(names):
        chart.labels.append(Label(left - 8, TOP + ROW * (i + 0.5) + 4, shortened_name(name), "end"))
    return x


def shortened_name(name: str) -> str:
    """A name as it fits beside a bar."""
    shown = printable(name)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def _draw_axes(chart: Chart, x: Axis, y: Axis) -> None:
    end = chart.height - BOTTOM
    for place, text in y.ticks():
        chart.grid.append((LEFT, place, WIDTH - RIGHT, place))
        chart.labels.append(Label(LEFT - 7, place + 4, text, "end"))
    chart.labels += [Label(place, end + 16, text) for place, text in x.ticks()]


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if y is not None and math.isfinite(x) and math.isfinite(y)]


def _path(points: Sequence[tuple[float, float]], x: Axis, y: Axis | None) -> str:
    return " ".join(f"{x(a):g},{b if y is None else y(b):g}" for a, b in points)
