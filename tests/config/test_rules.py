"""Rules across keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.broken_configs import BROKEN, SAME_RULES
from videovit.config import ConfigError, load_config
from videovit.config.rules import labels
from videovit.data.catalog import DATASETS


@pytest.mark.parametrize(
    ("opts", "keys"),
    [*BROKEN, *SAME_RULES],
)
def test_broken_rule_names_the_key(opts: str, keys: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, opts.split(" "))
    assert len(caught.value.problems) == 1, caught.value.problems
    assert f": {keys}: " in caught.value.problems[0]
    assert caught.value.problems[0].startswith("command line: ")


@pytest.mark.parametrize(
    "opts",
    [
        "SHARD_ID 1 NUM_SHARDS 2",
        "NUM_GPUS 0 DIST_BACKEND nccl",
        "NUM_GPUS 0 TRAIN.MIXED_PRECISION True",
        "NUM_GPUS 0 TRAIN.ENABLE False TRAIN.MIXED_PRECISION True TRAIN.MIXED_PRECISION_DTYPE fp16",
        "NUM_GPUS 8 TRAIN.BATCH_SIZE 12 TRAIN.ENABLE False",
        "NUM_GPUS 8 TRAIN.BATCH_SIZE 16 AUG.NUM_SAMPLE 2 TRAIN.GRAD_ACCUM_STEPS 4",
        "MIXUP.ENABLE True TRAIN.ENABLE False",
        "MODEL.ARCH slowfast MODEL.MODEL_NAME ptv_slowfast_r50",
        "MODEL.ARCH slow",
        "MODEL.LOSS_FUNC soft_cross_entropy MODEL.LABEL_SMOOTHING 0.1",
        "SOLVER.MAX_EPOCH 1 SOLVER.WARMUP_EPOCHS 30 TRAIN.ENABLE False",
        "SOLVER.MAX_EPOCH 31 SOLVER.WARMUP_EPOCHS 30",
        "SOLVER.WARMUP_EPOCHS 30 SOLVER.WARMUP_START_LR 0.1",
        "SOLVER.BASE_LR 0.001",  # without warm-up, SOLVER.WARMUP_START_LR has no effect
        "DATA.MULTI_LABEL True TRAIN.DATASET mine TEST.DATASET mine MODEL.LOSS_FUNC bce MODEL.HEAD_ACT sigmoid",
        "MODEL.NUM_CLASSES 1 TRAIN.ENABLE False TEST.ENABLE False",
        "MODEL.NUM_CLASSES 1 DATA.MULTI_LABEL True TRAIN.DATASET charades TEST.DATASET Charades "
        "MODEL.LOSS_FUNC bce MODEL.HEAD_ACT sigmoid",
        "TRAIN.EVAL_PERIOD 0",
        "TRAIN.EVAL_PERIOD 0 TRAIN.BEST  TEST.CHECKPOINT best TEST.ENABLE False",
        "TRAIN.BEST  TEST.CHECKPOINT best TEST.CHECKPOINT_FILE_PATH output/other",
        "TRAIN.EVAL_PERIOD 0 TRAIN.DATASET ssv2 TEST.ENABLE False TEST.DATASET charades DATA.RANDOM_FLIP False",
        "MODEL.CLASS_WEIGHTS [1,2.5] MODEL.NUM_CLASSES 2 DATA.SAMPLER balanced",
        "MODEL.CLASS_WEIGHTS [1,2,3] TRAIN.ENABLE False",
        "TRAIN.BEST macro_f1 TRAIN.EARLY_STOP_EPOCHS 3 TEST.CHECKPOINT best TRAIN.FREEZE backbone",
        "TRAIN.FREEZE 3 MODEL.FREEZE_LAYERS 0",
        "DATA.INPUT_CHANNEL_NUM [1]",
        "DATA.INPUT_CHANNEL_NUM [1,1] DATA.MEAN [0.5] DATA.STD [0.5]",
        "DETECTION.ENABLE True TRAIN.ENABLE False TEST.DATASET ava MODEL.LOSS_FUNC bce MODEL.HEAD_ACT sigmoid",
        "SOLVER.LR_POLICY steps_with_relative_lrs SOLVER.STEPS [0,5] SOLVER.LRS [1,0.1]",
        "DATA.TRAIN_CROP_SIZE 312 DATA.TRAIN_JITTER_SCALES_RELATIVE [0.08,1.0] DATA.TRAIN_JITTER_SCALES [312,400]",
        "DATA.TRAIN_CROP_SIZE 312 DATA.TRAIN_JITTER_SCALES_RELATIVE [0.08,1.0] TRAIN.ENABLE False",
        "DATA.TEST_CROP_SIZE 312",  # frames are scaled to the three crops, as in PySlowFast
        "DATA.TEST_CROP_SIZE 312 TRAIN.ENABLE False",
        "DATA.TEST_CROP_SIZE 312 DATA.TEST_SHORT_SIDE 356",
        "DATA.TEST_CROP_SIZE 312 DATA.NUM_FRAMES 1",
        "MVIT.DEPTH 4 MVIT.DIM_MUL [[4,2.0]] MVIT.POOL_Q_STRIDE [[3,1,2,2]]",
        "SHUFFLE_EVAL.ENABLE True SHUFFLE_EVAL.ORDERS [ordered,reversed,shuffled,static,window4,window16]",
        "SHUFFLE_EVAL.ENABLE True SHUFFLE_EVAL.ORDERS [] SHUFFLE_EVAL.WINDOWS [2,4]",
    ],
)
def test_allowed_combinations_load(opts: str) -> None:
    load_config(None, opts.split(" "))


def test_broken_rule_names_the_line_that_set_a_key(tmp_path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("NUM_GPUS: 4\nTRAIN:\n  BATCH_SIZE: 6\n")
    with pytest.raises(
        ConfigError, match=r"run.yaml:3: TRAIN.BATCH_SIZE: 6 videos cannot be divided equally among NUM_GPUS 4"
    ):
        load_config(path)
    path.write_text("\nNUM_GPUS: 3\n")
    with pytest.raises(ConfigError, match=r"run.yaml:2: TRAIN.BATCH_SIZE: 64 videos"):
        load_config(path)


def test_labels_agree_with_the_catalog() -> None:
    kinds = {
        "top-k": labels.ONE_CLASS,
        "multi-label": labels.ANY_NUMBER,
        "detection": labels.BOXES,
        "objects": labels.OBJECTS,
    }
    assert {name: kinds[spec.evaluation] for name, spec in DATASETS.items()} == labels.LABELS


def test_what_is_no_config_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(ConfigError, match=r"loop.yaml: is a link that leads to nothing, expected a file"):
        load_config(tmp_path / "loop.yaml", [])
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config(tmp_path / f"{'n' * 10_000}.yaml", [])
