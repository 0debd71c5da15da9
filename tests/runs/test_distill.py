"""A student and its teacher, both trained through the command line."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.runs import run_tool, stats

CONFIG = """
TRAIN: {DATASET: imagenet, BATCH_SIZE: 8, EVAL_PERIOD: 8, CHECKPOINT_PERIOD: 8}
TEST: {DATASET: imagenet, BATCH_SIZE: 8, NUM_ENSEMBLE_VIEWS: 1, NUM_SPATIAL_CROPS: 1}
DATA: {NUM_FRAMES: 1, TRAIN_CROP_SIZE: 16, TEST_CROP_SIZE: 16, INPUT_CHANNEL_NUM: [3], RANDOM_FLIP: False}
PSVIT: {PLAN: BS, DIMS: [16], HEADS: [2], PATCH_SIZE: 8, DROPPATH_RATE: 0.0}
VIT: {PATCH_SIZE: [1, 8, 8], EMBED_DIM: 16, DEPTH: 1, NUM_HEADS: 2, DISTILLED: True}
MODEL: {MODEL_NAME: PSViT, NUM_CLASSES: 2, DROPOUT_RATE: 0.0}
SOLVER: {OPTIMIZING_METHOD: adamw, BASE_LR: 0.01, MAX_EPOCH: 8}
DATA_LOADER: {NUM_WORKERS: 0, PIN_MEMORY: False}
NUM_GPUS: 0
LOG_MODEL_INFO: False
"""


def write_images(folder: Path, *, wrong_labels: bool = False) -> Path:
    """Dark and bright images in two classes; optionally with training images in the wrong one."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(24):
            label = i % 2 if split == "val" or not wrong_labels else 1 - i % 2
            path = folder / split / f"class{label}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((rng.integers(0, 80, (20, 20, 3)) + 150 * (i % 2)).astype(np.uint8)).save(path)
    return folder


def test_student_follows_its_teacher_against_its_labels(tmp_path: Path) -> None:
    config = tmp_path / "teacher.yaml"
    config.write_text(CONFIG)
    right, wrong = write_images(tmp_path / "right"), write_images(tmp_path / "wrong", wrong_labels=True)
    out = {name: tmp_path / f"run_{name}" for name in ("teacher", "student")}
    run_tool("run_net.py", "--cfg", config, "DATA.PATH_TO_DATA_DIR", right, "OUTPUT_DIR", out["teacher"])
    assert stats(out["teacher"], "test_final")[0]["top1_acc"] == 100.0

    student = ["MODEL.MODEL_NAME", "ViT", "DATA.PATH_TO_DATA_DIR", wrong, "OUTPUT_DIR", out["student"]]
    student += ["DISTILL.TYPE", "hard", "DISTILL.ALPHA", "1.0", "LOG_PERIOD", 1]
    student += ["DISTILL.TEACHER_CFG", out["teacher"] / "config.yaml", "DISTILL.CHECKPOINT_FILE_PATH", out["teacher"]]
    run_tool("run_net.py", "--cfg", config, *student)
    assert stats(out["student"], "test_final")[0]["top1_acc"] == 100.0
    for record in stats(out["student"], "train_iter"):  # the total is that of the teacher alone
        assert record["loss"] == record["loss_teacher"] != record["loss_labels"]
