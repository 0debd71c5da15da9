"""Rules about detectors of objects in images."""

from __future__ import annotations

from collections.abc import Iterator

from videovit.config.rules.broken import Broken
from videovit.config.rules.labels import data_sets, finds_objects
from videovit.config.schema import Config

DETECTOR = "MaskRCNN"  # advised to configs that name none


def detectors(cfg: Config) -> Iterator[Broken]:
    """Detectors have objects to find, and objects a detector."""
    name, key = cfg.DETECTOR.NAME, "DETECTOR.NAME"
    if any(data_sets(cfg)) or not (cfg.TRAIN.ENABLE or cfg.TEST.ENABLE):
        return
    if finds_objects(cfg) and not name:
        what = "is empty, but the images of coco have objects to find"
        yield Broken((key, "TRAIN.DATASET"), what, ({key: DETECTOR},))
    elif name and not finds_objects(cfg):
        what = f"{name} finds objects in images, which the data set has not"
        data = {"TRAIN.DATASET": "coco", "TEST.DATASET": "coco"}
        yield Broken((key, "TRAIN.DATASET"), what, (data, {key: ""}))


def objects(cfg: Config) -> Iterator[Broken]:
    """What acts on whole images or clips has no meaning for objects."""
    if not finds_objects(cfg) or any(data_sets(cfg)):
        return
    forbidden: list[tuple[bool, str, object, str]] = [
        (cfg.TEST.ENABLE and cfg.TEST.NUM_ENSEMBLE_VIEWS != 1, "TEST.NUM_ENSEMBLE_VIEWS", 1, "an image has one view"),
        (cfg.TEST.ENABLE and cfg.TEST.NUM_SPATIAL_CROPS != 1, "TEST.NUM_SPATIAL_CROPS", 1, "images are not cropped"),
        (bool(cfg.TEST.NUM_TEMPORAL_CLIPS), "TEST.NUM_TEMPORAL_CLIPS", (), "an image has one view"),
        (cfg.TRAIN.ENABLE and cfg.AUG.ENABLE, "AUG.ENABLE", False, "it moves or erases pixels without their objects"),
        (cfg.TRAIN.ENABLE and cfg.MIXUP.ENABLE, "MIXUP.ENABLE", False, "objects cannot be mixed"),
        (cfg.TRAIN.ENABLE and cfg.DISTILL.TYPE != "none", "DISTILL.TYPE", "none", "a teacher classifies whole clips"),
        (cfg.TRAIN.ENABLE and cfg.BN.USE_PRECISE_STATS, "BN.USE_PRECISE_STATS", False, "detectors freeze their norms"),
        (cfg.MODEL.CLASS_WEIGHTS != "none", "MODEL.CLASS_WEIGHTS", "none", "detectors have losses of their own"),
        (cfg.DATA.SAMPLER != "uniform", "DATA.SAMPLER", "uniform", "an image can have objects of several classes"),
        (cfg.SHUFFLE_EVAL.ENABLE, "SHUFFLE_EVAL.ENABLE", False, "an image has no order of frames"),
        (cfg.USE_OF_TIME.ENABLE, "USE_OF_TIME.ENABLE", False, "an image has no order of frames"),
        (cfg.ROBUSTNESS.ENABLE, "ROBUSTNESS.ENABLE", False, "it works on models that classify"),
        (cfg.ANALYSIS.ENABLE, "ANALYSIS.ENABLE", False, "it works on models that classify"),
        (cfg.FEATURES.ENABLE, "FEATURES.ENABLE", False, "it works on models that classify"),
        (cfg.SEARCH.ENABLE, "SEARCH.ENABLE", False, "it works on models that classify"),
        (
            cfg.BENCHMARK.ENABLE and cfg.BENCHMARK.WHAT != "loader",
            "BENCHMARK.ENABLE",
            False,
            "it measures models that classify",
        ),
    ]
    for wrong, key, value, why in forbidden:
        if wrong:
            yield Broken((key, "TRAIN.DATASET"), f"has no meaning for the objects of coco: {why}", ({key: value},))


def scales(cfg: Config) -> Iterator[Broken]:
    """Ranges increase, and lists are not empty."""
    if not finds_objects(cfg):
        return
    for name in ("CROP_SIZES", "LSJ_SCALES"):
        limits, key = getattr(cfg.COCO, name), f"COCO.{name}"
        if limits[0] > limits[1]:
            yield Broken((key,), f"[{limits[0]:g}, {limits[1]:g}] must be increasing", ({key: limits[::-1]},))
    for name in ("TRAIN_SHORT_SIDES", "CROP_SHORT_SIDES"):
        if not getattr(cfg.COCO, name):
            yield Broken((f"COCO.{name}",), "is empty", ({f"COCO.{name}": (cfg.COCO.TEST_SHORT_SIDE,)},))


def masks(cfg: Config) -> Iterator[Broken]:
    """Masks are read for the detectors that find them."""
    finds = cfg.DETECTOR.NAME == "MaskRCNN"
    if finds_objects(cfg) and cfg.DETECTOR.NAME and finds != cfg.COCO.MASKS and not any(data_sets(cfg)):
        what = f"is {cfg.COCO.MASKS}, but {cfg.DETECTOR.NAME} finds {'boxes and masks' if finds else 'boxes alone'}"
        other = "FasterRCNN" if finds else "MaskRCNN"
        yield Broken(("COCO.MASKS", "DETECTOR.NAME"), what, ({"COCO.MASKS": finds}, {"DETECTOR.NAME": other}))
