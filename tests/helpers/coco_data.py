"""A few rendered images in COCO's form, and a config that trains a tiny detector on them."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from tests.helpers.project import ROOT
from videovit.config import Config, load_config

TINY = """
TRAIN: {DATASET: coco, BATCH_SIZE: 4, EVAL_PERIOD: 1, CHECKPOINT_PERIOD: 1}
TEST: {DATASET: coco, BATCH_SIZE: 4, NUM_ENSEMBLE_VIEWS: 1, NUM_SPATIAL_CROPS: 1}
DATA: {NUM_FRAMES: 1, TRAIN_CROP_SIZE: 64}
COCO:
  TRAIN_IMAGES: train
  VAL_IMAGES: val
  TRAIN_ANNOTATIONS: annotations/instances_train.json
  VAL_ANNOTATIONS: annotations/instances_val.json
  TRAIN_SHORT_SIDES: [48, 56, 64]
  TEST_SHORT_SIDE: 64
  MAX_LONG_SIDE: 100
  CROP_SHORT_SIDES: [48, 64]
  CROP_SIZES: [40, 64]
  LSJ_SIZE: 64
MODEL: {MODEL_NAME: ViT, NUM_CLASSES: 6, DROPOUT_RATE: 0.1}
VIT: {EMBED_DIM: 24, DEPTH: 1, NUM_HEADS: 2, PATCH_SIZE: [1, 8, 8]}
DETECTOR:
  NAME: MaskRCNN
  STRIDES: [8]
  ANCHOR_SIZES: [16, 32]
  CHANNELS: 16
  BOX_DIM: 32
  PROPOSALS: [30, 20]
  BOX_SAMPLES: 16
  MAX_DETECTIONS: 10
SOLVER: {OPTIMIZING_METHOD: adamw, BASE_LR: 0.002, MAX_EPOCH: 1, CLIP_GRAD_L2NORM: 1.0}
DATA_LOADER: {NUM_WORKERS: 0}
NUM_GPUS: 0
LOG_PERIOD: 1
LOG_MODEL_INFO: False
"""


@functools.cache
def renderer() -> ModuleType:
    """datasets/demo/coco.py."""
    folder = str(ROOT / "datasets/demo")
    sys.path.insert(0, folder)
    try:
        spec = importlib.util.spec_from_file_location("demo_coco", ROOT / "datasets/demo/coco.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["demo_coco"] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


def write_coco(folder: Path, *, train: int = 12, val: int = 5) -> Path:
    renderer().prepare(folder, {"train": train, "val": val})
    return folder


def coco_config(folder: Path, data: Path, *opts: object) -> Config:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(TINY)
    return load_config(path, ["DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", folder, *opts])
