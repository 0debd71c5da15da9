"""`errors.json`: the classes that a test confuses, its worst mistakes, and whether its scores can be trusted.

Tables are {"title", "columns", "rows", "notes", "source"}, with units in the names of the columns, so that a page can
show them without knowing what they are about.

V videos, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from videovit.analysis.calibration import NUM_BINS, calibration_error, reliability, try_temperature
from videovit.analysis.mistakes import confused_pairs
from videovit.engine.evaluation.predictions import JOINED, Prediction
from videovit.messages import plural

Table = dict[str, Any]

MOST_PAIRS = 200  # rows
SOURCE = "Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599)"
MOST_SCORES = 2**21  # that a temperature is fitted on; the fit takes some 50 bytes for each
SUM_TOLERANCE = 1e-3  # of probabilities that should sum to 1


def error_report(scores_VK: Tensor, labels: Tensor, names: Sequence[str], worst: Sequence[Prediction]) -> Table:
    """The content of `errors.json`.

    Args:
        scores_VK: of the videos that were read; means or maxima over their views.
        labels: classes (V,), or (V, K), above 0 for the classes of a video.
        names: of the classes.
        worst: the most confident mistakes.
    """
    scores, predicted_V = scores_VK.numpy(), scores_VK.argmax(dim=1).tolist()
    several = labels.ndim == 2
    true: list[list[int]] = (
        [one.nonzero()[:, 0].tolist() for one in labels] if several else [[one] for one in labels.tolist()]
    )
    return {
        "title": "Errors of the test set",
        "num_videos": len(scores),
        "pairs": pairs_table(true, predicted_V, names),
        "worst": worst_table(worst, names),
        "calibration": _of_classes(scores, labels.numpy()) if several else _of_videos(scores, labels.numpy()),
    }


def pairs_table(true: Sequence[Sequence[int]], predicted_V: Sequence[int], names: Sequence[str]) -> Table:
    """The most frequently confused pairs of classes.

    Args:
        true: classes of each video.
        predicted_V: the class with the highest score.
        names: of the classes.
    """
    pairs = confused_pairs(zip(true, predicted_V, strict=True))
    notes = ["of class: share of the videos of the true class; reverse: videos of the other class taken for this one"]
    if any(len(one) != 1 for one in true):
        notes.append("a video with several classes counts once for each, if the highest score is of none of them")
    if len(pairs) > MOST_PAIRS:
        notes.append(f"the first {MOST_PAIRS} of {plural(len(pairs), 'pair')}")
    return {
        "title": "Most confused pairs",
        "columns": ["true", "predicted", "videos", "of class (%)", "reverse"],
        "rows": [
            [names[pair.true], names[pair.predicted], pair.number, 100 * pair.share, pair.back]
            for pair in pairs[:MOST_PAIRS]
        ],
        "notes": notes,
    }


def worst_table(worst: Sequence[Prediction], names: Sequence[str]) -> Table:
    """The most confident mistakes.

    Args:
        worst: the worst first.
        names: of the classes.
    """
    return {
        "title": "Worst mistakes",
        "columns": ["video", "path", "predicted", "score", "true", "true score"],
        "rows": [
            [
                one.video,
                one.path,
                names[one.top[0]],
                one.top_scores[0],
                JOINED.join(names[k] for k in one.true),
                JOINED.join(f"{score:.6g}" for score in one.true_scores),
            ]
            for one in worst
        ],
        "notes": ["videos whose highest score is of a wrong class, the highest first"],
    }


def calibration_table(confidence_V: NDArray[np.floating], right_V: NDArray[np.bool_], *, unit: str = "videos") -> Table:
    """The bins of a reliability diagram, and the numbers that sum them up; without a temperature.

    Args:
        confidence_V: score of each decision.
        right_V: whether it is right.
        unit: name of the decisions.
    """
    note = f"{NUM_BINS} bins of equal width"
    if not len(confidence_V) or confidence_V.min() < 0 or confidence_V.max() > 1:
        return {
            "title": "Calibration",
            "columns": [],
            "rows": [],
            "notes": ["scores are not probabilities (MODEL.HEAD_ACT none), so they cannot be calibrated"],
        }
    bins = reliability(confidence_V.astype(np.float64), right_V)
    return {
        "title": "Calibration",
        "columns": ["from", "to", unit, "mean confidence (%)", "accuracy (%)"],
        "rows": [[100 * b.low, 100 * b.high, b.number, 100 * b.confidence, 100 * b.accuracy] for b in bins if b.number],
        "notes": [
            "from, to: confidence in percent",
            f"ECE: {note}, the mean gap of confidence and accuracy weighted by the number of {unit}",
        ],
        "source": SOURCE,
        "num_bins": NUM_BINS,
        "ece": 100 * calibration_error(bins),
        "mean_confidence": 100 * float(confidence_V.mean(dtype=np.float64)),
        "accuracy": 100 * float(right_V.mean()),
        "temperature": None,
    }


def _of_videos(scores_VK: NDArray[np.floating], labels_V: NDArray[np.int64]) -> Table:
    """One class per video: the confidence is the highest score."""
    table = calibration_table(scores_VK.max(axis=1), scores_VK.argmax(axis=1) == labels_V)
    if "ece" not in table:
        return table
    if np.abs(scores_VK.sum(axis=1) - 1).max() > SUM_TOLERANCE:
        table["notes"].append("no temperature: the scores of a video do not sum to 1")
        return table
    return _with_temperature(table, scores_VK, labels_V)


def _of_classes(scores_VK: NDArray[np.floating], labels_VK: NDArray[np.floating]) -> Table:
    """Any number of classes per video: each is a decision, and its score the confidence in yes."""
    scores, present = scores_VK.ravel(), labels_VK.ravel() > 0
    table = calibration_table(scores, present, unit="classes of videos")
    if "ece" not in table:
        return table
    table["notes"].append("every class of every video is a decision; accuracy: how often the video shows the class")
    pairs = np.stack([1 - scores, scores], axis=1)
    table = _with_temperature(table, pairs, present.astype(np.int64))
    # That of the more likely answer would be another measure.
    table["temperature"].pop("ece_before")
    table["temperature"].pop("ece_after")
    return table


def _with_temperature(table: Table, scores_VK: NDArray[np.floating], labels_V: NDArray[np.int64]) -> Table:
    step = -(-scores_VK.size // MOST_SCORES)
    found = asdict(try_temperature(scores_VK[::step].astype(np.float64), labels_V[::step]))
    for name in ("ece_before", "ece_after"):
        found[name] *= 100
    note = "temperature: divides the logits; fitted by likelihood. NLL and ECE after it are cross-fitted (two halves)"
    note += f", on every {step}th decision" if step > 1 else ""
    return {**table, "temperature": found, "notes": [*table["notes"], note]}
