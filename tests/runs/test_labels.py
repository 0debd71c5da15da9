"""Something-Something v2 and Charades in their official layout, from files to numbers, through the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.runs import TINY, run_tool, stats, write_config
from tests.helpers.videos import write_video

SSV2_TEMPLATES = ["Holding [something] on the left", "Holding [something]", "Holding [something] on the right"]
NUM_FRAMES = 24


def bars(rng: np.random.Generator, shown: list[set[int]]) -> Any:
    """Draws frames of noise with bright bars at the positions, out of three, that `shown` gives for the frame."""

    def draw(frame: int) -> Any:
        image = rng.integers(0, 60, (48, 48, 3), dtype=np.uint8)
        for place in shown[frame]:
            image[:, 16 * place : 16 * place + 16] += 150
        return image

    return draw


def write_ssv2(folder: Path, *, num_train: int, num_val: int) -> Path:
    """The official layout: labels, lists, and a folder of VP9 files named by numbers."""
    videos = folder / "20bn-something-something-v2"
    videos.mkdir(parents=True)
    labels = {t.replace("[", "").replace("]", ""): str(k) for k, t in enumerate(SSV2_TEMPLATES)}
    (folder / "something-something-v2-labels.json").write_text(json.dumps(labels, indent=1))
    number = 0
    for name, count in (("train", num_train), ("validation", num_val)):
        entries = []
        for i in range(count):
            number += 1
            draw = bars(np.random.default_rng([1, number]), [{i % 3}] * NUM_FRAMES)
            path = videos / f"{number}.webm"
            options = {"deadline": "realtime", "cpu-used": "8"}
            write_video(
                path, num_frames=NUM_FRAMES, fps=12, codec="libvpx-vp9", size=(48, 48), draw=draw, options=options
            )
            thing = {"placeholders": ["a bar"], "label": "holding a bar"}
            entries.append({"id": str(number), "template": SSV2_TEMPLATES[i % 3], **thing})
        (folder / f"something-something-v2-{name}.json").write_text(json.dumps(entries))
    return folder


def write_charades(folder: Path, *, num_train: int, num_val: int) -> Path:
    """The official layout: CSV lists, class names, and a folder of mp4 files; each bar comes and goes."""
    videos = folder / "Charades_v1_480"
    videos.mkdir(parents=True)
    (folder / "Charades_v1_classes.txt").write_text("c000 Bar, left\nc001 Bar, middle\nc002 Bar, right\n")
    header = ["id", "subject", "scene", "quality", "relevance", "verified", "script", "objects", "descriptions"]
    for split, (name, count) in enumerate((("train", num_train), ("test", num_val))):
        rows = []
        for i in range(count):
            rng = np.random.default_rng([2, split, i])
            video = f"{name[:2].upper()}{i:03d}"
            # Bit k of 1..7: whether bar k is there, for half of the video or longer.
            spans = {k: np.sort(rng.permutation([0, 6, 18, 24])[:2]) for k in range(3) if (i % 7 + 1) >> k & 1}
            spans = {k: s if s[1] - s[0] >= 12 else np.array([0, 24]) for k, s in spans.items()}
            shown = [{k for k, (first, end) in spans.items() if first <= f < end} for f in range(NUM_FRAMES)]
            path = videos / f"{video}.mp4"
            write_video(path, num_frames=NUM_FRAMES, fps=24, size=(48, 48), draw=bars(rng, shown))
            actions = ";".join(f"c{k:03d} {first / 24:.2f} {end / 24:.2f}" for k, (first, end) in spans.items())
            rows.append([video, "S", "Kitchen", 6, 6, "Yes", "A bar, seen.", "bar", "A bar.", actions, 1.0])
        with open(folder / f"Charades_v1_{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([[*header, "actions", "length"], *rows])
    return folder


def rows_of(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def predict(out: Path, videos: list[Path]) -> list[dict[str, Any]]:
    """Output of tools/predict.py with the config and weights of a run."""
    run_tool(
        "predict.py", "--cfg", out / "config.yaml", "--checkpoint", out, "--json", out / "p.json", *videos,
    )  # fmt: skip
    return json.loads((out / "p.json").read_text())


def class_scores(prediction: dict[str, Any]) -> dict[str, float]:
    """The score of each class."""
    return {entry["class"]: entry["score"] for entry in prediction["top"]}


def test_something_something(tmp_path: Path) -> None:
    data = write_ssv2(tmp_path / "data", num_train=24, num_val=9)
    out = tmp_path / "out"
    opts = ["TRAIN.DATASET", "ssv2", "TEST.DATASET", "ssv2", "DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", out]
    opts += ["TEST.NUM_ENSEMBLE_VIEWS", 1, "SOLVER.MAX_EPOCH", 4, "TRAIN.EVAL_PERIOD", 2, "LOG_PERIOD", 10]
    opts += ["TRAIN.CHECKPOINT_PERIOD", 4, "SHUFFLE_EVAL.ENABLE", True, "SHUFFLE_EVAL.NUM_SEEDS", 1]
    opts += ["TEST.SAVE_RESULTS_PATH", "scores.pt"]
    done = run_tool("run_net.py", "--cfg", write_config(tmp_path, TINY), *opts)
    (result,) = stats(out, "test_final")
    assert result["views"] == "1 clip x 3 crops" and (result["num_videos"], result["num_views"]) == (9, 27)
    assert "9 of 9" in done.stderr + done.stdout and "27 of 27" in done.stderr + done.stdout
    assert result["top1_acc"] > 80 and result["mean_class_acc"] > 80
    matrix = rows_of(out / "confusion_matrix.csv")
    assert (
        matrix[0][1:] == [row[0] for row in matrix[1:]] == [t.replace("[", "").replace("]", "") for t in SSV2_TEMPLATES]
    )
    assert sum(int(matrix[k][k]) for k in (1, 2, 3)) == round(9 * result["top1_acc"] / 100)
    assert [row[2] for row in rows_of(out / "per_class.csv")[1:]] == ["3", "3", "3"]
    assert (out / "confusion_matrix.png").stat().st_size > 1000 and (out / "per_class.png").exists()
    # Prediction takes the one clip of the whole video, and three crops of it, as the test did.
    videos = [data / "20bn-something-something-v2" / f"{24 + i + 1}.webm" for i in range(3)]
    predicted = predict(out, videos)
    assert [p["views"] for p in predicted] == ["1 window x 3 crops, mean score"] * 3
    assert [len(p["windows"]) for p in predicted] == [1, 1, 1]
    kept = torch.load(out / "scores.pt", weights_only=True)["scores"][:3] / 3
    for prediction, scores_K in zip(predicted, kept, strict=True):
        assert class_scores(prediction) == pytest.approx(
            dict(zip(matrix[0][1:], scores_K.tolist(), strict=True)), abs=1e-4
        )
    # One place is bright in all frames: their order changes nothing.
    (shuffled,) = stats(out, "shuffle_eval")
    assert shuffled["shuffled_top1_acc"] == pytest.approx(result["top1_acc"], abs=12)


def test_charades(tmp_path: Path) -> None:
    data = write_charades(tmp_path / "data", num_train=42, num_val=14)
    out = tmp_path / "out"
    opts = ["TRAIN.DATASET", "charades", "TEST.DATASET", "charades", "DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", out]
    opts += ["DATA.MULTI_LABEL", True, "DATA.ENSEMBLE_METHOD", "max", "DATA.TARGET_FPS", 24, "TRAIN.BATCH_SIZE", 6]
    opts += ["MODEL.LOSS_FUNC", "bce_logit", "MODEL.HEAD_ACT", "sigmoid", "TEST.NUM_ENSEMBLE_VIEWS", 10]
    opts += ["SOLVER.MAX_EPOCH", 4, "TRAIN.EVAL_PERIOD", 2, "LOG_PERIOD", 10, "TRAIN.CHECKPOINT_PERIOD", 4]
    opts += ["TEST.SKIP_UNREADABLE", True, "NUM_CPU_PROCS", 2]
    (data / "Charades_v1_480" / "TE003.mp4").write_bytes(b"not a video")
    done = run_tool("run_net.py", "--cfg", write_config(tmp_path, TINY), *opts)
    (result,) = stats(out, "test_final")
    assert (result["num_videos"], result["num_views"], result["num_skipped"]) == (13, 390, 1)
    assert "13 of 14" in done.stderr + done.stdout and "390 of 420" in done.stderr + done.stdout
    table = rows_of(out / "per_class.csv")
    assert [row[0] for row in table[1:]] == ["Bar, left", "Bar, middle", "Bar, right"]
    # A score without meaning has an average precision near the share of videos that show the class.
    chance = np.mean([100 * int(row[2]) / 13 for row in table[1:]])
    assert result["map"] > chance + 20
    assert [record["num_videos"] for record in stats(out, "val_epoch")] == [13, 13]
    # Prediction: windows of 8 frames back to back, the highest of all views for each class.
    (prediction,) = predict(out, [data / "Charades_v1_480" / "TE000.mp4"])
    assert prediction["views"] == "3 windows x 3 crops, highest score of each class"
    windows = [class_scores(window) for window in prediction["windows"]]
    assert class_scores(prediction) == pytest.approx(
        {name: max(scores[name] for scores in windows) for name in windows[0]}
    )
    assert sum(class_scores(prediction).values()) != pytest.approx(1, abs=1e-3)  # sigmoid: classes do not compete
