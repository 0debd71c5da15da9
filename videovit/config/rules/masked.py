"""Rules about masked pre-training."""

from __future__ import annotations

from collections.abc import Iterator

from videovit.config.rules.broken import Broken
from videovit.config.schema import Config

ENABLE = "MASK.ENABLE"
_ONE_CLIP = ("imagenet", "coco", "ava", "ssv2", "charades")  # data sets with one clip per video and step


def alone(cfg: Config) -> Iterator[Broken]:
    """Pre-training reads no labels and classifies nothing."""
    if not cfg.MASK.ENABLE:
        return
    train = cfg.TRAIN.ENABLE
    forbidden: list[tuple[bool, str, object, str]] = [
        (cfg.TEST.ENABLE, "TEST.ENABLE", False, "validation measures it"),
        (cfg.SHUFFLE_EVAL.ENABLE, "SHUFFLE_EVAL.ENABLE", False, "it works on models that classify"),
        (cfg.USE_OF_TIME.ENABLE, "USE_OF_TIME.ENABLE", False, "it works on models that classify"),
        (cfg.ROBUSTNESS.ENABLE, "ROBUSTNESS.ENABLE", False, "it works on models that classify"),
        (cfg.ANALYSIS.ENABLE, "ANALYSIS.ENABLE", False, "it works on models that classify"),
        (cfg.SEARCH.ENABLE, "SEARCH.ENABLE", False, "it works on models that classify"),
        (
            cfg.BENCHMARK.ENABLE and cfg.BENCHMARK.WHAT != "loader",
            "BENCHMARK.ENABLE",
            False,
            "it measures models that classify",
        ),
        (train and cfg.MIXUP.ENABLE, "MIXUP.ENABLE", False, "it reads no labels"),
        (train and cfg.DISTILL.TYPE != "none", "DISTILL.TYPE", "none", "a teacher classifies"),
        (train and cfg.MODEL.CLASS_WEIGHTS != "none", "MODEL.CLASS_WEIGHTS", "none", "it reads no labels"),
        (train and cfg.DATA.SAMPLER != "uniform", "DATA.SAMPLER", "uniform", "it reads no labels"),
        (train and cfg.MODEL.LABEL_SMOOTHING > 0, "MODEL.LABEL_SMOOTHING", 0.0, "it reads no labels"),
        (train and cfg.TRAIN.BEST not in ("", "auto", "loss"), "TRAIN.BEST", "auto", "validation measures the loss"),
        (
            train and cfg.TRAIN.OBJECTIVE in ("classification", "distillation", "detection"),
            "TRAIN.OBJECTIVE",
            "auto",
            "it has a loss of its own",
        ),
    ]
    for wrong, key, value, why in forbidden:
        if wrong:
            yield Broken((key, ENABLE), f"has no meaning in masked pre-training: {why}", ({key: value},))
    if cfg.DETECTOR.NAME or cfg.DETECTION.ENABLE:
        key = "DETECTOR.NAME" if cfg.DETECTOR.NAME else "DETECTION.ENABLE"
        yield Broken((ENABLE, key), f"reads no boxes and no objects, but {key} is set", ({ENABLE: False},))


def hidden(cfg: Config) -> Iterator[Broken]:
    """Something is hidden, and there is a part of the model that predicts it."""
    mask, off = cfg.MASK, {ENABLE: False}
    if not mask.ENABLE:
        if cfg.TASK == "ssl" and cfg.TRAIN.ENABLE:
            what = (
                f"ssl is pre-training without labels, but {ENABLE} is False, and contrastive training is not supported"
            )
            yield Broken(("TASK", ENABLE), what, ({"TASK": ""},))
        if cfg.MODEL.LOSS_FUNC == "multi_mse":
            what = f"multi_mse is the loss of masked pre-training, but {ENABLE} is False"
            yield Broken(("MODEL.LOSS_FUNC", ENABLE), what, ({"MODEL.LOSS_FUNC": "cross_entropy"},))
        return
    if not cfg.AUG.MASK_RATIO:
        key, usual = "AUG.MASK_RATIO", 0.4 if not mask.MAE_ON else 0.75 if cfg.DATA.NUM_FRAMES == 1 else 0.9
        yield Broken((key, ENABLE), "nothing is hidden, because it is 0", ({key: usual}, off))
    decodes = mask.HEAD_TYPE == "separate_xformer"
    head, depth = "MASK.HEAD_TYPE", "MASK.DECODER_DEPTH"
    if decodes and not mask.MAE_ON:
        what = "separate_xformer is the decoder of MASK.MAE_ON, which is False"
        yield Broken((head, "MASK.MAE_ON"), what, ({head: "separate"},))
    elif decodes != bool(mask.DECODER_DEPTH):
        what = f"{mask.DECODER_DEPTH} does not fit {head} {mask.HEAD_TYPE}"
        yield Broken((depth, head), what, ({depth: 4} if decodes else {depth: 0},))
    last = {"MViT": cfg.MVIT.DEPTH, "ViT": cfg.VIT.DEPTH}.get(cfg.MODEL.MODEL_NAME, 0) - 1
    if last >= 0 and (last,) != mask.PRETRAIN_DEPTH:
        key = "MASK.PRETRAIN_DEPTH"
        what = f"{list(mask.PRETRAIN_DEPTH)} is not the last block, {last}, which alone predicts here"
        yield Broken((key, f"{cfg.MODEL.MODEL_NAME.upper()}.DEPTH"), what, ({key: (last,)},))


def visible(cfg: Config) -> Iterator[Broken]:
    """The encoder of a masked autoencoder gets single patches, which can neither be pooled nor located."""
    if not (cfg.MASK.ENABLE and cfg.MASK.MAE_ON and cfg.MODEL.MODEL_NAME == "MViT"):
        return
    key, mvit = "MASK.MAE_ON", cfg.MVIT
    off: dict[str, object] = {
        "POOL_Q_STRIDE": (),
        "POOL_KV_STRIDE": (),
        "POOL_KV_STRIDE_ADAPTIVE": None,
        "REL_POS_SPATIAL": False,
        "REL_POS_TEMPORAL": False,
        "WINDOW": 0,
    }
    wrong = {f"MVIT.{name}": value for name, value in off.items() if getattr(mvit, name) != value}
    if wrong:
        what = f"the encoder gets visible patches alone, but {', '.join(wrong)} need the whole grid"
        yield Broken((key, *wrong), what, ({key: False}, wrong))


def moments(cfg: Config) -> Iterator[Broken]:
    """Several clips per video come from data sets whose clips are spans."""
    key, number = "DATA.TRAIN_CROP_NUM_TEMPORAL", cfg.DATA.TRAIN_CROP_NUM_TEMPORAL
    if not cfg.TRAIN.ENABLE or number == 1:
        return
    if cfg.TRAIN.DATASET.lower() in _ONE_CLIP:
        what = f"{number} clips from other moments of a video: {cfg.TRAIN.DATASET} has one per step"
        yield Broken((key, "TRAIN.DATASET"), what, ({key: 1},))
