"""Optimizer, parameter groups, and the learning rate at any fractional epoch."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase as _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from videovit.config import Config
from videovit.errors import UserError
from videovit.models.contract import LayeredModel

Schedule = Callable[[float], float]
"""Fractional epoch -> learning rate."""


def half_cosine(epoch: float, *, base: float, end: float, first: float, last: float) -> float:
    """Half a cosine from `base` at epoch `first` down to `end` at epoch `last` (SGDR, arXiv 1608.03983, eq. 5).

    Args:
        epoch: counted from 0, with a fraction within an epoch.
        base, end: learning rates.
        first, last: epochs.
    """
    return end + (base - end) * 0.5 * (1.0 + math.cos(math.pi * (epoch - first) / max(last - first, 1e-9)))


def with_warmup(schedule: Schedule, *, epochs: float, start: float) -> Schedule:
    """`schedule`, reached linearly from `start` during the first `epochs` (arXiv 1706.02677, section 2.2).

    Args:
        schedule: epoch -> learning rate.
        epochs: length of the warm-up; 0 for none.
        start: learning rate at epoch 0.
    """

    def warmed(epoch: float) -> float:
        if epoch >= epochs:
            return schedule(epoch)
        return start + (schedule(epochs) - start) * epoch / epochs

    return warmed


def build_schedule(cfg: Config) -> Schedule:
    """The schedule of `SOLVER.*`.

    `BASE_LR_SCALE_NUM_SHARDS` multiplies base, end and warm-up rate by the number of shards, as SlowFast does.
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

    else:
        # A step at the end of training or after it needs no factor, and factors without a step are spare.
        steps, factors = [step for step in solver.STEPS if step < solver.MAX_EPOCH], list(solver.LRS)

        def schedule(epoch: float) -> float:
            return base * float(factors[max(0, bisect.bisect_right(steps, epoch) - 1)])

    return with_warmup(schedule, epochs=solver.WARMUP_EPOCHS, start=solver.WARMUP_START_LR * scale)


def group_parameters(
    named: Sequence[tuple[str, nn.Parameter]],
    *,
    layers: Mapping[str, int],
    weight_decay: float,
    zero_decay_1d: bool = False,
    zero_decay_names: Collection[str] = (),
    own_decay: Mapping[str, float] = MappingProxyType({}),
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Sort parameters into optimizer groups of equal weight decay and learning-rate factor.

    Args:
        named: (name, parameter) pairs; frozen parameters are left out.
        layers: name -> layer from the embedding (0) to the head, see `LayeredModel.layers_of_parameters`.
        weight_decay: of the ordinary group.
        zero_decay_1d: no decay of 1-D parameters and of every `.bias`.
        zero_decay_names: full names of further parameters without decay (positions, class tokens).
        own_decay: full names of parameters -> their decay, whatever the two above say (batch norms).
        layer_decay: learning-rate factor from one layer to the one below it; the head has 1.

    Returns:
        Groups with the keys params, weight_decay and lr_scale.

    Source: layer decay: BEiT (arXiv 2106.08254).
    """
    last = max(layers.values(), default=0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        is_1d = parameter.ndim <= 1 or name.endswith(".bias")
        is_spared = name in zero_decay_names or (zero_decay_1d and is_1d)
        decay = own_decay.get(name, 0.0 if is_spared else weight_decay)
        key = (decay, layer_decay ** (last - layers[name]))
        groups.setdefault(key, []).append(parameter)
    return [{"params": ps, "weight_decay": decay, "lr_scale": scale} for (decay, scale), ps in groups.items()]


def build_optimizer(cfg: Config, model: LayeredModel) -> torch.optim.Optimizer:
    """The optimizer of `SOLVER.*` over the trainable parameters of `model`.

    The layers of `TRAIN.FREEZE` are frozen before. Position tables and class tokens are not decayed
    (`LayeredModel.no_weight_decay`), batch norms by BN.WEIGHT_DECAY.

    Args:
        cfg: the config.
        model: not wrapped for several processes; sharded or not.

    Raises:
        UserError: `TRAIN.FREEZE` exceeds the layers of the model, or the method needs a missing package.
    """
    solver = cfg.SOLVER
    if frozen := frozen_layers(cfg, model):
        model.freeze(frozen)
    if cfg.MODEL.DETACH_FINAL_FC:
        model.freeze_all_but_classifier()
    groups = group_parameters(
        list(model.named_parameters()),
        layers=model.layers_of_parameters(),
        weight_decay=solver.WEIGHT_DECAY,
        zero_decay_1d=solver.ZERO_WD_1D_PARAM,
        zero_decay_names=model.no_weight_decay(),
        own_decay=dict.fromkeys(_batch_norm_names(model), cfg.BN.WEIGHT_DECAY),
        layer_decay=solver.LAYER_DECAY,
    )
    method = solver.OPTIMIZING_METHOD
    betas = (float(solver.BETAS[0]), float(solver.BETAS[1]))
    if method == "sgd":
        # torch.optim.SGD refuses Nesterov momentum without momentum or with dampening; SlowFast ignores the key then.
        nesterov = solver.NESTEROV and solver.MOMENTUM > 0 and solver.DAMPENING == 0
        return torch.optim.SGD(
            groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, dampening=solver.DAMPENING, nesterov=nesterov
        )
    if method == "adamp":
        return _adamp()(groups, lr=solver.BASE_LR, betas=betas, eps=1e-8, delta=0.1, wd_ratio=0.1)
    kind = torch.optim.AdamW if method == "adamw" else torch.optim.Adam
    # Fused: the same arithmetic in one pass, 3 times as fast on a CPU.
    return kind(groups, lr=solver.BASE_LR, betas=betas, eps=1e-8, fused=True)


def frozen_layers(cfg: Config, model: LayeredModel) -> int:
    """How many layers of the model `TRAIN.FREEZE` keeps from training, see `LayeredModel.freeze`."""
    frozen = cfg.TRAIN.FREEZE
    if isinstance(frozen, int):
        return frozen
    return model.num_layers + 1 if frozen == "backbone" else 0


def _batch_norm_names(model: nn.Module) -> frozenset[str]:
    """Names of all parameters of batch norms."""
    return frozenset(
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for name, _ in module.named_parameters(recurse=False)
    )


def _adamp() -> Callable[..., torch.optim.Optimizer]:
    """AdamP (arXiv 2006.08217), the optimizer of PiT, from timm, which maintains its authors' code.

    Raises:
        UserError: timm is not installed.
    """
    try:
        from timm.optim.adamp import AdamP
    except ImportError as error:
        raise UserError(
            "SOLVER.OPTIMIZING_METHOD adamp needs timm (pip install timm)",
            hint="The closest optimizer without it is adamw",
        ) from error
    kind: Callable[..., torch.optim.Optimizer] = AdamP
    return kind


def build_ema(model: nn.Module, decay: float) -> AveragedModel | None:
    """The moving average of the weights, starting from those after the first step; None for a decay of 0.

    average <- decay * average + (1 - decay) * weights after every step; buffers are averaged too.

    Source: DeiT (arXiv 2012.12877) uses 0.99996.
    """
    if not decay:
        return None
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return average.requires_grad_(False)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def clip_gradients(model: nn.Module, *, max_norm: float | None, max_value: float | None) -> Tensor:
    """Clip gradients in place by value or by their total L2 norm; at most one of the two.

    Args:
        model: after the backward pass.
        max_norm: limit of the norm over all gradients; None for no limit.
        max_value: limit of the size of each value; None for no limit. It comes first if both are given.

    Returns:
        Total L2 norm before clipping, a scalar; not finite if any gradient is not.
    """
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if hasattr(norm, "full_tensor"):
        norm = norm.full_tensor()  # of sharded gradients, summed over all processes
    if max_value is not None:
        nn.utils.clip_grad_value_(parameters, max_value)
    elif max_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def describe_groups(optimizer: torch.optim.Optimizer) -> str:
    """One line: the numbers of tensors and parameters with and without weight decay."""
    counts: dict[bool, list[int]] = {True: [0, 0], False: [0, 0]}
    for group in optimizer.param_groups:
        entry: Mapping[str, Any] = group
        counts[entry["weight_decay"] > 0][0] += len(entry["params"])
        counts[entry["weight_decay"] > 0][1] += sum(p.numel() for p in entry["params"])
    return (
        f"decayed: {counts[True][0]} tensors, {counts[True][1]:,} parameters; "
        f"not decayed: {counts[False][0]} tensors, {counts[False][1]:,} parameters"
    )
