"""Pictures: they are written, show what they should, and take names of strangers as text."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from videovit.analysis.drawing import draw_attention, draw_density, draw_points, draw_similarity, shown

HOSTILE = "$\\frac{1}$ <script>\x1b[2J\u202e" + "x" * 200


def pixels(figure: Figure) -> np.ndarray:
    file = io.BytesIO()
    figure.savefig(file, dpi=80)
    assert len(file.getvalue()) < 120_000
    image = np.asarray(Image.open(file).convert("RGB"))
    assert image.std() > 5  # not a single color
    return image


def report(*, clip: bool = True, num_layers: int = 3) -> dict:
    kinds = ("space", "time", "joint") if clip else ("space",)
    layers = [
        {
            "layer": i + 1,
            "entropy": 1.0 + i,
            "uniform_entropy": 4.0,
            "entropy_per_head": [0.5 + i, 1.5 + i],
            "distance": dict.fromkeys(kinds, 0.1 * i),
            "uniform_distance": dict.fromkeys(kinds, 0.6),
            "distance_per_head": {kind: [0.1 * i, 0.2 * i] for kind in kinds},
        }
        for i in range(num_layers)
    ]
    pair = {"layers": [1, 2], "cosine": 0.9, "correlation": 0.5}
    cells = np.zeros((2, 4, 4))
    cells[:, 1, 1] = 1.0
    return {
        "attention": {"layers": layers},
        "similarity": {"num_layers": num_layers, "pairs": [pair]},
        "points": {"density": cells.tolist()},
    }


def test_curves_of_models_of_images_and_clips_in_one_picture() -> None:
    figure = draw_attention({HOSTILE: report(), "images": report(clip=False, num_layers=5)})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["entropy (nats)", "distance in space", "distance in time", "distance in space and time"]
    assert [len(axes.lines) for axes in figure.axes] == [4] * 4
    legend = figure.axes[-1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [shown(HOSTILE), "images"]
    pixels(figure)
    assert len(draw_attention({"images": report(clip=False)}).axes) == 2


def test_matrix_is_symmetric_and_leaves_other_pairs_out() -> None:
    figure = draw_similarity(report())
    values = np.asarray(figure.axes[0].images[0].get_array().filled(np.nan))
    np.testing.assert_equal(values, [[1, 0.9, np.nan], [0.9, 1, np.nan], [np.nan, np.nan, 1]])
    pixels(figure)


def test_points_are_drawn_on_their_frame() -> None:
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    points = np.array(
        [[[0.2, 0.5, 0.5], [0.7, 0.5, 0.5]], [[0.1, 0.25, 0.5], [0.4, 0.75, 0.5]], [[-0.1, 0.5, 0.5], [1.2, 0.5, 0.5]]],
        np.float32,
    )
    figure = draw_points(frames, points, HOSTILE)
    counts = [len(axes.lines[0].get_xdata()) for axes in figure.axes]
    assert counts == [1, 2, 0, 1, 0, 0]  # frame 0: iterations 1, 2, 3 (out of time); frame 1
    assert figure._suptitle.get_text() == shown(HOSTILE)  # type: ignore[attr-defined]
    image = pixels(figure)
    assert ((image[..., 0] > 200) & (image[..., 1:] < 60).all(-1)).sum() >= 5 * 4  # red inside of five white rings


def test_density_of_every_iteration_is_drawn() -> None:
    figure = draw_density(report())
    assert [axes.get_xlabel() for axes in figure.axes] == ["0.0 % outside"] * 2
    pixels(figure)


def test_names_of_strangers_are_short_and_harmless() -> None:
    name = shown(HOSTILE)
    assert len(name) == 60 and name.startswith("...")
    assert shown("a\x1b[2J\u202eb") == "a\\x1b[2J\\u202eb"
