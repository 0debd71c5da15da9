"""Folders of runs as a stranger might leave them: every name tries to break out of the page that shows it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from videovit.config import Config, dump_config
from videovit.data.records import Batch
from videovit.engine.evaluation.predictions import write_predictions
from videovit.engine.evaluation.view_ensemble import TopK
from videovit.engine.reporting.json_lines import append_record

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(2)>",
    "\"quoted\" & 'quoted'",
    "</script><script>alert(3)</script>",
    "plain",
]
ANSI = "\x1b[31mred\x1b[0m <b>.mp4"


def write_hostile_run(folder: Path, *, num_videos: int = 60) -> Path:
    """A run with every file that a page reads; every seventh video is wrong."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(Config(OUTPUT_DIR="<b>out</b>")))
    for epoch in range(1, 5):
        common = {"epoch": f"{epoch}/4", "loss": 2 / epoch}
        append_record(folder / "stats.jsonl", {"_type": "train_epoch", **common, "lr": 0.1})
        append_record(folder / "stats.jsonl", {"_type": "val_epoch", **common, "top1_err": 80 / epoch})
    evaluator = TopK(num_videos=num_videos, num_views=1, num_classes=5)
    videos, labels = torch.arange(num_videos), torch.arange(num_videos) % 5
    scores = torch.rand(num_videos, 5, generator=torch.Generator().manual_seed(0))
    scores[videos, (labels + (videos % 7 == 0)) % 5] += 1
    scores /= scores.sum(1, keepdim=True)
    evaluator.update(scores, Batch(torch.empty(num_videos), labels, videos, videos * 0, videos, []))
    paths = [f"/data/{HOSTILE[v % 5].replace('/', '_')} {v}.mp4" for v in range(num_videos - 1)] + [f"/data/{ANSI}"]
    worst = write_predictions(folder / "predictions.csv", evaluator.predictions_of(paths), HOSTILE)
    (folder / "errors.json").write_text(json.dumps(evaluator.error_report(HOSTILE, worst)))
    evaluator.write_report(folder, HOSTILE)
    append_record(folder / "stats.jsonl", {"_type": "test_final", "views": "1 clip x 1 crop", **evaluator.result()})
    append_record(folder / "environment.jsonl", {"config": "config.yaml", "torch": HOSTILE[0]})
    (folder / "shuffle_eval.json").write_text(json.dumps(shuffle_report()))
    (folder / "analysis").mkdir()
    layer = {"entropy": 2.0, "uniform_entropy": 3.0, "distance": {"space": 0.5}, "uniform_distance": {"space": 0.6}}
    pairs = [{"layers": [1, 2], "cosine": 0.5, "correlation": 0.1}]
    analysis = {"attention": {"layers": [{"layer": 1, **layer}, {"layer": 2, **layer}]}, "similarity": {"pairs": pairs}}
    (folder / "analysis/analysis.json").write_text(json.dumps(analysis))
    for name in ("robustness", "use_of_time"):
        table = {
            "title": f"{name} {HOSTILE[0]}",
            "columns": [HOSTILE[1], "top-1 (%)"],
            "rows": [[HOSTILE[3], 50.5], [ANSI, None]],
            "notes": [HOSTILE[0]],
            "source": HOSTILE[1],
        }
        (folder / f"{name}.json").write_text(json.dumps(table))
    return folder


def shuffle_report() -> dict[str, object]:
    """As `shuffle_eval.json` has it."""
    orders = {}
    for order, accuracy in (("ordered", 90.0), ("shuffled", 40.0)):
        orders[order] = {
            "top1_acc": accuracy,
            "top1_acc_per_seed": [accuracy],
            "drop": 90 - accuracy,
            "drop_interval": [85.0 - accuracy, 95.0 - accuracy],
            "groups": {HOSTILE[1]: accuracy},
            "class_acc": dict.fromkeys(HOSTILE, accuracy),
        }
    return {"bootstrap": {"confidence": 0.95}, "orders": orders, "num_videos": 60}


def moving_square(number: int = 8, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Frames (F, S, S, 3) of a square that moves, and heat (F, S, S) on it."""
    frames, heat = np.zeros((number, side, side, 3), np.uint8), np.zeros((number, side, side), np.float32)
    for i in range(number):
        place = slice(2 * i, 2 * i + 10)
        frames[i, 8:18, place], heat[i, 8:18, place] = 200, 1
    return frames, heat
