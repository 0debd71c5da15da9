"""Rules about paths, processes, sharding and batches."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any

from videovit.config.rules.broken import Broken
from videovit.config.schema import Config
from videovit.config.urls import folder_fault, has_credentials, without_secrets


def tildes(section: Any, prefix: str = "") -> Iterator[Broken]:
    """No path begins with ~."""
    for name in (field.name for field in dataclasses.fields(section)):
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            yield from tildes(value, f"{prefix}{name}.")
        elif isinstance(value, str) and value.startswith("~/"):
            whole = os.path.expanduser(value)
            yield Broken((prefix + name,), f"found {value!r}, but ~ is not expanded", ({prefix + name: whole},))


def credentials(section: Any, prefix: str = "") -> Iterator[Broken]:
    """No URL holds a password or token: the log and the saved config would show it."""
    for name in (field.name for field in dataclasses.fields(section)):
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            yield from credentials(value, f"{prefix}{name}.")
        elif isinstance(value, str) and has_credentials(value.removeprefix("shards:")):
            what = f"the URL {without_secrets(value.removeprefix('shards:'))!r} holds credentials; give them to fsspec"
            yield Broken((prefix + name,), f"{what} by its environment variables or configuration files")


def urls(cfg: Config) -> Iterator[Broken]:
    """A remote folder is in a store that can be read, and names a bucket, repository or host."""
    for name in ("PATH_PREFIX", "PATH_TO_DATA_DIR"):
        value, key = getattr(cfg.DATA, name), f"DATA.{name}"
        scheme = "shards:" if value.startswith("shards:") else ""
        fault, near = folder_fault(value.removeprefix("shards:"))
        if fault:
            url = without_secrets(value.removeprefix("shards:"))
            yield Broken((key,), f"{url!r}: {fault}", ({key: scheme + near},) if near else ())


def processes(cfg: Config) -> Iterator[Broken]:
    """Shards are numbered from 0, and features that need a GPU have one."""
    if cfg.SHARD_ID >= cfg.NUM_SHARDS:
        what = f"{cfg.SHARD_ID} is not below NUM_SHARDS {cfg.NUM_SHARDS}; shards are counted from 0"
        advice = ({"SHARD_ID": cfg.NUM_SHARDS - 1}, {"NUM_SHARDS": cfg.SHARD_ID + 1})
        yield Broken(("SHARD_ID", "NUM_SHARDS"), what, advice)
    several = _processes(cfg) * cfg.NUM_SHARDS > 1
    if cfg.NUM_GPUS == 0 and several and cfg.DIST_BACKEND == "nccl":
        what, auto, gloo = "nccl needs GPUs and NUM_GPUS is 0", {"DIST_BACKEND": "auto"}, {"DIST_BACKEND": "gloo"}
        yield Broken(("DIST_BACKEND", "NUM_GPUS"), what, (auto, gloo))
    for section in ("TRAIN", "TEST"):
        on = getattr(cfg, section).ENABLE and getattr(cfg, section).MIXED_PRECISION
        if on and cfg.NUM_GPUS == 0 and cfg.TRAIN.MIXED_PRECISION_DTYPE == "fp16":
            keys = ("TRAIN.MIXED_PRECISION_DTYPE", f"{section}.MIXED_PRECISION", "NUM_GPUS")
            yield Broken(keys, "fp16 needs a GPU and NUM_GPUS is 0", ({keys[0]: "bf16"}, {keys[1]: False}))


def engines(cfg: Config) -> Iterator[Broken]:
    """Engines other than PyTorch compute on a CPU, and each in the precision that it has."""
    test, key, torch = cfg.TEST, "TEST.ENGINE", {"TEST.ENGINE": "torch"}
    if test.ENGINE == "torch":
        return
    if cfg.NUM_GPUS > 0:
        yield Broken((key, "NUM_GPUS"), f"{test.ENGINE} computes on the CPU here", (torch, {"NUM_GPUS": 0}))
    if cfg.DETECTOR.NAME:
        yield Broken((key, "DETECTOR.NAME"), f"{test.ENGINE} cannot run a detector of objects in images", (torch,))
    if test.ENGINE == "onnxruntime" and test.MIXED_PRECISION:
        what, mixed = "onnxruntime has no half precision on a CPU", "TEST.MIXED_PRECISION"
        yield Broken((key, mixed), what, ({mixed: False}, {key: "openvino"}))


def sharding(cfg: Config) -> Iterator[Broken]:
    """What a sharded model does not support."""
    train, key = cfg.TRAIN, "TRAIN.SHARD_MODEL"
    if not (train.ENABLE and train.SHARD_MODEL):
        return
    whole = {key: False}
    can = cfg.MODEL.MODEL_NAME.startswith("hf_") or cfg.MODEL.MODEL_NAME in ("MViT", "ViT")
    if not can or cfg.DETECTION.ENABLE:
        what = "a detector" if cfg.DETECTION.ENABLE else cfg.MODEL.MODEL_NAME
        yield Broken(
            (key, "MODEL.MODEL_NAME", "DETECTION.ENABLE"),
            f"{what} cannot be sharded, only MViT, ViT and hf_* can",
            (whole,),
        )
    if cfg.MODEL.MODEL_NAME == "MViT" and cfg.MVIT.REV.ENABLE:
        what = "reversible blocks read their weights again in the backward pass, where no process holds all of them"
        yield Broken((key, "MVIT.REV.ENABLE"), what, (whole, {"MVIT.REV.ENABLE": False}))
    if train.MIXED_PRECISION and train.MIXED_PRECISION_DTYPE == "fp16":
        what = "the gradients of a sharded model are not scaled as fp16 requires"
        dtype = "TRAIN.MIXED_PRECISION_DTYPE"
        yield Broken((dtype, key), what, ({dtype: "bf16"}, whole))
    if train.GRAD_COMPRESSION != "none":
        what, compression = "gradients of a sharded model cannot be compressed", "TRAIN.GRAD_COMPRESSION"
        yield Broken((compression, key), what, ({compression: "none"}, whole))
    if cfg.SOLVER.OPTIMIZING_METHOD == "adamp":
        what, method = "adamp needs whole tensors, which no process holds", "SOLVER.OPTIMIZING_METHOD"
        yield Broken((method, key), what, ({method: "adamw"}, whole))


def batches(cfg: Config) -> Iterator[Broken]:
    """A batch is divided equally among processes and micro-batches."""
    if not cfg.TRAIN.ENABLE:
        return
    size, number, parts = cfg.TRAIN.BATCH_SIZE, _processes(cfg), cfg.TRAIN.GRAD_ACCUM_STEPS
    times = cfg.AUG.NUM_SAMPLE * cfg.DATA.TRAIN_CROP_NUM_TEMPORAL  # clips per video
    unit = number * parts // math.gcd(parts, times)
    sizes = tuple({"TRAIN.BATCH_SIZE": unit * n} for n in (size // unit, size // unit + 1) if n)
    if size % number:
        name = "NUM_GPUS" if cfg.NUM_GPUS else "NUM_CPU_PROCS"
        what = f"{size} videos cannot be divided equally among {name} {number}"
        yield Broken(("TRAIN.BATCH_SIZE", name), what, sizes)
        return
    clips = size // number * times
    if clips % parts:
        what = f"the {clips} clips of a process cannot be divided into {parts} equal parts"
        keys = ("TRAIN.GRAD_ACCUM_STEPS", "TRAIN.BATCH_SIZE", "AUG.NUM_SAMPLE")
        yield Broken(keys, what, ({keys[0]: max(n for n in range(1, parts) if clips % n == 0)}, *sizes))


def _processes(cfg: Config) -> int:
    """Processes per machine."""
    return cfg.NUM_GPUS or cfg.NUM_CPU_PROCS
