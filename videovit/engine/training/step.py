"""One training step: forward and backward passes, guard, optimizer, moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from videovit.data.records import Batch
from videovit.engine import distributed
from videovit.engine.distributed.parallel import without_sync
from videovit.engine.evaluation.inference import Preparation, autocast
from videovit.engine.objectives import Example, Losses, Objective, StepKey
from videovit.engine.training.non_finite import NonFiniteGuard, StepFacts
from videovit.engine.training.optim import Schedule, clip_gradients, set_lr
from videovit.engine.training.trace import Trace
from videovit.models.contract import LayeredModel


@dataclass
class Training:
    """What a training step needs besides the batch.

    Attributes:
        model: replicated, sharded or alone.
        objective: what is minimized.
        optimizer: its groups may scale the learning rate, see `set_lr`.
        schedule: fractional epoch -> learning rate.
        preparation: frames -> input of the model.
        device: where the model is.
        scaler: of gradients; needed with float16.
        dtype: of autocast; None for full precision.
        accumulate: number of micro-batches that a batch is cut into, for one optimizer step.
        max_norm, max_value: see `clip_gradients`.
        seed, rank: with epoch and step they determine dropout, drop path and mixup.
        ema: moving average of the weights, updated after every step; None for none.
        guard: decides what happens if the loss or the gradient norm is not finite.
        requests: what this process requests from all ranks after a step: to stop, by the number of a signal (0: no),
            and to save a checkpoint.
    """

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    preparation: Preparation
    device: torch.device
    scaler: torch.amp.GradScaler | None = None
    dtype: torch.dtype | None = None
    accumulate: int = 1
    max_norm: float | None = None
    max_value: float | None = None
    seed: int = 0
    rank: int = 0
    ema: AveragedModel | None = None
    guard: NonFiniteGuard = field(default_factory=NonFiniteGuard)
    requests: Callable[[], tuple[int, bool]] = lambda: (0, False)


@dataclass(frozen=True)
class StepResult:
    """Outcome of one optimizer step.

    Attributes:
        loss, grad_norm: of this rank, before clipping; still on the device.
        terms: terms of the loss by name, of this rank; still on the device.
        lr: the learning rate.
        stop: signal that stops the run, 0 for none; the same on all ranks.
        save: whether to save a checkpoint now; the same on all ranks.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    grad_norm: Tensor
    lr: float
    stop: int = 0
    save: bool = False


def train_step(
    training: Training, batch: Batch, *, epoch: int, step: int, num_steps: int, trace: Trace | None = None
) -> StepResult:
    """One optimizer step on one batch; a collective call.

    Args:
        training: is changed.
        batch: in host memory.
        epoch, step: position; the learning rate is that of epoch + step / num_steps.
        num_steps: steps per epoch.
        trace: records what the step trains on.

    Raises:
        UserError: the loss or the gradient norm is not finite; on all ranks, before the weights are changed.
    """
    key = StepKey(training.seed, epoch, step, training.rank)
    torch.manual_seed(key.torch_seed())
    lr = training.schedule(epoch + step / num_steps)
    set_lr(training.optimizer, lr)

    batch = batch.to(training.device)
    x_BCTHW = training.preparation(batch.frames_BTHWC, batch.erase_seeds_B)
    # What acts on a whole batch, such as mixup, belongs to the objective.
    example = training.objective.prepare(training.objective.example(x_BCTHW, batch), key)
    if trace is not None:
        trace.record(epoch, step, batch, example)

    losses = accumulate_gradients(training, example)
    if training.scaler is not None:
        training.scaler.unscale_(training.optimizer)
    norm = clip_gradients(training.model, max_norm=training.max_norm, max_value=training.max_value)
    # An infinite norm is left to the scaler, if there is one: it skips the step and lowers the scale.
    finite = torch.isfinite(losses.total) & (torch.isfinite(norm) | (training.scaler is not None))

    # All that the ranks have to agree on travels together, since every exchange costs a round trip.
    distributed.wait_for_gpus(training.device)
    bad, stop, save = distributed.highest([~finite, *training.requests()])
    if bad:
        loss, grad_norm = float(losses.total), float(norm)
        training.guard.reject(StepFacts(epoch, step, lr, loss, grad_norm, training.seed, training.rank, batch))
    else:
        training.guard.accept()
        _update_weights(training)
    if training.scaler is not None:
        training.scaler.update()
        training.guard.check_scale(training.scaler.get_scale())
    training.optimizer.zero_grad(set_to_none=True)
    return StepResult(losses.total, losses.terms, norm, lr, int(stop), bool(save))


def accumulate_gradients(training: Training, example: Example) -> Losses:
    """Forward and backward passes over the micro-batches of an example.

    Gradients are those of the mean over all targets (clips, or boxes), however unevenly the micro-batches share them.

    Returns:
        The losses of the example, detached.
    """
    total = torch.zeros((), device=training.device)
    terms: dict[str, Tensor] = {}
    pieces = example.split(training.accumulate)
    for number, piece in enumerate(pieces, 1):
        share = piece.num_targets / max(1, example.num_targets)
        # Ranks average their gradients once, in the last backward pass.
        with contextlib.nullcontext() if number == len(pieces) else without_sync(training.model):
            with autocast(training.device, training.dtype):
                losses = training.objective(training.model, piece)
            loss = losses.total * share
            torch.autograd.backward(loss if training.scaler is None else training.scaler.scale(loss))
        total += loss.detach()
        for name, term in losses.terms.items():
            terms[name] = terms.get(name, 0.0) + term.detach() * share
    return Losses(total, terms)


def _update_weights(training: Training) -> None:
    if training.scaler is None:
        training.optimizer.step()
    else:
        training.scaler.step(training.optimizer)
    if training.ema is not None:
        training.ema.update_parameters(without_wrapper(training.model))


def without_wrapper(model: nn.Module) -> LayeredModel:
    """The model inside DistributedDataParallel, or the model itself."""
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return cast(LayeredModel, inner)
