"""The two loops: one epoch of training, and one pass of inference that feeds sinks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from videovit.data.records import Batch, Failure, clip_labels
from videovit.data.transforms.mixup import Mixup
from videovit.engine import distributed
from videovit.engine.distributed import preemption
from videovit.engine.distributed.parallel import without_sync
from videovit.engine.distributed.preemption import Preempted
from videovit.engine.reporting.log import Progress, logger
from videovit.engine.training.distill import Teacher
from videovit.engine.training.guards import NonFiniteGuard, StepFacts
from videovit.engine.training.losses import Loss
from videovit.engine.training.optim import Schedule, clip_gradients, set_lr
from videovit.engine.training.trace import Trace
from videovit.errors import UserError

T = TypeVar("T")
Preparation = Callable[[Tensor, Tensor | None], Tensor]
"""uint8 (B, T, H, W, 3) and erasing seeds (B,) or None -> float (B, 3, T, H, W)."""

LOOK_ON_S = 60.0  # after an unreadable test video: how long to look for others before stopping
LOOK_ON_FILES = 20


class UnreadableVideosError(UserError):
    """Evaluation met videos that cannot be read."""


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """Mixed precision in `dtype`, or full precision for None."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


# ----------------------------------------------------------------------------------------------------- training


@dataclass
class Training:
    """What a training step needs besides the batch.

    Attributes:
        model: takes (B, 3, T, H, W), returns logits; replicated, sharded or alone.
        dtype: of autocast, None for full precision; with float16 a `scaler` is needed.
        accumulate: micro-batches that a batch is cut into; the optimiser step stays that of the whole batch.
        teacher: also learnt from; a model of two classifiers shows it the second.
        before_step: called with epoch and step first of all, to choose what is trained in this step.
        seed, rank: together with epoch and step they fix dropout, drop path and mixup.
        ema: moving average of the weights, updated after every step; None for none.
        guard: what happens where the loss or the gradient norm is not finite.
        wishes: asked once a step: the signal that asks this process to stop (0: none), and whether it wants to save.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loss: Loss
    prepare: Preparation
    device: torch.device
    mixup: Mixup | None = None
    teacher: Teacher | None = None
    before_step: Callable[[int, int], None] | None = None
    scaler: torch.amp.GradScaler | None = None
    dtype: torch.dtype | None = None
    accumulate: int = 1
    max_norm: float | None = None
    max_value: float | None = None
    seed: int = 0
    rank: int = 0
    ema: AveragedModel | None = None
    guard: NonFiniteGuard = field(default_factory=NonFiniteGuard)
    wishes: Callable[[], tuple[int, bool]] = lambda: (0, False)


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step gave.

    Attributes:
        loss, grad_norm: of this rank, before clipping; still on the device.
        lr: the rate used.
        stop: the signal that asks any of the ranks to stop, 0 for none; the same on all ranks, as `save`.
        save: whether any rank wants a checkpoint now.
    """

    loss: Tensor
    grad_norm: Tensor
    lr: float
    stop: int = 0
    save: bool = False


def step_seed(seed: int, epoch: int, step: int, rank: int) -> np.random.SeedSequence:
    """The source of all randomness of one step on one rank besides that of the clips."""
    return np.random.SeedSequence((seed, epoch, step, rank))


def train_step(
    parts: Training, batch: Batch, *, epoch: int, step: int, num_steps: int, trace: Trace | None = None
) -> StepResult:
    """One optimiser step on one batch.

    Args:
        batch: on the CPU; moved to the device here.
        epoch, step: position; the learning rate is that of epoch + step / num_steps.
        num_steps: steps in the epoch.
        trace: writes down what the step trains on.

    Raises:
        NonFiniteLossError: before the weights are touched, on all ranks.
    """
    if parts.before_step is not None:
        parts.before_step(epoch, step)
    source = step_seed(parts.seed, epoch, step, parts.rank)
    torch.manual_seed(int(source.generate_state(1, np.uint64)[0]) & (2**63 - 1))
    lr = parts.schedule(epoch + step / num_steps)
    set_lr(parts.optimizer, lr)
    batch = batch.to(parts.device)
    x_BCTHW = parts.prepare(batch.frames_BTHWC, batch.erase_seeds_B)
    targets: Tensor = batch.labels
    if parts.mixup is not None:
        x_BCTHW, targets = parts.mixup(x_BCTHW, targets, np.random.default_rng(source))
    if trace is not None:
        trace.record(epoch, step, batch, x_BCTHW, targets)
    loss = _backward(parts, x_BCTHW, targets, batch.boxes_R5)
    if parts.scaler is not None:
        parts.scaler.unscale_(parts.optimizer)
    norm = clip_gradients(parts.model, max_norm=parts.max_norm, max_value=parts.max_value)
    # With a scaler an infinite norm is its business: it skips the step and lowers the scale.
    finite = torch.isfinite(loss) & (torch.isfinite(norm) | (parts.scaler is not None))
    distributed.wait_for_gpus(parts.device)
    bad, stop, save = distributed.highest([~finite, *parts.wishes()])
    if bad:
        parts.guard.refuse(StepFacts(epoch, step, lr, float(loss), float(norm), parts.seed, parts.rank, batch))
    _update(parts, skip=bool(bad))
    parts.optimizer.zero_grad(set_to_none=True)
    return StepResult(loss, norm, lr, int(stop), bool(save))


def _update(parts: Training, *, skip: bool) -> None:
    """The optimiser step, unless it is to be skipped, and what follows it."""
    if not skip:
        parts.guard.passed()
        if parts.scaler is None:
            parts.optimizer.step()
        else:
            parts.scaler.step(parts.optimizer)
        if parts.ema is not None:
            parts.ema.update_parameters(without_wrapper(parts.model))
    if parts.scaler is not None:
        parts.scaler.update()
        parts.guard.check_scale(parts.scaler.get_scale())


def without_wrapper(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def call_model(model: nn.Module, x_BCTHW: Tensor, boxes_R5: Tensor | None) -> Any:
    """What the model says about clips, or in detection about their boxes."""
    return model(x_BCTHW) if boxes_R5 is None else model(x_BCTHW, boxes_R5)


def _pieces(
    x_BCTHW: Tensor, targets: Tensor, boxes_R5: Tensor | None, number: int
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Input, targets and boxes of `number` micro-batches; those without a clip are left out."""
    pieces, start = [], 0
    for x in x_BCTHW.tensor_split(number):
        if len(x):
            pieces.append((x, *clip_labels(targets, boxes_R5, start, start + len(x))))
        start += len(x)
    return pieces


def _backward(parts: Training, x_BCTHW: Tensor, targets: Tensor, boxes_R5: Tensor | None = None) -> Tensor:
    """Accumulate the gradients of the mean loss over the batch (its clips, or boxes), in `parts.accumulate` pieces.

    Returns:
        That loss.
    """
    total = torch.zeros((), device=parts.device)
    pieces = _pieces(x_BCTHW, targets, boxes_R5, parts.accumulate)
    for i, (x, y, boxes) in enumerate(pieces):
        last = i == len(pieces) - 1
        with contextlib.nullcontext() if last else without_sync(parts.model):
            with autocast(parts.device, parts.dtype):
                output = call_model(parts.model, x, boxes)
                decision = None if parts.teacher is None else parts.teacher.decide(x)
            loss = _loss(parts, output, decision, y) * (len(y) / max(1, len(targets)))
            torch.autograd.backward(loss if parts.scaler is None else parts.scaler.scale(loss))
        total += loss.detach()
    return total


def _loss(parts: Training, output: Tensor | tuple[Tensor, Tensor], decision: Tensor | None, targets: Tensor) -> Tensor:
    """Loss of labels and teacher; without a teacher both classifiers of a distilled model learn the labels."""
    logits, distillation = output if isinstance(output, tuple) else (output, output)
    loss = parts.loss(logits, targets)
    if parts.teacher is not None and decision is not None:
        return parts.teacher.blend(loss, distillation, decision)
    return loss if distillation is logits else (loss + parts.loss(distillation, targets)) / 2


def train_epoch(
    parts: Training,
    batches: Iterable[Batch],
    *,
    epoch: int,
    num_steps: int,
    progress: Progress,
    trace: Trace | None = None,
) -> Iterator[tuple[int, StepResult, Batch]]:
    """Train on the batches of one epoch; the caller may stop in the middle.

    Args:
        batches: those of the steps from `progress.first` on, in order.
        epoch: index of the epoch, from 0.
        num_steps: steps of the whole epoch.
        trace: see `train_step`.

    Yields:
        (step, result, batch) after every optimiser step.
    """
    parts.model.train()
    for step, batch in progress.over(batches):
        result = train_step(parts, batch, epoch=epoch, step=step, num_steps=num_steps, trace=trace)
        progress.count(len(batch), loss=result.loss.item(), lr=result.lr)
        yield step, result, batch


# ---------------------------------------------------------------------------------------------------- inference


class Sink(Protocol):
    """Receives what the model says about each batch."""

    def update(self, batch: Batch, logits_BK: Tensor) -> None: ...


@dataclass(frozen=True)
class Pass:
    """One forward pass over every batch: the input as it is, or changed, and the sink of the logits.

    Attributes:
        sink: receives (batch, logits).
        change: (x (B, 3, T, H, W), batch) -> x of the same shape; None leaves the input alone.
    """

    sink: Sink
    change: Callable[[Tensor, Batch], Tensor] | None = None


@dataclass
class Inference:
    """What an inference pass needs besides the loader.

    Attributes:
        clips_per_step: at most so many clips go through the model at once.
        skip_unreadable: leave unreadable videos out (and return them) instead of stopping.
    """

    model: nn.Module
    prepare: Preparation
    device: torch.device
    dtype: torch.dtype | None = None
    clips_per_step: int = 8
    skip_unreadable: bool = False
    unreadable: list[Failure] = field(default_factory=list)


def evaluate(parts: Inference, batches: Iterable[Batch], passes: Sequence[Pass], progress: Progress) -> None:
    """Run the model over all batches and hand the logits to the sinks; decoding is done once for all passes.

    Unreadable videos are never replaced. They stop the run, after a short look at what else is unreadable, so that
    one message names them; or, with `skip_unreadable`, they are collected in `parts.unreadable`.

    Raises:
        UnreadableVideosError: names the files and the reasons.
    """
    was_training = parts.model.training
    parts.model.eval()
    stop_at = float("inf")
    try:
        with torch.inference_mode(), autocast(parts.device, parts.dtype):
            for _, batch in progress.over(batches):
                if batch.failures:
                    parts.unreadable += batch.failures
                    if not parts.skip_unreadable:
                        stop_at = min(stop_at, time.monotonic() + LOOK_ON_S)
                if stop_at == float("inf"):
                    _infer(parts, batch, passes)
                elif time.monotonic() > stop_at or len(parts.unreadable) >= LOOK_ON_FILES:
                    break
                progress.count(len(batch))
    finally:
        parts.model.train(was_training)
    if stop_at < float("inf"):
        raise UnreadableVideosError(name_unreadable(parts.unreadable))
    for failure in parts.unreadable:
        logger.warning("warning: left out: %s: %s", failure.path, failure.reason)


def stoppable(batches: Iterable[T], num_steps: int) -> Iterator[T]:
    """The batches, left on all ranks together once a signal has reached one of them; a collective call.

    Args:
        batches: at most `num_steps` of them; other ranks may have other numbers.
        num_steps: of this rank.

    Raises:
        Preempted: on every rank, at the same step. Nothing is saved here.
    """
    asked = preemption.installed()
    if asked is None:
        yield from batches
        return
    rest = max(distributed.gather(num_steps))
    for batch in batches:
        _stop_if_any(asked.requested())
        rest -= 1
        yield batch
    for _ in range(rest):
        _stop_if_any(asked.requested())


def _stop_if_any(signum: int) -> None:
    (highest,) = distributed.highest([signum])
    if highest:
        raise Preempted(int(highest))


def _infer(parts: Inference, batch: Batch, passes: Sequence[Pass]) -> None:
    for chunk in batch.split(parts.clips_per_step):
        if not len(chunk):
            continue
        chunk = chunk.to(parts.device)
        x_BCTHW = parts.prepare(chunk.frames_BTHWC, None)
        for one in passes:
            changed = x_BCTHW if one.change is None else one.change(x_BCTHW, chunk)
            one.sink.update(chunk, call_model(parts.model, changed, chunk.boxes_R5))


def name_unreadable(failures: Sequence[Failure]) -> str:
    """The message about unreadable videos of an evaluation list."""
    lines = [f"  {f.path}: {f.reason} ({f.backend})" for f in failures]
    return (
        f"{len(failures)} video(s) of the evaluation list cannot be read; accuracy over a part of the list would not "
        "be comparable, so the run stops (there may be more):\n"
        + "\n".join(lines)
        + "\nReplace the files or take their lines out; TEST.SKIP_UNREADABLE True leaves them out and says how many"
    )
