"""The training task: epochs, checkpoints, validation in between."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from videovit.config import Config, dump_config
from videovit.data.build import build_loader, read_samples
from videovit.data.detection import read_truth
from videovit.data.records import Failure
from videovit.data.transforms.pipeline import build_mixup, build_preparation
from videovit.engine import distributed
from videovit.engine.bad_samples import BadSamples
from videovit.engine.checkpoint import Position, checkpoint_path, find_checkpoints, resume, save_checkpoint
from videovit.engine.distill import build_teacher
from videovit.engine.evaluation import validate
from videovit.engine.log import Progress, logger
from videovit.engine.loops import (
    LOOK_ON_FILES,
    StepResult,
    Training,
    UnreadableVideosError,
    name_unreadable,
    train_epoch,
)
from videovit.engine.losses import build_loss
from videovit.engine.optim import build_optimizer, build_schedule, describe_groups
from videovit.engine.parts import build_on, load_initial_weights, train_dtype, without_wrapper
from videovit.engine.run import Run, record_config, report_decoders
from videovit.models.convert import CheckpointError
from videovit.models.psvit_supernet import PSViTSupernet


def train(cfg: Config, run: Run) -> dict[str, float]:
    """Train from scratch, from given weights, or from where an earlier run of the same folder stopped.

    Returns:
        The last validation's top1_acc and top5_acc in percent (empty when there was none).
    """
    loader = build_loader(cfg, "train", rank=run.rank, world_size=run.world_size)
    parts = build_training(cfg, run)
    num_videos, num_steps = len(loader.dataset.samples), len(loader)
    _check_lists(cfg)
    start = _starting_point(cfg, parts, num_steps)
    record_config(cfg, run, "config.yaml")
    bad = BadSamples(Path(cfg.OUTPUT_DIR), num_samples=num_videos, max_fraction=cfg.DATA.MAX_BAD_FRACTION)
    logger.info("training: %d videos, %d steps an epoch, %s", num_videos, num_steps, describe_groups(parts.optimizer))
    max_steps = cfg.TRAIN.MAX_STEPS or num_steps * cfg.SOLVER.MAX_EPOCH
    if start.epoch >= cfg.SOLVER.MAX_EPOCH or start.epoch * num_steps + start.step >= max_steps:
        logger.info("nothing to train: %d epochs and %d steps are done already", start.epoch, start.step)
    result: dict[str, float] = {}
    for epoch in range(start.epoch, cfg.SOLVER.MAX_EPOCH):
        first_step = start.step if epoch == start.epoch else 0
        last_step = min(num_steps, max_steps - epoch * num_steps)
        if first_step >= last_step:
            break
        loader.sampler.set_epoch(epoch, first_step)
        name = f"epoch {epoch + 1}/{cfg.SOLVER.MAX_EPOCH}"
        progress = run.progress(name, num_steps, first=first_step, log_period=cfg.LOG_PERIOD)
        for step, done, batch in train_epoch(parts, loader, epoch=epoch, num_steps=num_steps, progress=progress):
            bad.record(batch.failures)
            if (step + 1) % cfg.LOG_PERIOD == 0:
                _report_step(cfg, run, epoch=epoch, step=step, num_steps=num_steps, done=done, progress=progress)
            if step + 1 == last_step:
                break
        bad.sync()
        report_decoders(loader)
        _report_epoch(cfg, run, epoch=epoch, progress=progress, num_bad=len(bad))
        is_last = epoch + 1 == cfg.SOLVER.MAX_EPOCH or epoch * num_steps + last_step == max_steps
        if last_step < num_steps:
            _save(cfg, run, parts, Position(epoch, last_step, num_steps))
        elif is_last or (epoch + 1) % cfg.TRAIN.CHECKPOINT_PERIOD == 0:
            _save(cfg, run, parts, Position(epoch + 1))
        if is_last or (epoch + 1) % cfg.TRAIN.EVAL_PERIOD == 0:
            result = validate(cfg, run, without_wrapper(parts.model), epoch=epoch)
    return result


def _check_lists(cfg: Config) -> None:
    """A validation or test list that cannot be used is told now, not after the first epochs of training.

    Raises:
        AnnotationError: a list cannot be used.
        UnreadableVideosError: videos of the validation list are not there.
    """
    if cfg.DETECTION.ENABLE:
        read_truth(cfg, "val")
    if cfg.TEST.ENABLE or cfg.SHUFFLE_EVAL.ENABLE:
        read_samples(cfg, "test")
    paths = [sample.path for sample in read_samples(cfg, "val")]
    missing = [Failure(path, "file does not exist", "not opened") for path in paths if not Path(path).exists()]
    if missing and not cfg.TEST.SKIP_UNREADABLE:
        raise UnreadableVideosError(name_unreadable(missing[:LOOK_ON_FILES]))


def _starting_point(cfg: Config, parts: Training, num_steps: int) -> Position:
    """Continue an earlier run of the same folder (`TRAIN.AUTO_RESUME`), or load the weights to start from.

    Raises:
        CheckpointError: the ranks found different checkpoints, or those of another run would be mixed with ours.
    """
    model, output_dir = without_wrapper(parts.model), Path(cfg.OUTPUT_DIR)
    position = None
    if cfg.TRAIN.AUTO_RESUME:
        position = resume(
            output_dir,
            model=model,
            optimizer=parts.optimizer,
            scaler=parts.scaler,
            cfg_text=dump_config(cfg),
            num_steps=num_steps,
        )
    elif find_checkpoints(output_dir):
        raise CheckpointError(
            f"{output_dir}/checkpoints holds an earlier run, and TRAIN.AUTO_RESUME is False: the two would be mixed; "
            "choose another OUTPUT_DIR, or remove the folder"
        )
    if len(set(distributed.gather(position))) > 1:
        raise CheckpointError(f"the ranks found different checkpoints in {output_dir}: is it the same folder for all?")
    if position is None:
        load_initial_weights(cfg, model)
    return position or Position()


def _save(cfg: Config, run: Run, parts: Training, position: Position) -> None:
    if run.rank == 0:
        path = checkpoint_path(Path(cfg.OUTPUT_DIR), position)
        save_checkpoint(
            path,
            model=without_wrapper(parts.model),
            position=position,
            cfg_text=dump_config(cfg),
            optimizer=parts.optimizer,
            scaler=parts.scaler,
        )
        logger.info("saved %s", path)
    distributed.barrier()


def build_training(cfg: Config, run: Run) -> Training:
    """Model, optimiser, schedule, loss and augmentation of the config, on the device of the run."""
    model: nn.Module = build_on(cfg, run.device)
    optimizer = build_optimizer(cfg, model)
    supernet = model if isinstance(model, PSViTSupernet) else None
    if run.world_size > 1:
        gpus = [run.device.index] if run.device.type == "cuda" else None
        model = nn.parallel.DistributedDataParallel(model, device_ids=gpus, find_unused_parameters=supernet is not None)
    dtype = train_dtype(cfg)
    return Training(
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(cfg),
        loss=build_loss(cfg.MODEL.LOSS_FUNC, label_smoothing=cfg.MODEL.LABEL_SMOOTHING),
        prepare=build_preparation(cfg, train=True),
        device=run.device,
        mixup=build_mixup(cfg),
        teacher=build_teacher(cfg, run.device),
        before_step=None if supernet is None else partial(supernet.draw_path, cfg.RNG_SEED),
        scaler=torch.amp.GradScaler(run.device.type) if dtype == torch.float16 else None,
        dtype=dtype,
        accumulate=cfg.TRAIN.GRAD_ACCUM_STEPS,
        max_norm=cfg.SOLVER.CLIP_GRAD_L2NORM,
        max_value=cfg.SOLVER.CLIP_GRAD_VAL,
        seed=cfg.RNG_SEED,
        rank=run.rank,
    )


def _report_step(
    cfg: Config, run: Run, *, epoch: int, step: int, num_steps: int, done: StepResult, progress: Progress
) -> None:
    loss, norm = distributed.mean(torch.stack([done.loss.float(), done.grad_norm.float()])).tolist()
    seconds = progress.elapsed_s / (step + 1 - progress.first)
    values = {
        "epoch": f"{epoch + 1}/{cfg.SOLVER.MAX_EPOCH}",
        "iter": f"{step + 1}/{num_steps}",
        "loss": loss,
        "grad_norm": norm,
        "lr": done.lr,
        "dt": seconds,
        "dt_data": progress.data_s / (step + 1 - progress.first),
        "eta": progress.eta((cfg.SOLVER.MAX_EPOCH - epoch - 1) * num_steps),
        "clips_per_s": progress.clips_per_s * run.world_size,
        "gpu_mem_gb": torch.cuda.max_memory_allocated() / 2**30 if run.device.type == "cuda" else 0.0,
    }
    run.log.stats("train_iter", values, step=epoch * num_steps + step + 1)


def _report_epoch(cfg: Config, run: Run, *, epoch: int, progress: Progress, num_bad: int) -> None:
    values = {
        "epoch": f"{epoch + 1}/{cfg.SOLVER.MAX_EPOCH}",
        "clips_per_s": progress.clips_per_s * run.world_size,
        "data_share": progress.data_s / progress.elapsed_s,
        "bad_samples": num_bad,
    }
    run.log.stats("train_epoch", values, step=epoch + 1)
