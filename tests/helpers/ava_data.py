"""A small data set in the layout of AVA: movies, ground truth, proposals, excluded key frames, class list, config.

Each second of a movie shows two squares at random positions; the color of a square is its action. Six classes, of
which four are evaluated and three occur; key frames 1 to 18 s of movies of 20 s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.videos import write_video

FPS, SECONDS, WIDTH, HEIGHT = 10, 20, 64, 48
COLORS = {1: (220, 30, 30), 2: (30, 220, 30), 3: (40, 40, 230)}
LABEL_MAP = """item {
  name: "red"
  id: 1
}
item { name: "green (\\"grass\\")" id: 2 }  # on one line
item { name: "blue" id: 3 }
item { name: "never" id: 4 }
"""

CONFIG = """
TRAIN: {DATASET: ava, BATCH_SIZE: 6, EVAL_PERIOD: 5, CHECKPOINT_PERIOD: 5}
TEST: {DATASET: ava, BATCH_SIZE: 4}
DETECTION: {ENABLE: True, ALIGNED: True, ROI_XFORM_RESOLUTION: 3}
AVA:
  MOVIE_DIR: FOLDER/movies
  ANNOTATION_DIR: FOLDER/annotations
  KEY_FRAMES_S: [1, 18]
  TRAIN_GT_BOX_LISTS: [train.csv]
  TRAIN_PREDICT_BOX_LISTS: [train_proposals.csv]
  TEST_PREDICT_BOX_LISTS: [val_proposals.csv]
  GROUNDTRUTH_FILE: val.csv
  EXCLUSION_FILE: excluded.csv
  LABEL_MAP_FILE: classes.pbtxt
  DETECTION_SCORE_THRESH: 0.8
DATA:
  NUM_FRAMES: 4
  SAMPLING_RATE: 2
  TARGET_FPS: 10
  TRAIN_JITTER_SCALES: [32, 40]
  TRAIN_CROP_SIZE: 32
  TEST_CROP_SIZE: 32
  DECODE_TIMEOUT_S: 0
MVIT:
  PATCH_KERNEL: (3, 7, 7)
  PATCH_STRIDE: (2, 4, 4)
  PATCH_PADDING: (1, 3, 3)
  EMBED_DIM: 16
  DEPTH: 2
  DIM_MUL: [[1, 2.0]]
  HEAD_MUL: [[1, 2.0]]
  POOL_Q_STRIDE: [[1, 1, 2, 2]]
  POOL_KV_STRIDE_ADAPTIVE: [1, 2, 2]
  POOL_KVQ_KERNEL: [3, 3, 3]
  SEP_POS_EMBED: True
SOLVER: {OPTIMIZING_METHOD: adamw, BASE_LR: 0.004, MAX_EPOCH: 5, WARMUP_EPOCHS: 1, WARMUP_START_LR: 0.0}
MODEL: {NUM_CLASSES: 6, DROPOUT_RATE: 0.0, LOSS_FUNC: bce, HEAD_ACT: sigmoid}
DATA_LOADER: {NUM_WORKERS: 0}
NUM_GPUS: 0
NUM_CPU_THREADS: 1
LOG_PERIOD: 1000
LOG_MODEL_INFO: False
"""


def scene(movie: int, second: int) -> list[tuple[int, tuple[int, int, int, int]]]:
    """(class, x1, y1, x2, y2 in pixels) of the two squares of a second: one in the left half, one in the right."""
    rng = np.random.default_rng([movie, second])
    boxes = []
    for half in (14, 32):  # the center crop begins at pixel 8
        side = int(rng.integers(12, 17))
        x, y = half + int(rng.integers(0, 18 - side + 1)), int(rng.integers(4, HEIGHT - 4 - side))
        boxes.append((int(rng.integers(1, 4)), (x, y, x + side, y + side)))
    return boxes


def draw(movie: int, frame: int) -> Any:
    image = np.full((HEIGHT, WIDTH, 3), 90, dtype=np.uint8)
    for class_id, (x1, y1, x2, y2) in scene(movie, (frame + FPS // 2) // FPS):
        image[y1:y2, x1:x2] = COLORS[class_id]
    return image


def row(name: str, second: int, box: tuple[float, ...], *rest: object) -> str:
    x1, y1, x2, y2 = box
    corners = (f"{value:.3f}" for value in (x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT))
    return ",".join([name, f"{second:04d}", *corners, *map(str, rest)]) + "\n"


def write_ava(folder: Path, *, num_train: int = 3, num_val: int = 1) -> Path:
    """Write the data set; returns the config file."""
    (folder / "movies").mkdir(parents=True)
    notes = folder / "annotations"
    notes.mkdir()
    files: dict[str, list[str]] = {name: [] for name in ("train", "train_proposals", "val", "val_proposals")}
    for movie in range(num_train + num_val):
        name, split = f"movie_{movie}", "train" if movie < num_train else "val"
        path = folder / "movies" / f"{name}.mkv"
        write_video(path, num_frames=FPS * SECONDS, fps=FPS, size=(WIDTH, HEIGHT), draw=lambda i, m=movie: draw(m, i))
        for second in range(1, 19):
            for person, (class_id, box) in enumerate(scene(movie, second)):
                # Key frame 5 of the validation is excluded, and its ground truth is wrong.
                label = class_id % 3 + 1 if (split, second) == ("val", 5) else class_id
                files[split].append(row(name, second, box, label, person))
                found = (box[0] + 1, box[1], box[2] + 1, box[3])
                files[f"{split}_proposals"].append(
                    row(name, second, found, class_id if split == "train" else "", 0.9 + 0.01 * person)
                )
            # Below the score threshold, so not read; it would be a false alarm.
            files[f"{split}_proposals"].append(row(name, second, (0, 0, 8, 8), "", 0.3))
    for name, lines in files.items():
        (notes / f"{name}.csv").write_text("".join(lines))
    (notes / "excluded.csv").write_text(f"movie_{num_train},0005\n")
    (notes / "classes.pbtxt").write_text(LABEL_MAP)
    config = folder / "ava.yaml"
    config.write_text(CONFIG.replace("FOLDER", str(folder)))
    return config
