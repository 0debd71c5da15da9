"""Pictures of analyses, from the same values that their JSON file holds.

T H W frames, rows and columns, I iterations, N points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from videovit.analysis.attention import DISTANCES
from videovit.messages import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_TITLE = 60  # letters of a name in a picture
MAX_FRAMES = 4  # of a clip in the picture of its points
MAX_COLUMNS = 4  # of a sheet of pictures
TITLES = {
    "space": "distance in space",
    "time": "distance in time",
    "joint": "distance in space and time",
}

Report = Mapping[str, Any]
"""What `OUTPUT_DIR/analysis/analysis.json` holds."""


@contextmanager
def _figure(columns: float, rows: float) -> Iterator[Figure]:
    """A figure without a window system, in which names with a $ are no formulas."""
    from matplotlib.figure import Figure

    from videovit.analysis.lettering import plain_text

    with plain_text():
        yield Figure(figsize=(columns, rows), layout="constrained")


def shown(name: str) -> str:
    """A name as a picture shows it."""
    from videovit.analysis.lettering import lettered  # imports Matplotlib

    text = printable(name)
    return lettered(text if len(text) <= MAX_TITLE else f"...{text[3 - MAX_TITLE :]}")


def draw_attention(reports: Mapping[str, Report]) -> Figure:
    """Entropy and distances of attention against the depth of the layer, one curve per model.

    Dotted lines: attention that is spread evenly over all keys. Dots: single heads, if there is one model.

    Args:
        reports: name of the model -> report with the key `attention`.
    """
    layers = {name: report["attention"]["layers"] for name, report in reports.items()}
    panels: list[tuple[str, Callable[[Report], float], Callable[[Report], float], Callable[[Report], list[float]]]]
    panels = [
        (
            "entropy (nats)",
            lambda layer: layer["entropy"],
            lambda layer: layer["uniform_entropy"],
            lambda layer: layer["entropy_per_head"],
        )
    ]
    for kind in DISTANCES:
        if any(kind in layer["distance"] for rows in layers.values() for layer in rows):
            panels.append(
                (
                    TITLES[kind],
                    lambda layer, kind=kind: layer["distance"].get(kind, np.nan),  # type: ignore[misc]
                    lambda layer, kind=kind: layer["uniform_distance"].get(kind, np.nan),  # type: ignore[misc]
                    lambda layer, kind=kind: layer["distance_per_head"].get(kind, []),  # type: ignore[misc]
                )
            )
    with _figure(3.6 * len(panels), 3.2) as figure:
        for axes, (title, value, uniform, heads) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            for name, rows in layers.items():
                numbers = [row["layer"] for row in rows]
                (line,) = axes.plot(numbers, [value(row) for row in rows], marker="o", label=shown(name))
                axes.plot(numbers, [uniform(row) for row in rows], ":", color=line.get_color(), linewidth=1)
                if len(layers) == 1:
                    for row in rows:
                        axes.plot([row["layer"]] * len(heads(row)), heads(row), ".", color="gray", markersize=3)
            _count_layers(axes, title)
            axes.set_ylim(bottom=0)
        if len(layers) > 1:
            axes.legend(fontsize="small")
        return figure


def _count_layers(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="layer", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def draw_similarity(report: Report) -> Figure:
    """Two matrices, layer by layer: cosine and correlation of attention maps; pairs that do not fit stay white."""
    number = report["similarity"]["num_layers"]
    side = 1.8 + 0.22 * number
    with _figure(2 * side, side) as figure:
        for axes, kind in zip(figure.subplots(1, 2), ("cosine", "correlation"), strict=True):
            values = np.full((number, number), np.nan)
            np.fill_diagonal(values, 1.0)
            for pair in report["similarity"]["pairs"]:
                one, two = pair["layers"]
                values[one - 1, two - 1] = values[two - 1, one - 1] = pair[kind]
            edges = (0.5, number + 0.5)
            image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, extent=(*edges, *reversed(edges)))
            figure.colorbar(image, ax=axes, shrink=0.7)
            axes.set(title=f"{kind} of maps", xlabel="layer", ylabel="layer")
            ticks = range(1, number + 1, 1 if number <= 12 else 4)
            axes.set_xticks(ticks)
            axes.set_yticks(ticks)
        return figure


def draw_points(frames_THW3: NDArray[np.uint8], points_IN3: NDArray[np.float32], title: str) -> Figure:
    """Sampling points of one clip: a column per iteration, a row per frame, arrows from where each point came.

    Args:
        frames_THW3: the clip; at most `MAX_FRAMES` of its frames are drawn, evenly spaced.
        points_IN3: from `as_fractions`; each is drawn on its frame, and not at all if it is outside of the clip.
        title: name of the clip.
    """
    T, H, W, _ = frames_THW3.shape
    num_iterations = len(points_IN3)
    shown_T = sorted({round(t) for t in np.linspace(0, T - 1, min(T, MAX_FRAMES))})
    pixels_IN3 = points_IN3 * np.array([T, H, W])
    with _figure(1.7 * num_iterations, 1.7 * len(shown_T) + 0.4) as figure:
        table = figure.subplots(len(shown_T), num_iterations, squeeze=False)
        for t, row in zip(shown_T, table, strict=True):
            for i, axes in enumerate(row):
                on_N = np.floor(pixels_IN3[i, :, 0]) == t
                y_N, x_N = pixels_IN3[i, on_N, 1], pixels_IN3[i, on_N, 2]
                axes.imshow(frames_THW3[t], extent=(0, W, H, 0))
                if i:
                    from_y, from_x = pixels_IN3[i - 1, on_N, 1], pixels_IN3[i - 1, on_N, 2]
                    arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.008, "color": "orange"}
                    axes.quiver(from_x, from_y, x_N - from_x, y_N - from_y, **arrows)
                axes.plot(x_N, y_N, "o", color="red", markeredgecolor="white", markeredgewidth=0.4, markersize=3)
                axes.set(xlim=(0, W), ylim=(H, 0), xticks=[], yticks=[])
                if t == shown_T[0]:
                    axes.set_title(f"iteration {i + 1}", fontsize="small")
            if T > 1:
                row[0].set_ylabel(f"frame {t}", fontsize="small")
        figure.suptitle(shown(title), fontsize="small")
        return figure


def draw_density(report: Report) -> Figure:
    """Where the points of each iteration are, over all clips; the palest cells have none."""
    density = np.asarray(report["points"]["density"])
    with _figure(2.2 * len(density) + 0.6, 3.0) as figure:
        row = figure.subplots(1, len(density), squeeze=False)[0]
        for i, (axes, cells) in enumerate(zip(row, density, strict=True)):
            # The regular grid of the first iteration has all its points in few cells: without a limit of its own,
            # each picture shows its own pattern.
            axes.imshow(cells, cmap="magma_r", vmin=0, interpolation="nearest")
            outside = max(0.0, 100 * (1 - cells.sum()))  # rounding may make it negative
            axes.set(title=f"iteration {i + 1}", xlabel=f"{outside:.1f} % outside", xticks=[], yticks=[])
        return figure


def draw_tiles(images: Sequence[NDArray[np.uint8] | None], captions: Sequence[tuple[str, str]]) -> Figure:
    """A sheet of pictures.

    Args:
        images: each (H, W, 3); None leaves the place empty.
        captions: of each, the title above and the name below it.
    """
    columns = min(MAX_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    with _figure(2.6 * columns, 2.4 * rows) as figure:
        places = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in places:
            axes.set(xticks=[], yticks=[], frame_on=False)
        for axes, image_HW3, (title, name) in zip(places, images, captions, strict=False):
            if image_HW3 is not None:
                axes.imshow(image_HW3)
            axes.set_title(title, fontsize="small")
            axes.set_xlabel(shown(name), fontsize="x-small", wrap=True)
        return figure
