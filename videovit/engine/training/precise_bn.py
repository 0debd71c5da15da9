"""Precise batch norms: statistics measured with fixed weights, in the place of averages over changing ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from videovit.data.build import ClipLoader
from videovit.engine import distributed
from videovit.engine.distributed.preemption import Preempted
from videovit.engine.evaluation.inference import autocast
from videovit.engine.training.step import Training, without_wrapper
from videovit.models.contract import VideoModel
from videovit.models.layers.batch_norm import share_statistics


class _Forward(nn.Module):
    """Calls a model so that all of its batch norms run; those of a model with a head for boxes are before the head."""

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCTHW: Tensor) -> None:
        self.model.forward_features(x_BCTHW) if self.model.takes_boxes else self.model(x_BCTHW)


def measure_batch_norms(training: Training, loader: ClipLoader, *, epoch: int, num_batches: int) -> None:
    """Replace the statistics of all batch norms that train by those over training batches; a collective call.

    Weights stay as they are. Means and variances are those over all batches of all processes. A moving average of the
    weights gets statistics of its own.

    Args:
        training: its model, and the moving average, are changed.
        loader: of the training list.
        epoch: whose batches are read, from the first.
        num_batches: per process; fewer if the epoch has fewer, and 0 changes nothing.

    Raises:
        Preempted: a signal stopped the run; the statistics are those of before, and are measured again later.

    Source: Rethinking "Batch" in BatchNorm (arXiv 2105.07576), section 3; fvcore's implementation.
    """
    from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats  # few runs need it, and it imports a lot

    models: list[nn.Module] = [without_wrapper(training.model)]
    if training.ema is not None:
        models.append(training.ema.module)
    number = min(num_batches, len(loader))
    for model in models:
        was_training = model.training
        model.train()
        norms = cast(list[nn.BatchNorm3d], get_bn_modules(model))
        if norms and number:
            # fvcore puts new tensors in their places, but others hold on to the old ones, which therefore stay.
            buffers = [dict(norm.named_buffers()) for norm in norms]
            before = [
                ({name: value.clone() for name, value in held.items()}, norm.momentum)
                for held, norm in zip(buffers, norms, strict=True)
            ]
            loader.sampler.set_epoch(epoch)
            try:
                with autocast(training.device, training.dtype):
                    update_bn_stats(_Forward(cast(VideoModel, model)), _clips(training, loader, number), number)
            except Preempted:
                for norm, held, (old, momentum) in zip(norms, buffers, before, strict=True):
                    for name, value in old.items():
                        held[name].copy_(value)
                    norm.momentum = momentum
                raise
            measured = _mean_over_processes([_statistics(norm) for norm in norms])
            for norm, held, (mean, var) in zip(norms, buffers, measured, strict=True):
                norm.running_mean = held["running_mean"].copy_(mean)
                norm.running_var = held["running_var"].copy_(var)
            share_statistics(model)
        model.train(was_training)


def _clips(training: Training, loader: ClipLoader, number: int) -> Iterator[Tensor]:
    for batch in itertools.islice(loader, number):
        (stop,) = distributed.highest([training.requests()[0]])
        if stop:
            raise Preempted(int(stop))
        batch = batch.to(training.device)
        yield training.preparation(batch.frames_BTHWC, batch.erase_seeds_B)


def _statistics(norm: nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var


def _mean_over_processes(statistics: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of the data of all processes, of each norm, by the mean of squares."""
    if distributed.world_size() == 1:
        return statistics
    moments = [(mean.double().cpu(), (var.double() + mean.double().square()).cpu()) for mean, var in statistics]
    gathered = distributed.gather(moments)
    combined = []
    for norm in zip(*gathered, strict=True):
        mean, square = (torch.stack(parts).mean(dim=0) for parts in zip(*norm, strict=True))
        combined.append((mean, square - mean.square()))
    return combined
