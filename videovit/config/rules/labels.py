"""Rules about labels: what a data set has, what a loss takes, and what can be mixed."""

from __future__ import annotations

from collections.abc import Iterator

from videovit.config.rules.broken import Broken, Change
from videovit.config.rules.tasks import tests
from videovit.config.schema import Config

ONE_CLASS, ANY_NUMBER, BOXES, OBJECTS = "one class", "any number of classes", "boxes", "objects to find"

LABELS = {
    "kinetics": ONE_CLASS,
    "imagenet": ONE_CLASS,
    "ssv2": ONE_CLASS,
    "charades": ANY_NUMBER,
    "multilabel": ANY_NUMBER,
    "ava": BOXES,
    "coco": OBJECTS,
}
"""What the videos of a data set are labeled with. Data sets that are not listed here are checked when they are read."""

_BINARY = ("bce", "bce_logit")
_MEASURES = {
    ONE_CLASS: ("top1_acc", "top5_acc", "mean_class_acc", "macro_f1", "loss"),
    ANY_NUMBER: ("map", "loss"),
    BOXES: ("map",),
    OBJECTS: ("box_ap", "mask_ap"),
}
"""What validation measures, by the kind of labels."""


def data_sets(cfg: Config) -> Iterator[Broken]:
    """The data sets that are used have the same kind of labels, and DATA.MULTI_LABEL and DETECTION.ENABLE match it."""
    used = _used(cfg)
    labels = {key: LABELS[name.lower()] for key, name in used.items() if name.lower() in LABELS}
    if len(set(labels.values())) > 1:
        train, test = used["TRAIN.DATASET"], used["TEST.DATASET"]
        what = f"videos of {test!r} have {labels['TEST.DATASET']}, but those of TRAIN.DATASET {train!r} "
        what += f"have {labels['TRAIN.DATASET']}"
        yield Broken(("TEST.DATASET", "TRAIN.DATASET"), what, ({"TEST.DATASET": train}, {"TRAIN.DATASET": test}))
    elif labels:
        key, label = next(iter(labels.items()))
        wanted = {"DATA.MULTI_LABEL": label == ANY_NUMBER, "DETECTION.ENABLE": label == BOXES}
        found = {"DATA.MULTI_LABEL": cfg.DATA.MULTI_LABEL, "DETECTION.ENABLE": cfg.DETECTION.ENABLE}
        wrong = {flag: value for flag, value in wanted.items() if value != found[flag]}
        if wrong:
            what = f"videos of {used[key]!r} have {label}, but "
            what += " and ".join(f"{flag} is {found[flag]}" for flag in wrong)
            others = [dict.fromkeys(labels, name) for name, has in LABELS.items() if has == _described(cfg)]
            yield Broken((key, *wanted), what, (wrong, *others))


def finds_objects(cfg: Config) -> bool:
    """Whether the data sets that are used have objects to find."""
    return any(LABELS.get(name.lower()) == OBJECTS for name in _used(cfg).values())


def _described(cfg: Config) -> str:
    """The kind of labels that DATA.MULTI_LABEL and DETECTION.ENABLE describe; empty if they are both on or off."""
    if cfg.DATA.MULTI_LABEL == cfg.DETECTION.ENABLE:
        return ""
    return ANY_NUMBER if cfg.DATA.MULTI_LABEL else BOXES


def _used(cfg: Config) -> dict[str, str]:
    """The keys of the data sets that the enabled tasks read, and their names."""
    used = {}
    validates = cfg.TRAIN.ENABLE and cfg.TRAIN.EVAL_PERIOD
    if validates or tests(cfg):
        used["TEST.DATASET"] = cfg.TEST.DATASET
    if cfg.TRAIN.ENABLE:
        used["TRAIN.DATASET"] = cfg.TRAIN.DATASET
    return used


def num_classes(cfg: Config) -> Iterator[Broken]:
    """There are at least two classes to choose from."""
    one_each = not (cfg.DATA.MULTI_LABEL or cfg.DETECTION.ENABLE or finds_objects(cfg) or cfg.MASK.ENABLE)
    if cfg.MODEL.NUM_CLASSES == 1 and one_each and any(_used(cfg)):
        what = "with a single class, every prediction is right, and there is nothing to learn"
        yield Broken(("MODEL.NUM_CLASSES",), what, ({"MODEL.NUM_CLASSES": 2},))


def multi_label(cfg: Config) -> Iterator[Broken]:
    """Videos with any number of classes."""
    if not cfg.DATA.MULTI_LABEL or cfg.MASK.ENABLE or any(data_sets(cfg)):
        return
    key = "DATA.MULTI_LABEL"
    yield from _several_per_item(cfg, key, "a clip", "bce_logit")
    if cfg.TRAIN.ENABLE and cfg.MIXUP.ENABLE:
        what = f"mixes clips of one class each, but with {key} a clip can have several"
        yield Broken(("MIXUP.ENABLE", key), what, ({"MIXUP.ENABLE": False},))
    for task, enabled in (("SHUFFLE_EVAL", cfg.SHUFFLE_EVAL.ENABLE), ("USE_OF_TIME", cfg.USE_OF_TIME.ENABLE)):
        if enabled:
            what = f"compares top-1 accuracies, so it needs one class per video, not {key}"
            yield Broken((f"{task}.ENABLE", key), what, ({f"{task}.ENABLE": False},))


def boxes(cfg: Config) -> Iterator[Broken]:
    """Detectors."""
    first, last = cfg.AVA.KEY_FRAMES_S
    if first > last:
        what = f"[{first:g}, {last:g}] must be increasing"
        yield Broken(("AVA.KEY_FRAMES_S",), what, ({"AVA.KEY_FRAMES_S": (last, first)},))
    if not cfg.DETECTION.ENABLE or cfg.MASK.ENABLE or any(data_sets(cfg)):
        return
    key = "DETECTION.ENABLE"
    yield from _several_per_item(cfg, key, "a box", "bce")
    if cfg.TRAIN.ENABLE and cfg.MIXUP.ENABLE:
        what = "mixes whole clips, but boxes cannot be mixed"
        yield Broken(("MIXUP.ENABLE", key), what, ({"MIXUP.ENABLE": False},))
    if cfg.TRAIN.ENABLE and cfg.AUG.ENABLE and cfg.AUG.AA_TYPE:
        what = "RandAugment rotates and shifts frames without their boxes"
        yield Broken(("AUG.AA_TYPE", "AUG.ENABLE", key), what, ({"AUG.AA_TYPE": ""}, {"AUG.ENABLE": False}))
    if cfg.TRAIN.ENABLE and cfg.DISTILL.TYPE != "none":
        what = "a teacher classifies whole clips, not boxes"
        yield Broken(("DISTILL.TYPE", key), what, ({"DISTILL.TYPE": "none"},))
    if cfg.BENCHMARK.ENABLE and cfg.BENCHMARK.WHAT in ("model", "train", "attention"):
        what = f"a detector needs boxes; its speed on clips is measured with {key} False"
        keys = ("BENCHMARK.WHAT", "BENCHMARK.ENABLE", key)
        yield Broken(keys, what, ({key: False}, {"BENCHMARK.WHAT": "loader"}, {"BENCHMARK.ENABLE": False}))


def _several_per_item(cfg: Config, key: str, item: str, loss_name: str) -> Iterator[Broken]:
    """Loss and activation for any number of classes per clip or box."""
    one = item.replace("a ", "")
    if cfg.MODEL.LOSS_FUNC not in _BINARY:
        what = f"{cfg.MODEL.LOSS_FUNC} takes one class per {one}, but {key} allows any number"
        yield Broken(("MODEL.LOSS_FUNC", key), what, ({"MODEL.LOSS_FUNC": loss_name},))
    if cfg.MODEL.HEAD_ACT == "softmax":
        what = f"softmax makes classes compete, but with {key} {item} can have several"
        yield Broken(("MODEL.HEAD_ACT", key), what, ({"MODEL.HEAD_ACT": "sigmoid"},))


def loss(cfg: Config) -> Iterator[Broken]:
    """Mixup and label smoothing have the loss that they need."""
    if not cfg.TRAIN.ENABLE or cfg.MASK.ENABLE:
        return
    model, key = cfg.MODEL, "MODEL.LABEL_SMOOTHING"
    one_each = not (cfg.DATA.MULTI_LABEL or cfg.DETECTION.ENABLE)
    mixing = cfg.MIXUP.ENABLE and one_each
    if mixing and model.LOSS_FUNC != "soft_cross_entropy":
        what = f"{model.LOSS_FUNC} takes one class per clip, but MIXUP mixes two"
        advice: tuple[Change, ...] = ({"MODEL.LOSS_FUNC": "soft_cross_entropy"}, {"MIXUP.ENABLE": False})
        yield Broken(("MODEL.LOSS_FUNC", "MIXUP.ENABLE"), what, advice)
    if not model.LABEL_SMOOTHING:
        return
    if mixing:
        moved = {key: 0.0, "MIXUP.LABEL_SMOOTH_VALUE": model.LABEL_SMOOTHING}
        what = "has no effect with MIXUP, which has a smoothing of its own"
        yield Broken((key, "MIXUP.ENABLE"), what, (moved,))
    elif model.LOSS_FUNC in _BINARY or not one_each:
        what = "has no effect on bce and bce_logit"
        advice = ({key: 0.0}, {"MODEL.LOSS_FUNC": "cross_entropy"})
        yield Broken((key, "MODEL.LOSS_FUNC"), what, advice[: 1 + one_each])


def class_weights(cfg: Config) -> Iterator[Broken]:
    """Every class has a weight, and rare classes are not favored twice."""
    key, weights, number = "MODEL.CLASS_WEIGHTS", cfg.MODEL.CLASS_WEIGHTS, cfg.MODEL.NUM_CLASSES
    if not cfg.TRAIN.ENABLE or cfg.MASK.ENABLE:
        return
    if isinstance(weights, tuple) and len(weights) != number:
        what = f"found {len(weights)} weights, but MODEL.NUM_CLASSES is {number}"
        advice: tuple[Change, ...] = ({key: "auto"}, {"MODEL.NUM_CLASSES": len(weights)})
        yield Broken((key, "MODEL.NUM_CLASSES"), what, advice if len(weights) > 1 else advice[:1])
    if weights == "auto" and cfg.DATA.SAMPLER == "balanced" and not any(sampler(cfg)):
        what = "auto makes up for rare classes, which DATA.SAMPLER balanced does already"
        yield Broken((key, "DATA.SAMPLER"), what, ({key: "none"}, {"DATA.SAMPLER": "uniform"}))


def sampler(cfg: Config) -> Iterator[Broken]:
    """A balanced sampler knows the class of every video."""
    several = "DATA.MULTI_LABEL" if cfg.DATA.MULTI_LABEL else "DETECTION.ENABLE" if cfg.DETECTION.ENABLE else ""
    if (
        cfg.TRAIN.ENABLE
        and not cfg.MASK.ENABLE
        and cfg.DATA.SAMPLER == "balanced"
        and several
        and not any(data_sets(cfg))
    ):
        what = f"balanced draws videos by their class, but with {several} a video can have several"
        advice: tuple[Change, ...] = ({"DATA.SAMPLER": "uniform", "MODEL.CLASS_WEIGHTS": "auto"},)
        yield Broken(("DATA.SAMPLER", several), what, advice)


def best_measure(cfg: Config) -> Iterator[Broken]:
    """Checkpoints are compared by something that validation measures."""
    best = cfg.TRAIN.BEST
    if not cfg.TRAIN.ENABLE or best in ("", "auto") or cfg.MASK.ENABLE or any(data_sets(cfg)):
        return
    kind = BOXES if cfg.DETECTION.ENABLE else ANY_NUMBER if cfg.DATA.MULTI_LABEL else ONE_CLASS
    if finds_objects(cfg):
        kind = OBJECTS
    if best not in _MEASURES[kind]:
        what = f"{best} is not measured if videos have {kind}"
        keys = (
            ("TRAIN.BEST", "TEST.DATASET")
            if kind == OBJECTS
            else ("TRAIN.BEST", "DATA.MULTI_LABEL", "DETECTION.ENABLE")
        )
        yield Broken(keys, what, tuple({"TRAIN.BEST": name} for name in ("auto", *_MEASURES[kind])))
