"""Rules across keys. Each rule yields the keys at fault and a message about them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from videovit.config.schema import Config
from videovit.config.schema.evaluation import ORDERS
from videovit.messages import did_you_mean, problem

Broken = tuple[tuple[str, ...], str]
"""Keys, with the one to change in first place, and what is wrong with them."""


def check(cfg: Config) -> list[Broken]:
    """All rules that `cfg` breaks."""
    return [broken for rule in RULES for broken in rule(cfg)]


def _processes(cfg: Config) -> int:
    return cfg.NUM_GPUS or cfg.NUM_CPU_PROCS


def _tildes(section: Any, prefix: str = "") -> Iterator[Broken]:
    for name in (field.name for field in dataclasses.fields(section)):
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            yield from _tildes(value, f"{prefix}{name}.")
        elif isinstance(value, str) and value.startswith("~/"):
            whole = os.path.expanduser(value)
            yield (prefix + name,), f"found {value!r}, but ~ is not expanded; write {whole}"


def _distributed(cfg: Config) -> Iterator[Broken]:
    if cfg.SHARD_ID >= cfg.NUM_SHARDS:
        yield (
            ("SHARD_ID", "NUM_SHARDS"),
            f"{cfg.SHARD_ID} is not below NUM_SHARDS {cfg.NUM_SHARDS}; shards are counted from 0",
        )
    several = _processes(cfg) * cfg.NUM_SHARDS > 1
    if cfg.NUM_GPUS == 0 and several and cfg.DIST_BACKEND == "nccl":
        yield ("DIST_BACKEND", "NUM_GPUS"), "nccl needs GPUs and NUM_GPUS is 0; use auto or gloo"
    for section in ("TRAIN", "TEST"):
        on = getattr(cfg, section).ENABLE and getattr(cfg, section).MIXED_PRECISION
        if on and cfg.NUM_GPUS == 0 and cfg.TRAIN.MIXED_PRECISION_DTYPE == "fp16":
            keys = ("TRAIN.MIXED_PRECISION_DTYPE", f"{section}.MIXED_PRECISION", "NUM_GPUS")
            yield keys, f"fp16 needs a GPU and NUM_GPUS is 0; use bf16 or {section}.MIXED_PRECISION False"


def _sharding(cfg: Config) -> Iterator[Broken]:
    train, key = cfg.TRAIN, "TRAIN.SHARD_MODEL"
    if not (train.ENABLE and train.SHARD_MODEL):
        return
    if cfg.MODEL.MODEL_NAME not in ("MViT", "ViT") or cfg.DETECTION.ENABLE:
        what = "a detector" if cfg.DETECTION.ENABLE else cfg.MODEL.MODEL_NAME
        yield (
            (key, "MODEL.MODEL_NAME", "DETECTION.ENABLE"),
            f"{what} cannot be sharded, only MViT and ViT can; set it to False",
        )
    if train.MIXED_PRECISION and train.MIXED_PRECISION_DTYPE == "fp16":
        yield (
            ("TRAIN.MIXED_PRECISION_DTYPE", key),
            "the gradients of a sharded model are not scaled as fp16 requires; use bf16",
        )
    if train.GRAD_COMPRESSION != "none":
        yield ("TRAIN.GRAD_COMPRESSION", key), "gradients of a sharded model cannot be compressed; use none"
    if cfg.SOLVER.OPTIMIZING_METHOD == "adamp":
        yield ("SOLVER.OPTIMIZING_METHOD", key), "adamp needs whole tensors, which no process holds; use adamw"


def _batches(cfg: Config) -> Iterator[Broken]:
    if not cfg.TRAIN.ENABLE:
        return
    size, processes = cfg.TRAIN.BATCH_SIZE, _processes(cfg)
    if size % processes:
        name = "NUM_GPUS" if cfg.NUM_GPUS else "NUM_CPU_PROCS"
        yield ("TRAIN.BATCH_SIZE", name), f"{size} videos cannot be divided equally among {name} {processes}"
        return
    clips = size // processes * cfg.AUG.NUM_SAMPLE
    if clips % cfg.TRAIN.GRAD_ACCUM_STEPS:
        yield (
            ("TRAIN.GRAD_ACCUM_STEPS", "TRAIN.BATCH_SIZE", "AUG.NUM_SAMPLE"),
            f"the {clips} clips of a process cannot be divided into {cfg.TRAIN.GRAD_ACCUM_STEPS} equal parts",
        )


def _multi_label(cfg: Config) -> Iterator[Broken]:
    if not cfg.DATA.MULTI_LABEL:
        return
    if cfg.MODEL.LOSS_FUNC not in ("bce", "bce_logit"):
        text = f"{cfg.MODEL.LOSS_FUNC} takes one class per clip, but DATA.MULTI_LABEL allows any number; use bce_logit"
        yield ("MODEL.LOSS_FUNC", "DATA.MULTI_LABEL"), text
    if cfg.MODEL.HEAD_ACT == "softmax":
        text = "softmax makes classes compete, but with DATA.MULTI_LABEL a clip can have several; use sigmoid"
        yield ("MODEL.HEAD_ACT", "DATA.MULTI_LABEL"), text
    if cfg.TRAIN.ENABLE and cfg.MIXUP.ENABLE:
        text = "mixes clips of one class each; with DATA.MULTI_LABEL set it to False, as the Charades recipe does"
        yield ("MIXUP.ENABLE", "DATA.MULTI_LABEL"), text
    if cfg.SHUFFLE_EVAL.ENABLE:
        text = "compares top-1 accuracies, so it needs one class per video, not DATA.MULTI_LABEL"
        yield ("SHUFFLE_EVAL.ENABLE", "DATA.MULTI_LABEL"), text


def _detection(cfg: Config) -> Iterator[Broken]:
    first, last = cfg.AVA.KEY_FRAMES_S
    if first > last:
        yield ("AVA.KEY_FRAMES_S",), f"[{first:g}, {last:g}] must be increasing"
    if not cfg.DETECTION.ENABLE:
        return
    if cfg.MODEL.LOSS_FUNC not in ("bce", "bce_logit"):
        text = f"{cfg.MODEL.LOSS_FUNC} takes one class per box, but DETECTION.ENABLE allows any number; use bce"
        yield ("MODEL.LOSS_FUNC", "DETECTION.ENABLE"), text
    if cfg.MODEL.HEAD_ACT == "softmax":
        text = "softmax makes classes compete, but with DETECTION.ENABLE a box can have several; use sigmoid"
        yield ("MODEL.HEAD_ACT", "DETECTION.ENABLE"), text
    if cfg.TRAIN.ENABLE and cfg.MIXUP.ENABLE:
        yield ("MIXUP.ENABLE", "DETECTION.ENABLE"), "mixes whole clips, but boxes cannot be mixed; set it to False"
    if cfg.TRAIN.ENABLE and cfg.AUG.ENABLE and cfg.AUG.AA_TYPE:
        text = "RandAugment rotates and shifts frames without their boxes; set it to '' (or AUG.ENABLE to False)"
        yield ("AUG.AA_TYPE", "AUG.ENABLE", "DETECTION.ENABLE"), text
    if cfg.TRAIN.ENABLE and cfg.DISTILL.TYPE != "none":
        yield ("DISTILL.TYPE", "DETECTION.ENABLE"), "a teacher classifies whole clips, not boxes; use none"
    if cfg.BENCHMARK.ENABLE and cfg.BENCHMARK.WHAT in ("model", "train"):
        text = "a detector needs boxes; set DETECTION.ENABLE to False to measure the same model on clips"
        yield ("BENCHMARK.WHAT", "BENCHMARK.ENABLE", "DETECTION.ENABLE"), text


def _architecture(cfg: Config) -> Iterator[Broken]:
    """SlowFast's early configs name a network by MODEL.ARCH alone."""
    if cfg.MODEL.MODEL_NAME == "MViT" and cfg.MODEL.ARCH in ("slowfast", "c2d", "i3d", "x3d", "2d"):
        text = f"{cfg.MODEL.ARCH} is a convolutional network, but MODEL.MODEL_NAME is MViT; use mvit, or set "
        text += "MODEL.MODEL_NAME to one of pytorchvideo's networks: ptv_slowfast_r50, ptv_i3d_r50, ptv_x3d_m, ..."
        yield ("MODEL.ARCH", "MODEL.MODEL_NAME"), text


def _loss(cfg: Config) -> Iterator[Broken]:
    if cfg.TRAIN.ENABLE and cfg.MODEL.LABEL_SMOOTHING and cfg.MODEL.LOSS_FUNC in ("bce", "bce_logit"):
        yield ("MODEL.LABEL_SMOOTHING", "MODEL.LOSS_FUNC"), f"has no effect on {cfg.MODEL.LOSS_FUNC}; use cross_entropy"
    if not (cfg.TRAIN.ENABLE and cfg.MIXUP.ENABLE) or cfg.DATA.MULTI_LABEL:
        return
    if cfg.MODEL.LOSS_FUNC != "soft_cross_entropy":
        yield (
            ("MODEL.LOSS_FUNC", "MIXUP.ENABLE"),
            f"{cfg.MODEL.LOSS_FUNC} takes one class per clip, but MIXUP mixes two; use soft_cross_entropy",
        )
    if cfg.MODEL.LABEL_SMOOTHING:
        yield ("MODEL.LABEL_SMOOTHING", "MIXUP.ENABLE"), "has no effect with MIXUP; use MIXUP.LABEL_SMOOTH_VALUE"


def _whole_videos(cfg: Config) -> Iterator[Broken]:
    test = cfg.TEST
    if test.DATASET.lower() != "ssv2" or not (test.ENABLE or cfg.SHUFFLE_EVAL.ENABLE):
        return
    for name, clips in (
        ("NUM_ENSEMBLE_VIEWS", [test.NUM_ENSEMBLE_VIEWS]),
        ("NUM_TEMPORAL_CLIPS", test.NUM_TEMPORAL_CLIPS),
    ):
        if any(number != 1 for number in clips):
            text = (
                "a clip of ssv2 covers the whole video, so several clips would be equal; use 1, and NUM_SPATIAL_CROPS 3"
            )
            yield (f"TEST.{name}", "TEST.DATASET"), text


def _average(cfg: Config) -> Iterator[Broken]:
    if cfg.TRAIN.ENABLE and cfg.TEST.USE_EMA and not cfg.TRAIN.EMA_DECAY:
        yield (
            ("TEST.USE_EMA", "TRAIN.EMA_DECAY"),
            "there is no moving average, because TRAIN.EMA_DECAY is 0; 0.999 is a common value",
        )


def _learning_rate(cfg: Config) -> Iterator[Broken]:
    solver = cfg.SOLVER
    if cfg.TRAIN.ENABLE and solver.LR_POLICY == "cosine" and solver.COSINE_END_LR > solver.BASE_LR:
        yield (
            ("SOLVER.COSINE_END_LR", "SOLVER.BASE_LR"),
            f"{solver.COSINE_END_LR:g} is above SOLVER.BASE_LR {solver.BASE_LR:g}, where the schedule starts",
        )
    if solver.LR_POLICY == "steps_with_relative_lrs":
        steps = list(solver.STEPS)
        if not steps or steps[0] != 0 or steps != sorted(set(steps)):
            yield (
                ("SOLVER.STEPS", "SOLVER.LR_POLICY"),
                problem(found=steps, expected="increasing epochs that begin with 0"),
            )
        if len(steps) != len(solver.LRS):
            yield (
                ("SOLVER.LRS", "SOLVER.STEPS", "SOLVER.LR_POLICY"),
                problem(found=list(solver.LRS), expected=f"one factor for each of the steps {steps}"),
            )


def _crops(cfg: Config) -> Iterator[Broken]:
    data = cfg.DATA
    smallest, largest = data.TRAIN_JITTER_SCALES
    if smallest > largest:
        yield ("DATA.TRAIN_JITTER_SCALES",), f"[{smallest}, {largest}] must be increasing"
    for name in ("TRAIN_JITTER_SCALES_RELATIVE", "TRAIN_JITTER_ASPECT_RELATIVE"):
        limits = getattr(data, name)
        if limits and limits[0] > limits[1]:
            yield (f"DATA.{name}",), f"{list(limits)} must be increasing"
        elif limits and limits[1] > 1 and name == "TRAIN_JITTER_SCALES_RELATIVE":
            yield (f"DATA.{name}",), f"{list(limits)} are shares of the frame, so they cannot exceed 1"
    if data.NUM_FRAMES == 1:
        return  # images are cropped by rules of their own
    for name, crop in (("DECODE_SHORT_SIDE", "TRAIN_CROP_SIZE"), ("TEST_DECODE_SHORT_SIDE", "TEST_CROP_SIZE")):
        if 0 < getattr(data, name) < getattr(data, crop):
            text = f"{getattr(data, name)} is below DATA.{crop} {getattr(data, crop)}: frames would be scaled up again"
            yield (f"DATA.{name}", f"DATA.{crop}"), text
    yield from _crops_that_do_not_fit(cfg)


def _crops_that_do_not_fit(cfg: Config) -> Iterator[Broken]:
    """An Inception crop in training can be scaled up; a single crop in validation and test cannot exceed the frame."""
    data = cfg.DATA
    smallest = data.TRAIN_JITTER_SCALES[0]
    inception = data.TRAIN_JITTER_SCALES_RELATIVE or data.TRAIN_JITTER_ASPECT_RELATIVE
    side, key = smallest, "DATA.TRAIN_JITTER_SCALES"
    if data.TEST_SHORT_SIDE:
        side, key = data.TEST_SHORT_SIDE, "DATA.TEST_SHORT_SIDE"
    if cfg.TRAIN.ENABLE and not inception and smallest < data.TRAIN_CROP_SIZE:
        yield (
            ("DATA.TRAIN_CROP_SIZE", "DATA.TRAIN_JITTER_SCALES"),
            f"{data.TRAIN_CROP_SIZE} is larger than the smallest short side, {smallest} (DATA.TRAIN_JITTER_SCALES)",
        )
    elif cfg.TRAIN.ENABLE and side < data.TRAIN_CROP_SIZE:
        text = f"{data.TRAIN_CROP_SIZE} is larger than the short side in validation, {side} ({key})"
        yield ("DATA.TRAIN_CROP_SIZE", key), text
    one_crop = cfg.TEST.NUM_SPATIAL_CROPS == 1 or cfg.DETECTION.ENABLE
    if (one_crop or data.TEST_SHORT_SIDE) and side < data.TEST_CROP_SIZE:  # otherwise frames are scaled to the crops
        text = f"{data.TEST_CROP_SIZE} is larger than the short side in the test, {side} ({key})"
        yield ("DATA.TEST_CROP_SIZE", key), text


def _patches(cfg: Config) -> Iterator[Broken]:
    mvit = cfg.MVIT
    sizes = {name: getattr(mvit, name) for name in ("PATCH_KERNEL", "PATCH_STRIDE", "PATCH_PADDING")}
    wanted = 2 if mvit.PATCH_2D else 3
    wrong = [name for name, values in sizes.items() if len(values) != wanted]
    for name in wrong:
        what = f"{list(sizes[name])} must have {wanted} values, because MVIT.PATCH_2D is {mvit.PATCH_2D}"
        yield (f"MVIT.{name}", "MVIT.PATCH_2D"), what
    if mvit.PATCH_2D and cfg.DATA.NUM_FRAMES != 1:
        text = f"two-dimensional patches need images: DATA.NUM_FRAMES 1, not {cfg.DATA.NUM_FRAMES}"
        yield ("MVIT.PATCH_2D", "DATA.NUM_FRAMES"), text
    if wrong or mvit.PATCH_2D:
        return
    frames, kernel, padding = cfg.DATA.NUM_FRAMES, mvit.PATCH_KERNEL[0], mvit.PATCH_PADDING[0]
    if frames + 2 * padding < kernel:
        text = f"{frames} frames and padding {padding} are shorter than the patch, {kernel} (MVIT.PATCH_KERNEL)"
        yield ("DATA.NUM_FRAMES", "MVIT.PATCH_KERNEL", "MVIT.PATCH_PADDING"), text


def _blocks(cfg: Config) -> Iterator[Broken]:
    depth = cfg.MVIT.DEPTH
    for name in ("DIM_MUL", "HEAD_MUL", "POOL_Q_STRIDE", "POOL_KV_STRIDE"):
        highest = max((row[0] for row in getattr(cfg.MVIT, name)), default=0)
        if highest > depth - (name not in ("DIM_MUL", "HEAD_MUL")):
            yield (
                (f"MVIT.{name}", "MVIT.DEPTH"),
                f"names block {highest}, but the last block of MVIT.DEPTH {depth} is {depth - 1}",
            )


def _orders(cfg: Config) -> Iterator[Broken]:
    for order in cfg.SHUFFLE_EVAL.ORDERS:
        if order not in ORDERS and not re.fullmatch(r"window[1-9]\d*", order):
            expected = f"{', '.join(ORDERS)} or window<frames>"
            near = did_you_mean(order, (*ORDERS, "window4"))
            yield ("SHUFFLE_EVAL.ORDERS",), problem(found=order, expected=expected, near=near)
    if cfg.SHUFFLE_EVAL.ENABLE and not cfg.SHUFFLE_EVAL.ORDERS and not cfg.SHUFFLE_EVAL.WINDOWS:
        yield ("SHUFFLE_EVAL.ORDERS",), "is empty, and so is SHUFFLE_EVAL.WINDOWS"


def _teacher(cfg: Config) -> Iterator[Broken]:
    if cfg.TRAIN.ENABLE and cfg.DISTILL.TYPE != "none":
        for name in ("TEACHER_CFG", "CHECKPOINT_FILE_PATH"):
            if not getattr(cfg.DISTILL, name):
                yield (f"DISTILL.{name}", "DISTILL.TYPE"), f"is empty, but DISTILL.TYPE is {cfg.DISTILL.TYPE}"


def _search(cfg: Config) -> Iterator[Broken]:
    search = cfg.SEARCH
    if search.CROSSOVER + search.MUTATION > search.POPULATION:
        text = f"{search.CROSSOVER} and SEARCH.MUTATION {search.MUTATION} exceed SEARCH.POPULATION {search.POPULATION}"
        yield ("SEARCH.CROSSOVER", "SEARCH.MUTATION", "SEARCH.POPULATION"), text


RULES: tuple[Callable[[Config], Iterator[Broken]], ...] = (
    _tildes,
    _distributed,
    _sharding,
    _batches,
    _multi_label,
    _whole_videos,
    _detection,
    _architecture,
    _loss,
    _average,
    _learning_rate,
    _crops,
    _patches,
    _blocks,
    _orders,
    _teacher,
    _search,
)
