"""Optimiser, weight-decay groups, and the learning rate at any fractional epoch."""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase as _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from videovit.config import Config
from videovit.errors import UserError

Schedule = Callable[[float], float]
"""Fractional epoch -> learning rate."""


class MissingLibraryError(UserError):
    """An optimiser of a library that is not installed."""


def half_cosine(epoch: float, *, base: float, end: float, first: float, last: float) -> float:
    """Half a cosine from `base` at epoch `first` down to `end` at epoch `last` (SGDR, arXiv 1608.03983, eq. 5)."""
    return end + (base - end) * 0.5 * (1.0 + math.cos(math.pi * (epoch - first) / max(last - first, 1e-9)))


def with_warmup(schedule: Schedule, *, epochs: float, start: float) -> Schedule:
    """`schedule`, reached by a straight line from `start` during the first `epochs` (arXiv 1706.02677, 2.2)."""

    def warmed(epoch: float) -> float:
        if epoch >= epochs:
            return schedule(epoch)
        return start + (schedule(epochs) - start) * epoch / epochs

    return warmed


def build_schedule(cfg: Config) -> Schedule:
    """The schedule of `SOLVER.*`.

    `BASE_LR_SCALE_NUM_SHARDS` multiplies base, end and warm-up rate by the number of shards, as SlowFast does.

    Raises:
        ValueError: `LR_POLICY` is unknown.
    """
    solver = cfg.SOLVER
    scale = float(cfg.NUM_SHARDS) if solver.BASE_LR_SCALE_NUM_SHARDS else 1.0
    base, end = solver.BASE_LR * scale, solver.COSINE_END_LR * scale
    first = solver.WARMUP_EPOCHS if solver.COSINE_AFTER_WARMUP else 0.0
    schedule: Schedule
    if solver.LR_POLICY == "cosine":
        last = float(solver.MAX_EPOCH)

        def schedule(epoch: float) -> float:
            return half_cosine(epoch, base=base, end=end, first=first, last=last)

    elif solver.LR_POLICY == "steps_with_relative_lrs":
        steps, factors = list(solver.STEPS), list(solver.LRS)

        def schedule(epoch: float) -> float:
            return base * float(factors[max(0, bisect.bisect_right(steps, epoch) - 1)])

    else:
        raise ValueError(
            f"SOLVER.LR_POLICY: found {solver.LR_POLICY!r}, expected 'cosine' or 'steps_with_relative_lrs'"
        )
    return with_warmup(schedule, epochs=solver.WARMUP_EPOCHS, start=solver.WARMUP_START_LR * scale)


_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(patch_embed|cls_token|pos_embed|pos_layer|stem)")


def num_blocks(names: Iterable[str]) -> int:
    """How many blocks the parameters of a model belong to, by their names."""
    return max((int(block.group(1)) + 1 for block in map(_BLOCK.search, names) if block), default=0)


def layer_of(name: str, depth: int) -> int:
    """Which of `depth + 2` layers a parameter belongs to: 0 the embedding, 1..depth the blocks, depth + 1 the head."""
    block = _BLOCK.search(name)
    if block:
        return int(block.group(1)) + 1
    return 0 if _EMBEDDING.search(name) else depth + 1


def group_parameters(
    named: Sequence[tuple[str, nn.Parameter]],
    *,
    weight_decay: float,
    zero_decay_1d: bool = False,
    zero_decay_names: Collection[str] = (),
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Sort parameters into optimiser groups with equal weight decay and learning-rate factor.

    Args:
        named: (name, parameter) pairs; frozen parameters are left out.
        weight_decay: of the ordinary group.
        zero_decay_1d: no decay on 1-D parameters and on every `.bias`.
        zero_decay_names: full names that get no decay either (positions, class tokens, batch norms).
        layer_decay: learning-rate factor from one layer to the one below it (BEiT, arXiv 2106.08254); blocks count
            through all stages, the final norm belongs to the head.

    Returns:
        Groups with the keys params, weight_decay and lr_scale.
    """
    depth = num_blocks(name for name, _ in named)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        plain = (zero_decay_1d and (parameter.ndim <= 1 or name.endswith(".bias"))) or name in zero_decay_names
        scale = layer_decay ** (depth + 1 - layer_of(name, depth)) if layer_decay < 1.0 else 1.0
        groups.setdefault((0.0 if plain else weight_decay, scale), []).append(parameter)
    return [{"params": ps, "weight_decay": decay, "lr_scale": scale} for (decay, scale), ps in groups.items()]


def build_optimizer(cfg: Config, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of `SOLVER.*` over the trainable parameters of `model`.

    Batch norms are not decayed (SlowFast's BN.WEIGHT_DECAY is 0 unless set). AdamW and Adam run fused, which is the
    same arithmetic in one pass: 3 times faster on a CPU.
    """
    solver = cfg.SOLVER
    named = list(model.named_parameters())
    norms = {id(p) for m in model.modules() if isinstance(m, _BatchNorm) for p in m.parameters(recurse=False)}
    spared = {name for name, parameter in named if id(parameter) in norms}
    if cfg.MVIT.ZERO_DECAY_POS_CLS:
        spared |= {name for name, _ in named if re.search(r"(?:^|\.)(cls_token|pos_embed|rel_pos)", name)}
    groups = group_parameters(
        named,
        weight_decay=solver.WEIGHT_DECAY,
        zero_decay_1d=solver.ZERO_WD_1D_PARAM,
        zero_decay_names=spared,
        layer_decay=solver.LAYER_DECAY,
    )
    method = solver.OPTIMIZING_METHOD
    betas = (float(solver.BETAS[0]), float(solver.BETAS[1]))
    if method == "sgd":
        nesterov = solver.NESTEROV and solver.MOMENTUM > 0 and solver.DAMPENING == 0
        return torch.optim.SGD(
            groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, dampening=solver.DAMPENING, nesterov=nesterov
        )
    if method == "adamp":
        return _adamp()(groups, lr=solver.BASE_LR, betas=betas, eps=1e-8, delta=0.1, wd_ratio=0.1)
    if method in ("adam", "adamw"):
        kind = torch.optim.AdamW if method == "adamw" else torch.optim.Adam
        return kind(groups, lr=solver.BASE_LR, betas=betas, eps=1e-8, fused=True)
    raise ValueError(f"SOLVER.OPTIMIZING_METHOD: found {method!r}, expected one of sgd, adam, adamw, adamp")


def _adamp() -> Callable[..., torch.optim.Optimizer]:
    """AdamP (arXiv 2006.08217), with which PiT was trained, of timm, where its authors' code is kept.

    Raises:
        MissingLibraryError: timm is not installed.
    """
    try:
        from timm.optim.adamp import AdamP
    except ImportError as error:
        raise MissingLibraryError(
            "SOLVER.OPTIMIZING_METHOD adamp needs timm (pip install timm); the nearest optimiser without it is adamw"
        ) from error
    kind: Callable[..., torch.optim.Optimizer] = AdamP
    return kind


def build_ema(model: nn.Module, decay: float) -> AveragedModel | None:
    """The moving average of the weights, begun with those after the first step; None for a decay of 0.

    average <- decay * average + (1 - decay) * weights after every step; buffers are averaged too.

    Source: DeiT (arXiv 2012.12877) uses 0.99996.
    """
    if not decay:
        return None
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return average.requires_grad_(False)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def clip_gradients(model: nn.Module, *, max_norm: float | None, max_value: float | None) -> Tensor:
    """Clip gradients in place by value or by their total L2 norm; at most one of the two.

    Returns:
        Total L2 norm before clipping, a scalar; not finite when any gradient is not.
    """
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if hasattr(norm, "full_tensor"):
        norm = norm.full_tensor()  # of sharded gradients: over all processes
    if max_value is not None:
        nn.utils.clip_grad_value_(parameters, max_value)
    elif max_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def describe_groups(optimizer: torch.optim.Optimizer) -> str:
    """One line: how many tensors and parameters are decayed, and how many are not."""
    counts: dict[bool, list[int]] = {True: [0, 0], False: [0, 0]}
    for group in optimizer.param_groups:
        entry: Mapping[str, Any] = group
        counts[entry["weight_decay"] > 0][0] += len(entry["params"])
        counts[entry["weight_decay"] > 0][1] += sum(p.numel() for p in entry["params"])
    return (
        f"decayed: {counts[True][0]} tensors, {counts[True][1]:,} parameters; "
        f"not decayed: {counts[False][0]} tensors, {counts[False][1]:,} parameters"
    )
