"""Rules across keys."""

from __future__ import annotations

import pytest

from videovit.config import ConfigError, load_config


@pytest.mark.parametrize(
    ("opts", "keys"),
    [
        ("SHARD_ID 2 NUM_SHARDS 2", "SHARD_ID"),
        ("OUTPUT_DIR ~/runs/a", "OUTPUT_DIR"),
        ("DATA.PATH_PREFIX ~/videos", "DATA.PATH_PREFIX"),
        ("NUM_GPUS 0 NUM_CPU_PROCS 2 DIST_BACKEND nccl", "DIST_BACKEND"),
        ("NUM_GPUS 0 TRAIN.MIXED_PRECISION True TRAIN.MIXED_PRECISION_DTYPE fp16", "TRAIN.MIXED_PRECISION_DTYPE"),
        ("NUM_GPUS 0 TEST.MIXED_PRECISION True TRAIN.MIXED_PRECISION_DTYPE fp16", "TRAIN.MIXED_PRECISION_DTYPE"),
        ("NUM_GPUS 8 TRAIN.BATCH_SIZE 12", "TRAIN.BATCH_SIZE"),
        ("NUM_GPUS 0 NUM_CPU_PROCS 3", "TRAIN.BATCH_SIZE"),
        ("NUM_GPUS 8 TRAIN.BATCH_SIZE 16 TRAIN.GRAD_ACCUM_STEPS 4", "TRAIN.GRAD_ACCUM_STEPS"),
        ("MIXUP.ENABLE True", "MODEL.LOSS_FUNC"),
        ("MODEL.LABEL_SMOOTHING 0.1 MODEL.LOSS_FUNC bce", "MODEL.LABEL_SMOOTHING"),
        ("MODEL.ARCH slowfast", "MODEL.ARCH"),
        ("MODEL.ARCH i3d MODEL.NUM_CLASSES 10", "MODEL.ARCH"),
        ("DATA.MULTI_LABEL True MODEL.HEAD_ACT sigmoid", "MODEL.LOSS_FUNC"),
        ("DATA.MULTI_LABEL True MODEL.LOSS_FUNC bce_logit", "MODEL.HEAD_ACT"),
        ("DATA.MULTI_LABEL True MODEL.LOSS_FUNC bce_logit MODEL.HEAD_ACT sigmoid MIXUP.ENABLE True", "MIXUP.ENABLE"),
        ("TEST.DATASET ssv2 TEST.NUM_ENSEMBLE_VIEWS 2", "TEST.NUM_ENSEMBLE_VIEWS"),
        ("TEST.DATASET ssv2 TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_TEMPORAL_CLIPS [1,2]", "TEST.NUM_TEMPORAL_CLIPS"),
        (
            "DATA.MULTI_LABEL True MODEL.LOSS_FUNC bce_logit MODEL.HEAD_ACT sigmoid SHUFFLE_EVAL.ENABLE True",
            "SHUFFLE_EVAL.ENABLE",
        ),
        (
            "MIXUP.ENABLE True MODEL.LOSS_FUNC soft_cross_entropy MODEL.LABEL_SMOOTHING 0.1",
            "MODEL.LABEL_SMOOTHING",
        ),
        ("SOLVER.BASE_LR 0.1 SOLVER.COSINE_END_LR 0.2", "SOLVER.COSINE_END_LR"),
        ("SOLVER.LR_POLICY steps_with_relative_lrs", "SOLVER.STEPS"),
        ("SOLVER.LR_POLICY steps_with_relative_lrs SOLVER.STEPS [0,5,3] SOLVER.LRS [1,1,1]", "SOLVER.STEPS"),
        ("SOLVER.LR_POLICY steps_with_relative_lrs SOLVER.STEPS [0,5] SOLVER.LRS [1]", "SOLVER.LRS"),
        ("DATA.TRAIN_JITTER_SCALES [320,256]", "DATA.TRAIN_JITTER_SCALES"),
        ("DATA.TRAIN_JITTER_SCALES_RELATIVE [1,0.08]", "DATA.TRAIN_JITTER_SCALES_RELATIVE"),
        ("DATA.TRAIN_JITTER_ASPECT_RELATIVE [1.3,0.7]", "DATA.TRAIN_JITTER_ASPECT_RELATIVE"),
        ("DATA.TRAIN_CROP_SIZE 257", "DATA.TRAIN_CROP_SIZE"),
        ("DATA.TRAIN_JITTER_SCALES_RELATIVE [0.5,1.5]", "DATA.TRAIN_JITTER_SCALES_RELATIVE"),
        ("DATA.TRAIN_CROP_SIZE 257 DATA.TRAIN_JITTER_SCALES_RELATIVE [0.08,1.0]", "DATA.TRAIN_CROP_SIZE"),
        ("DATA.TEST_CROP_SIZE 192 DATA.TEST_SHORT_SIDE 200", "DATA.TRAIN_CROP_SIZE"),
        ("DATA.TEST_CROP_SIZE 257 TEST.NUM_SPATIAL_CROPS 1", "DATA.TEST_CROP_SIZE"),
        ("DATA.TEST_CROP_SIZE 257 TEST.NUM_SPATIAL_CROPS 1 TRAIN.ENABLE False", "DATA.TEST_CROP_SIZE"),
        ("DATA.TEST_SHORT_SIDE 250", "DATA.TEST_CROP_SIZE"),
        ("MVIT.PATCH_KERNEL [7,7]", "MVIT.PATCH_KERNEL"),
        ("DATA.NUM_FRAMES 1 MVIT.PATCH_2D True MVIT.PATCH_KERNEL [7,7] MVIT.PATCH_STRIDE [4,4]", "MVIT.PATCH_PADDING"),
        (
            "MVIT.PATCH_2D True MVIT.PATCH_KERNEL [7,7] MVIT.PATCH_STRIDE [4,4] MVIT.PATCH_PADDING [3,3]",
            "MVIT.PATCH_2D",
        ),
        ("DATA.NUM_FRAMES 2 MVIT.PATCH_PADDING [0,3,3]", "DATA.NUM_FRAMES"),
        ("MVIT.DEPTH 4 MVIT.POOL_Q_STRIDE [[4,1,2,2]]", "MVIT.POOL_Q_STRIDE"),
        ("MVIT.DEPTH 4 MVIT.POOL_KV_STRIDE [[4,1,2,2]]", "MVIT.POOL_KV_STRIDE"),
        ("MVIT.DEPTH 4 MVIT.DIM_MUL [[5,2.0]]", "MVIT.DIM_MUL"),
        ("MVIT.DEPTH 4 MVIT.HEAD_MUL [[5,2.0]]", "MVIT.HEAD_MUL"),
        ("SHUFFLE_EVAL.ORDERS [ordered,shufled]", "SHUFFLE_EVAL.ORDERS"),
        ("SHUFFLE_EVAL.ORDERS [window0]", "SHUFFLE_EVAL.ORDERS"),
        ("SHUFFLE_EVAL.ENABLE True SHUFFLE_EVAL.ORDERS []", "SHUFFLE_EVAL.ORDERS"),
    ],
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
        "SOLVER.MAX_EPOCH 1 SOLVER.WARMUP_EPOCHS 30",
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
