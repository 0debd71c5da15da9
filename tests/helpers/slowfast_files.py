"""The keys and values of SlowFast's MViT configuration files, written as those files write them.

`FILES` maps a file's name to its YAML text: tuples as plain text, rates such as `1e-4` that YAML readers take for text,
a key given twice, a section that SlowFast itself does not know.
"""

from __future__ import annotations

Sections = dict[str, dict[str, str]]

_RUN = {
    "TRAIN.ENABLE": "True",
    "TRAIN.DATASET": "kinetics",
    "TRAIN.BATCH_SIZE": "16",
    "TRAIN.EVAL_PERIOD": "10",
    "TRAIN.CHECKPOINT_PERIOD": "10",
    "TRAIN.AUTO_RESUME": "True",
    "DATA.USE_OFFSET_SAMPLING": "True",
    "DATA.DECODING_BACKEND": "torchvision",
    "DATA.NUM_FRAMES": "16",
    "DATA.SAMPLING_RATE": "4",
    "DATA.TRAIN_JITTER_SCALES": "[256, 320]",
    "DATA.TRAIN_CROP_SIZE": "224",
    "DATA.TEST_CROP_SIZE": "224",
    "DATA.INPUT_CHANNEL_NUM": "[3]",
    "DATA.TRAIN_JITTER_SCALES_RELATIVE": "[0.08, 1.0]",
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE": "[0.75, 1.3333]",
    "AUG.NUM_SAMPLE": "2",
    "AUG.ENABLE": "True",
    "AUG.COLOR_JITTER": "0.4",
    "AUG.AA_TYPE": "rand-m7-n4-mstd0.5-inc1",
    "AUG.INTERPOLATION": "bicubic",
    "AUG.RE_PROB": "0.25",
    "AUG.RE_MODE": "pixel",
    "AUG.RE_COUNT": "1",
    "AUG.RE_SPLIT": "False",
    "MIXUP.ENABLE": "True",
    "MIXUP.ALPHA": "0.8",
    "MIXUP.CUTMIX_ALPHA": "1.0",
    "MIXUP.PROB": "1.0",
    "MIXUP.SWITCH_PROB": "0.5",
    "MIXUP.LABEL_SMOOTH_VALUE": "0.1",
    "SOLVER.ZERO_WD_1D_PARAM": "True",
    "SOLVER.BASE_LR_SCALE_NUM_SHARDS": "True",
    "SOLVER.CLIP_GRAD_L2NORM": "1.0",
    "SOLVER.BASE_LR": "0.0001",
    "SOLVER.COSINE_AFTER_WARMUP": "True",
    "SOLVER.COSINE_END_LR": "1e-6",
    "SOLVER.WARMUP_START_LR": "1e-6",
    "SOLVER.WARMUP_EPOCHS": "30.0",
    "SOLVER.LR_POLICY": "cosine",
    "SOLVER.MAX_EPOCH": "200",
    "SOLVER.MOMENTUM": "0.9",
    "SOLVER.WEIGHT_DECAY": "0.05",
    "SOLVER.OPTIMIZING_METHOD": "adamw",
    "MODEL.NUM_CLASSES": "400",
    "MODEL.ARCH": "mvit",
    "MODEL.MODEL_NAME": "MViT",
    "MODEL.LOSS_FUNC": "soft_cross_entropy",
    "MODEL.DROPOUT_RATE": "0.5",
    "TEST.ENABLE": "True",
    "TEST.DATASET": "kinetics",
    "TEST.BATCH_SIZE": "64",
    "TEST.NUM_SPATIAL_CROPS": "1",
    "DATA_LOADER.NUM_WORKERS": "8",
    "DATA_LOADER.PIN_MEMORY": "True",
    "NUM_GPUS": "8",
    "NUM_SHARDS": "1",
    "RNG_SEED": "0",
    "OUTPUT_DIR": ".",
}

_V1 = {
    "MVIT.ZERO_DECAY_POS_CLS": "False",
    "MVIT.MODE": "conv",
    "MVIT.CLS_EMBED_ON": "True",
    "MVIT.PATCH_KERNEL": "(3, 7, 7)",
    "MVIT.PATCH_STRIDE": "(2, 4, 4)",
    "MVIT.PATCH_PADDING": "(1, 3, 3)",
    "MVIT.EMBED_DIM": "96",
    "MVIT.NUM_HEADS": "1",
    "MVIT.MLP_RATIO": "4.0",
    "MVIT.QKV_BIAS": "True",
    "MVIT.DROPPATH_RATE": "0.2",
    "MVIT.DEPTH": "16",
    "MVIT.NORM": "layernorm",
    "MVIT.DIM_MUL": "[[1, 2.0], [3, 2.0], [14, 2.0]]",
    "MVIT.HEAD_MUL": "[[1, 2.0], [3, 2.0], [14, 2.0]]",
    "MVIT.POOL_KVQ_KERNEL": "[3, 3, 3]",
    "MVIT.POOL_KV_STRIDE_ADAPTIVE": "[1, 8, 8]",
    "MVIT.POOL_Q_STRIDE": "[[1, 1, 2, 2], [3, 1, 2, 2], [14, 1, 2, 2]]",
    "MVIT.SEP_POS_EMBED": "True",
    "MVIT.DROPOUT_RATE": "0.0",
}


def _strides(depth: int, halved: tuple[int, ...]) -> str:
    sides = (2 if block in halved else 1 for block in range(depth))
    return "[" + ", ".join(f"[{block}, 1, {side}, {side}]" for block, side in enumerate(sides)) + "]"


def _factors(blocks: tuple[int, ...]) -> str:
    return "[" + ", ".join(f"[{block}, 2.0]" for block in blocks) + "]"


def _v2(depth: int, stages: tuple[int, ...]) -> dict[str, str]:
    return {key: text for key, text in _V1.items() if key != "MVIT.SEP_POS_EMBED"} | {
        "MVIT.DEPTH": str(depth),
        "MVIT.DIM_MUL": _factors(stages),
        "MVIT.HEAD_MUL": _factors(stages),
        "MVIT.POOL_Q_STRIDE": _strides(depth, stages),
        "MVIT.USE_ABS_POS": "False",
        "MVIT.REL_POS_SPATIAL": "True",
        "MVIT.REL_POS_TEMPORAL": "True",
        "MVIT.RESIDUAL_POOLING": "True",
        "MVIT.DIM_MUL_IN_ATT": "True",
        "TEST.NUM_ENSEMBLE_VIEWS": "5",
    }


_LONG = {"DATA.NUM_FRAMES": "32", "DATA.SAMPLING_RATE": "3", "MVIT.DROPPATH_RATE": "0.3"}
_LARGE = {
    "DATA.NUM_FRAMES": "40",
    "DATA.SAMPLING_RATE": "3",
    "DATA.TRAIN_JITTER_SCALES": "[356, 446]",
    "DATA.TRAIN_CROP_SIZE": "312",
    "DATA.TEST_CROP_SIZE": "312",
    "MODEL.ACT_CHECKPOINT": "True",
    "MVIT.EMBED_DIM": "144",
    "MVIT.NUM_HEADS": "2",
    "MVIT.DROPPATH_RATE": "0.75",
    "MIXUP.PROB": "0.0",
    "TEST.BATCH_SIZE": "8",
    "TEST.NUM_SPATIAL_CROPS": "3",
}
_SSV2 = {
    "TRAIN.DATASET": "ssv2",
    "TRAIN.EVAL_PERIOD": "2",
    "TRAIN.CHECKPOINT_PERIOD": "2",
    "TRAIN.CHECKPOINT_TYPE": "pytorch",
    "TRAIN.CHECKPOINT_EPOCH_RESET": "True",
    "TEST.DATASET": "ssv2",
    "TEST.NUM_SPATIAL_CROPS": "3",
    "TEST.NUM_ENSEMBLE_VIEWS": "1",
    "AUG.NUM_SAMPLE": "1",
    "DATA.INV_UNIFORM_SAMPLE": "True",
    "DATA.RANDOM_FLIP": "False",
    "DATA.REVERSE_INPUT_CHANNEL": "True",
    "MODEL.NUM_CLASSES": "174",
    "MVIT.DROPPATH_RATE": "0.4",
    "SOLVER.OPTIMIZING_METHOD": "sgd",
    "SOLVER.WEIGHT_DECAY": "1e-4",
    "SOLVER.WARMUP_EPOCHS": "3.0",
    "SOLVER.WARMUP_START_LR": "1e-4",
    "SOLVER.MAX_EPOCH": "100",
    "BN.USE_PRECISE_STATS": "False",
    "BN.NUM_BATCHES_PRECISE": "200",
    "DATA_LOADER.NUM_WORKERS": "2",
    "PREFETCH.NUM_LOADERS": "3",
}
_IMAGE = {
    "TRAIN.DATASET": "imagenet",
    "TRAIN.BATCH_SIZE": "256",
    "TEST.DATASET": "imagenet",
    "TEST.BATCH_SIZE": "256",
    "DATA.NUM_FRAMES": "1",
    "DATA.MEAN": "[0.485, 0.456, 0.406]",
    "DATA.STD": "[0.229, 0.224, 0.225]",
    "AUG.NUM_SAMPLE": "1",
    "AUG.AA_TYPE": "rand-m9-n6-mstd0.5-inc1",
    "MVIT.PATCH_2D": "True",
    "MVIT.PATCH_KERNEL": "[7, 7]",
    "MVIT.PATCH_STRIDE": "[4, 4]",
    "MVIT.PATCH_PADDING": "[3, 3]",
    "MVIT.DROPPATH_RATE": "0.1",
    "MVIT.POOL_KVQ_KERNEL": "[1, 3, 3]",
    "MODEL.NUM_CLASSES": "1000",
    "MODEL.DROPOUT_RATE": "0.0",
    "SOLVER.BASE_LR": "0.00025",
    "SOLVER.WARMUP_EPOCHS": "70.0",
    "SOLVER.WARMUP_START_LR": "1e-8",
    "SOLVER.MAX_EPOCH": "300",
}
_IMAGE_KV = {"MVIT.POOL_KV_STRIDE_ADAPTIVE": "", "MVIT.CLS_EMBED_ON": "False", "MVIT.REL_POS_TEMPORAL": ""}


def _kv_strides(depth: int, stages: tuple[int, ...]) -> str:
    side, rows = 4, []
    for block in range(depth):
        side = max(1, side // 2) if block in stages else side
        rows.append(f"[{block}, 1, {side}, {side}]")
    return "[" + ", ".join(rows) + "]"


_REVERSIBLE = {
    "MVIT.REV.ENABLE": "True",
    "MVIT.REV.RESPATH_FUSE": "concat",
    "MVIT.REV.BUFFER_LAYERS": "[1, 3, 14]",
    "MVIT.REV.RES_PATH": "conv",
}
_SMALL, _BASE, _TINY, _HUGE = (1, 3, 14), (2, 5, 21), (1, 3, 8), (2, 8, 44)


_FINE_TUNING = {
    "TASK": "ssl_eval",
    "MVIT.USE_MEAN_POOLING": "True",
    "MVIT.HEAD_INIT_SCALE": "0.001",
    "MVIT.LAYER_SCALE_INIT_VALUE": "0.0",
    "SOLVER.LAYER_DECAY": "0.75",
    "TEST.NUM_TEMPORAL_CLIPS": "[1, 3, 4, 5, 7, 10]",
}
_MASKED = {
    "TASK": "ssl",
    "MODEL.ARCH": "maskmvit",
    "MODEL.MODEL_NAME": "MaskMViT",
    "MODEL.LOSS_FUNC": "multi_mse",
    "MODEL.DROPOUT_RATE": "0.0",
    "MIXUP.ENABLE": "False",
    "AUG.AA_TYPE": "''",
    "AUG.COLOR_JITTER": "None",
    "AUG.RE_PROB": "0.0",
    "AUG.NUM_SAMPLE": "1",
    "MASK.ENABLE": "True",
    "TEST.ENABLE": "False",
}
_MASKFEAT = {
    "MVIT.DROPPATH_RATE": "0.0",
    "MASK.HEAD_TYPE": "separate",
    "MASK.PRED_HOG": "True",
    "AUG.GEN_MASK_LOADER": "True",
    "AUG.MASK_RATIO": "0.4",
    "AUG.MASK_TUBE": "False",
    "AUG.MASK_FRAMES": "False",
    "AUG.MASK_WINDOW_SIZE": "[8, 7, 7]",
}
_FLAT = dict.fromkeys(
    ("MVIT.DIM_MUL", "MVIT.HEAD_MUL", "MVIT.POOL_KVQ_KERNEL", "MVIT.POOL_KV_STRIDE_ADAPTIVE", "MVIT.POOL_Q_STRIDE"), ""
) | {
    "MVIT.PATCH_KERNEL": "[16, 16]",
    "MVIT.PATCH_STRIDE": "[16, 16]",
    "MVIT.PATCH_PADDING": "[0, 0]",
    "MVIT.EMBED_DIM": "768",
    "MVIT.NUM_HEADS": "12",
    "MVIT.DEPTH": "12",
}


def _text(keys: dict[str, str]) -> str:
    """Nested YAML of flat keys; keys with empty text are left out."""
    root: dict[str, object] = {}
    for key, text in keys.items():
        node = root
        *sections, name = key.split(".")
        for section in sections:
            node = node.setdefault(section, {})  # type: ignore[assignment]
        if text:
            node[name] = text
    return "\n".join(_lines(root, "")) + "\n"


def _lines(node: dict[str, object], indent: str) -> list[str]:
    lines = []
    for name, value in node.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines


_TWICE = {
    "MVIT.DEPTH": "16\n  DEPTH: 24",
    "MVIT.DIM_MUL": _factors(_BASE),
    "MVIT.HEAD_MUL": _factors(_BASE),
    "MVIT.POOL_Q_STRIDE": "[[2, 1, 2, 2], [5, 1, 2, 2], [21, 1, 2, 2]]",
    "SOLVER.BASE_LR": "1e-4",
    "SOLVER.WEIGHT_DECAY": "5e-2",
}

FILES: dict[str, str] = {
    name: _text(_RUN | keys)
    for name, keys in {
        "Kinetics/MVIT_B_16x4_CONV": _V1,
        "Kinetics/MVIT_B_32x3_CONV": _V1 | _LONG | _TWICE,
        "Kinetics/MVITv2_S_16x4": _v2(16, _SMALL),
        "Kinetics/MVITv2_B_32x3": _v2(24, _BASE) | _LONG,
        "Kinetics/MVITv2_L_40x3_test": _v2(48, _HUGE) | _LARGE | {"TRAIN.ENABLE": "False"},
        "SSv2/MVITv2_S_16x4": _v2(16, _SMALL) | _SSV2 | {"SOLVER.BASE_LR": "0.0025"},
        "SSv2/MVITv2_B_32x3": _v2(24, _BASE) | _LONG | _SSV2 | {"SOLVER.BASE_LR": "0.0015"},
        "SSv2/MVITv2_L_40x3": _v2(48, _HUGE)
        | _SSV2
        | _LARGE
        | {
            "TRAIN.BATCH_SIZE": "8",
            "TRAIN.CHECKPOINT_IN_INIT": "True",
            "SOLVER.BASE_LR": "0.00125",
            "SOLVER.CLIP_GRAD_L2NORM": "2.0",
            "SOLVER.MAX_EPOCH": "40",
            "MVIT.POOL_FIRST": "False",
        },
        "ImageNet/MVIT_B_16_CONV": _V1 | _IMAGE | {"MVIT.POOL_KV_STRIDE_ADAPTIVE": "[1, 4, 4]"},
        "ImageNet/MVITv2_T": _v2(10, _TINY) | _IMAGE | _IMAGE_KV | {"MVIT.POOL_KV_STRIDE": _kv_strides(10, _TINY)},
        "ImageNet/MVITv2_S": _v2(16, _SMALL) | _IMAGE | _IMAGE_KV | {"MVIT.POOL_KV_STRIDE": _kv_strides(16, _SMALL)},
        "Kinetics/REV_MVIT_B_16x4_CONV": _V1
        | _REVERSIBLE
        | {"MODEL.ARCH": "slow", "MVIT.QKV_BIAS": "False", "NUM_SHARDS": "16"},
        "ImageNet/REV_MVIT_B_16_CONV": _V1 | _IMAGE | _REVERSIBLE | {"MVIT.REV.PRE_Q_FUSION": "concat_linear_2"},
        "masked_ssl/k400_MVITv2_S_16x4_FT": _v2(16, _SMALL) | _FINE_TUNING,
        "masked_ssl/k400_MVITv2_S_16x4_MaskFeat_PT": _v2(16, _SMALL)
        | _MASKED
        | _MASKFEAT
        | {
            "MVIT.POOL_Q_STRIDE": _strides(16, (1, 3)),  # 14 x 14 tokens at the end
            "MASK.PRETRAIN_DEPTH": "[15]",
        },
        "masked_ssl/k400_MVITv2_L_16x4_MaskFeat_PT": _v2(48, _HUGE)
        | _MASKED
        | _MASKFEAT
        | {
            "MVIT.EMBED_DIM": "144",
            "MVIT.NUM_HEADS": "2",
            "MVIT.POOL_Q_STRIDE": _strides(48, (2, 8)),
            "MASK.PRETRAIN_DEPTH": "[47]",
        },
        "masked_ssl/in1k_VIT_B_MaskFeat_PT": _V1
        | _IMAGE
        | _FLAT
        | _MASKED
        | {
            "DATA.TRAIN_JITTER_SCALES_RELATIVE": "[0.5, 1.0]",
            "MASK.PRED_HOG": "True",
            "MASK.PRETRAIN_DEPTH": "[11]",
            "AUG.GEN_MASK_LOADER": "True",
            "AUG.MASK_RATIO": "0.4",
        },
        "masked_ssl/k400_VIT_L_16x4_MAE_PT": _V1
        | _FLAT
        | _MASKED
        | {
            "MVIT.PATCH_KERNEL": "(2, 16, 16)",
            "MVIT.PATCH_STRIDE": "(2, 16, 16)",
            "MVIT.PATCH_PADDING": "(0, 0, 0)",
            "MVIT.EMBED_DIM": "1024",
            "MVIT.NUM_HEADS": "16",
            "MVIT.DEPTH": "24",
            "DATA.TRAIN_CROP_NUM_TEMPORAL": "4",
            "MASK.MAE_ON": "True",
            "MASK.MAE_RND_MASK": "True",
            "MASK.PRETRAIN_DEPTH": "[23]",
            "MASK.HEAD_TYPE": "separate_xformer",
            "MASK.DECODER_DEPTH": "4",
            "MASK.DECODER_EMBED_DIM": "512",
            "AUG.MASK_RATIO": "0.9",
        },
    }.items()
}
