"""What a training step needs, built from the config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn

from videovit.engine.checkpoints.weights import build_seeded_network, train_dtype
from videovit.engine.distributed.parallel import replicate, shard
from videovit.engine.problem import Problem
from videovit.engine.run_context import Run
from videovit.engine.training.non_finite import NonFiniteGuard
from videovit.engine.training.optim import build_ema, build_optimizer, build_schedule
from videovit.engine.training.step import Training
from videovit.models.contract import LayeredModel


def build_training(problem: Problem, run: Run, *, paths: Sequence[str] = ()) -> Training:
    """Model, objective, optimizer and schedule of the config, on the device of the run.

    Args:
        problem: what is learned.
        run: this process.
        paths: videos of the training list, for messages.
    """
    cfg = problem.cfg
    model = build_seeded_network(cfg, run.device)
    objective = problem.objective(model, run.device)
    ema = build_ema(model, cfg.TRAIN.EMA_DECAY)
    sharded = cfg.TRAIN.SHARD_MODEL and run.world_size > 1
    if sharded:
        model = shard(model, run.device)
        if ema is not None:
            shard(cast(LayeredModel, ema.module), run.device)
    # After sharding, which replaces the parameters; before replication, which gives them other names.
    optimizer = build_optimizer(cfg, model)
    network: nn.Module = model
    if run.world_size > 1 and not sharded:
        find_unused = cfg.TRAIN.FIND_UNUSED_PARAMETERS or not objective.uses_all_parameters
        network = replicate(model, run.device, find_unused=find_unused, compression=cfg.TRAIN.GRAD_COMPRESSION)
    dtype = train_dtype(cfg)
    return Training(
        model=network,
        objective=objective,
        optimizer=optimizer,
        schedule=build_schedule(cfg),
        preparation=problem.train_preparation,
        device=run.device,
        # bf16 has the range of fp32, so that only fp16 needs its gradients scaled.
        scaler=torch.amp.GradScaler(run.device.type) if dtype == torch.float16 else None,
        dtype=dtype,
        accumulate=cfg.TRAIN.GRAD_ACCUM_STEPS,
        max_norm=cfg.SOLVER.CLIP_GRAD_L2NORM,
        max_value=cfg.SOLVER.CLIP_GRAD_VAL,
        seed=cfg.RNG_SEED,
        rank=run.rank,
        ema=ema,
        guard=NonFiniteGuard(
            cfg.TRAIN.NONFINITE,
            most_in_a_row=cfg.TRAIN.NONFINITE_IN_A_ROW,
            output_dir=Path(cfg.OUTPUT_DIR),
            paths=paths,
        ),
    )
