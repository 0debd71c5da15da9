"""Frame orders on batches, and the report of the results."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from videovit.data.records import Batch
from videovit.engine.evaluation.bootstrap import bootstrap_mean
from videovit.engine.evaluation.view_ensemble import TopK
from videovit.engine.tasks.shuffle_eval import draw, format_readings, format_report, reorder_frames, summarize

T = 6


def clips(videos: list[int], views: list[int]) -> tuple[torch.Tensor, Batch]:
    """Clips whose frame t is filled with t."""
    n = len(videos)
    x = torch.arange(T, dtype=torch.float32).view(1, 1, T, 1, 1).expand(n, 3, T, 2, 2).clone()
    index = torch.tensor
    batch = Batch(
        torch.zeros(n, T, 2, 2, 3, dtype=torch.uint8), index([0] * n), index(videos), index(views), index([0] * n), []
    )
    return x, batch


def orders(order: str, videos: list[int], views: list[int], *, seed: int = 0, num_crops: int = 3) -> list[list[int]]:
    x, batch = clips(videos, views)
    y = reorder_frames(order, seed=seed, num_crops=num_crops)(x, batch)
    assert y.shape == x.shape
    assert (y == y[:, :1, :, :1, :1]).all()  # a frame stays together
    return [list(map(int, row)) for row in y[:, 0, :, 0, 0]]


def test_fixed_orders() -> None:
    assert orders("ordered", [0], [0]) == [[0, 1, 2, 3, 4, 5]]
    assert orders("reversed", [0], [0]) == [[5, 4, 3, 2, 1, 0]]
    assert orders("static", [0], [0]) == [[3, 3, 3, 3, 3, 3]]


def test_permutation_differs_by_clip_and_not_by_crop() -> None:
    crops = orders("shuffled", [4, 4, 4], [0, 1, 2])
    assert crops[0] == crops[1] == crops[2]
    assert sorted(crops[0]) == list(range(T))
    others = orders("shuffled", [4, 5, 6, 4, 4], [0, 0, 0, 3, 6])  # other videos, other clips of the same video
    assert len({tuple(o) for o in others}) > 2
    assert others[0] == crops[0]


def test_permutation_depends_on_the_seed_and_not_on_the_batch() -> None:
    together = orders("shuffled", [1, 2, 3], [0, 0, 0])
    assert [orders("shuffled", [v], [0])[0] for v in (1, 2, 3)] == together
    assert orders("shuffled", [1, 2, 3], [0, 0, 0], seed=1) != together


def test_windows_move_frames_within_the_window_only() -> None:
    for row in orders("window2", list(range(20)), [0] * 20):
        assert all(abs(frame - place) <= 1 for place, frame in enumerate(row))


def ensemble(predictions: list[int], labels: list[int], num_classes: int = 4) -> TopK:
    result = TopK(num_videos=len(labels), num_views=1, num_classes=num_classes)
    scores = torch.nn.functional.one_hot(torch.tensor(predictions), num_classes).float()
    index = torch.arange(len(labels))
    batch = Batch(torch.empty(len(labels)), torch.tensor(labels), index, index * 0, index, [])
    result.update(scores, batch)
    return result


LABELS = [0, 0, 1, 1, 2, 2, 3, 3]
NAMES = ["left", "right", "ring", "cross"]
GROUPS = {"motion": [0, 1], "appearance": [2, 3]}


def report() -> dict:
    return summarize(
        {
            "ordered": [ensemble([0, 0, 1, 1, 2, 2, 3, 2], LABELS)],
            "reversed": [ensemble([1, 1, 0, 0, 2, 2, 3, 3], LABELS)],
            "shuffled": [
                ensemble([0, 1, 0, 1, 2, 2, 3, 3], LABELS),
                ensemble([1, 1, 1, 1, 2, 2, 3, 3], LABELS),
                ensemble([0, 0, 0, 0, 2, 2, 3, 2], LABELS),
            ],
        },
        names=NAMES,
        groups=GROUPS,
    )


def test_report_equals_numbers_by_hand() -> None:
    entry = report()["orders"]
    assert entry["ordered"]["top1_acc"] == 87.5
    assert entry["reversed"]["groups"] == {"motion": 0.0, "appearance": 100.0}
    assert entry["reversed"]["read_as"]["left"] == ("right", 100.0)
    assert entry["reversed"]["drop_standard_error"] is None
    assert entry["shuffled"]["top1_acc_per_seed"] == [75.0, 75.0, 62.5]
    assert entry["shuffled"]["drop"] == pytest.approx(87.5 - 212.5 / 3)
    assert entry["shuffled"]["drop_standard_error"] == pytest.approx(np.std([75, 75, 62.5], ddof=1) / 3**0.5)
    assert entry["shuffled"]["class_drop"]["left"] == pytest.approx(50.0)
    assert entry["shuffled"]["class_drop"]["cross"] == pytest.approx(50.0 - 500 / 6)


def test_interval_of_a_drop_is_that_of_its_videos() -> None:
    """Paired: what a video loses, averaged over the seeds."""
    whole = report()
    assert whole["bootstrap"] == {"confidence": 0.95, "num_resamples": 10_000, "seed": 0}
    entries = whole["orders"]
    assert entries["ordered"]["drop_interval"] == [0.0, 0.0]
    lost = np.array([1, 1, 1, 1, 0, 0, 0, -1])  # of "reversed", by hand
    expected = bootstrap_mean(100.0 * lost)
    assert entries["reversed"]["drop_interval"] == [expected.low, expected.high]
    assert entries["reversed"]["drop"] == pytest.approx(expected.mean)
    hits_SV = np.array([[1, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1, 1, 0]])
    seeds = bootstrap_mean(100.0 * (np.array([1, 1, 1, 1, 1, 1, 1, 0]) - hits_SV.mean(axis=0)))
    assert entries["shuffled"]["drop_interval"] == [seeds.low, seeds.high]
    assert f"{seeds.low:.2f} to {seeds.high:.2f}" in format_report(whole)


def test_picture_has_intervals_and_no_legend_over_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []

    def remember(figure: Figure, *args: object, **kwargs: object) -> None:
        save(figure, *args, **kwargs)
        figures.append(figure)

    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", remember)
    draw(report(), tmp_path / "a.png")
    axes = figures[0].axes[0]
    legend = axes.get_legend()
    assert legend is not None and not legend.get_window_extent().overlaps(axes.get_window_extent())
    (bars,) = (container for container in axes.containers if isinstance(container, ErrorbarContainer))
    (lines,) = bars.lines[2]
    ends = [sorted(segment[:, 1]) for segment in lines.get_segments()]
    intervals = [entry["drop_interval"] for entry in report()["orders"].values()]
    assert np.array(ends) == pytest.approx(np.array([[87.5 - high, 87.5 - low] for low, high in intervals]))


def test_tables_and_plot(tmp_path: Path) -> None:
    text = format_report(report())
    assert "shuffled" in text and "±" in text and "motion" in text
    assert "right 100%" in format_readings(report())
    json.dumps(report())
    draw(report(), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
