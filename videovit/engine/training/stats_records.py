"""What training and validation report to `RunLog.stats`."""

from __future__ import annotations

import torch

from videovit.engine import distributed
from videovit.engine.reporting.progress import Progress
from videovit.engine.training.step import StepResult
from videovit.engine.training.whole import LossMeans


def step_record(result: StepResult, progress: Progress, *, steps: int, steps_after: int) -> dict[str, object]:
    """Losses and speed, up to a step; a collective call.

    Args:
        result: of the step.
        progress: of its epoch.
        steps: that `progress` has timed.
        steps_after: the epoch, to the end of the training.
    """
    terms = {f"loss_{name}": term for name, term in result.terms.items()} if len(result.terms) > 1 else {}
    loss, norm, *means = distributed.mean([result.loss, result.grad_norm, *terms.values()])
    on_gpu = result.loss.device.type == "cuda"
    return {
        "loss": loss,
        **dict(zip(terms, means, strict=True)),
        "grad_norm": norm,
        "lr": result.lr,
        "dt": progress.elapsed_s / steps,
        "dt_data": progress.data_s / steps,
        "eta": progress.eta(steps_after),
        "clips_per_s": progress.clips_per_s,
        "gpu_mem_gb": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0,
    }


def epoch_record(means: LossMeans, progress: Progress) -> dict[str, object]:
    """Mean losses and speed of an epoch; a collective call."""
    return {
        **means.over_ranks(),
        "lr": means.lr,
        "clips_per_s": progress.clips_per_s,
        "data_share": progress.data_s / progress.elapsed_s,
    }


def with_errors(result: dict[str, float]) -> dict[str, float]:
    """Report top1_err for top1_acc and top5_err for top5_acc, as SlowFast does; other measures stay."""
    return {
        name.replace("_acc", "_err") if name.startswith("top") else name: 100.0 - value
        if name.startswith("top")
        else value
        for name, value in result.items()
    }
