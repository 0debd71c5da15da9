"""The training task: epochs, checkpoints, validation in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from videovit.config import Config, dump_config
from videovit.data.build import ClipLoader, build_loader, read_samples
from videovit.data.detection import read_truth
from videovit.data.records import Failure
from videovit.data.transforms.pipeline import build_mixup, build_preparation
from videovit.engine import distributed
from videovit.engine.checkpoints.resume import Position, find_checkpoints, resume
from videovit.engine.checkpoints.saving import Saver, snapshot
from videovit.engine.checkpoints.weights import build_on, in_one_piece, load_initial_weights, train_dtype
from videovit.engine.distributed import preemption
from videovit.engine.distributed.lock import Check, output_lock
from videovit.engine.distributed.parallel import is_sharded, replicate, shard, whole
from videovit.engine.distributed.preemption import Preempted
from videovit.engine.reporting.log import Progress, logger
from videovit.engine.run import Run, record_config, report_decoders
from videovit.engine.tasks.shuffle_eval import check_shuffle_eval
from videovit.engine.tasks.test import check_test, validate
from videovit.engine.training.bad_samples import BadSamples
from videovit.engine.training.determinism import deterministic
from videovit.engine.training.distill import build_teacher
from videovit.engine.training.guards import NonFiniteGuard
from videovit.engine.training.losses import build_loss
from videovit.engine.training.optim import build_ema, build_optimizer, build_schedule, describe_groups
from videovit.engine.training.step import (
    LOOK_ON_FILES,
    StepResult,
    Training,
    UnreadableVideosError,
    name_unreadable,
    train_epoch,
    without_wrapper,
)
from videovit.engine.training.trace import Trace
from videovit.models.convert import CheckpointError
from videovit.models.pooling_sharing.supernet import PSViTSupernet

if TYPE_CHECKING:
    from videovit.engine.checkpoints.sharded import ShardWriter


def train(cfg: Config, run: Run) -> dict[str, float]:
    """Train from scratch, from given weights, or from where an earlier run of the same folder stopped.

    Returns:
        The last validation's top1_acc and top5_acc in percent (empty when there was none).

    Raises:
        Preempted: a signal asked for it; training is saved.
        LockError: another job trains in the same folder, or has taken it over.
    """
    output_dir = Path(cfg.OUTPUT_DIR)
    with (
        preemption.install() as asked,
        output_lock(output_dir) as held,
        Saver(output_dir, minutes=cfg.TRAIN.CHECKPOINT_MINUTES, keep=cfg.TRAIN.CHECKPOINT_KEEP) as saver,
        deterministic(cfg, run.device),
    ):
        loader = build_loader(cfg, "train", rank=run.rank, world_size=run.world_size)
        parts = build_training(cfg, run, paths=[sample.path for sample in loader.dataset.samples])
        parts.wishes = lambda: (asked.requested(), saver.due())
        _check_lists(cfg)
        start = _starting_point(cfg, parts, len(loader))
        record_config(cfg, run, "config.yaml")
        session = _Session(cfg, run, parts, loader, saver, held, start, _shard_writer(cfg, parts.model))
        logger.info(
            "training: %d videos, %d steps an epoch, %s",
            len(loader.dataset.samples),
            len(loader),
            describe_groups(parts.optimizer),
        )
        return _train_from(session, start)


@dataclass
class _Session:
    """A training run that is under way; `position` is where its weights stand, `shards` for sharded ones."""

    cfg: Config
    run: Run
    parts: Training
    loader: ClipLoader
    saver: Saver
    held: Check
    position: Position
    shards: ShardWriter | None = None

    @property
    def num_steps(self) -> int:
        """Of an epoch."""
        return len(self.loader)

    @property
    def last_step(self) -> int:
        """Steps of the whole training."""
        whole = self.num_steps * self.cfg.SOLVER.MAX_EPOCH
        return min(self.cfg.TRAIN.MAX_STEPS or whole, whole)

    @property
    def steps_done(self) -> int:
        return self.position.epoch * self.num_steps + self.position.step

    @property
    def ended(self) -> bool:
        return self.steps_done >= self.last_step


def _train_from(session: _Session, start: Position) -> dict[str, float]:
    cfg = session.cfg
    samples = session.loader.dataset.samples
    bad = BadSamples(Path(cfg.OUTPUT_DIR), num_samples=len(samples), max_fraction=cfg.DATA.MAX_BAD_FRACTION)
    if session.ended:
        logger.info("nothing to train: %d epochs and %d steps are done already", start.epoch, start.step)
    result = _validate_when_due(session, again=True) if session.steps_done else {}
    while not session.ended:
        _train_epoch(session, bad)
        due = (session.position.epoch % cfg.TRAIN.CHECKPOINT_PERIOD) == 0
        if session.ended or (due and not session.position.step):
            _save(session)
        result = _validate_when_due(session) or result
    session.saver.join()
    distributed.barrier()
    return result


def _train_epoch(session: _Session, bad: BadSamples) -> None:
    """Train to the end of the epoch, or of training; saves where a rank asks for it."""
    cfg, run, loader, num_steps = session.cfg, session.run, session.loader, session.num_steps
    epoch, first_step = session.position.epoch, session.position.step
    last_step = min(num_steps, session.last_step - epoch * num_steps)
    loader.sampler.set_epoch(epoch, first_step)
    trace = Trace(Path(cfg.OUTPUT_DIR), run.rank, [s.path for s in loader.dataset.samples]) if cfg.TRAIN.TRACE else None
    progress = run.progress(
        f"epoch {epoch + 1}/{cfg.SOLVER.MAX_EPOCH}", last_step, first=first_step, log_period=cfg.LOG_PERIOD
    )
    batches = train_epoch(session.parts, loader, epoch=epoch, num_steps=num_steps, progress=progress, trace=trace)
    for step, done, batch in batches:
        bad.record(batch.failures)
        session.position = Position(epoch, step + 1, num_steps) if step + 1 < num_steps else Position(epoch + 1)
        session.saver.check()
        session.held(False)
        if (step + 1) % cfg.LOG_PERIOD == 0:
            _report_step(session, epoch=epoch, step=step, done=done, progress=progress)
        if done.stop:
            bad.sync()
            raise _stop(session, done.stop)
        if step + 1 == last_step:
            break
        if done.save:
            _save(session)
    bad.sync()
    report_decoders(loader)
    _report_epoch(session, epoch=epoch, progress=progress, num_bad=len(bad))


def _validate_when_due(session: _Session, *, again: bool = False) -> dict[str, float]:
    """Validate where the position asks for it; with `again` only where an earlier run did not come to its end.

    Raises:
        Preempted: a signal came; training is saved, and the next run validates.
    """
    cfg, position = session.cfg, session.position
    epoch = position.epoch if position.step else position.epoch - 1
    if not session.ended and (position.step or position.epoch % cfg.TRAIN.EVAL_PERIOD):
        return {}
    if again and distributed.gather(session.run.rank == 0 and session.run.log.reported("val_epoch", epoch + 1))[0]:
        return {}
    parts = session.parts
    model = parts.ema.module if parts.ema is not None and cfg.TEST.USE_EMA else without_wrapper(parts.model)
    # Ranks may have different numbers of batches, and the forward pass of a sharded model waits for all of them.
    model = in_one_piece(cfg, model, session.run.device)
    try:
        return validate(cfg, session.run, model, epoch=epoch)
    except Preempted as stop:
        raise _stop(session, stop.signum) from None


def _stop(session: _Session, signum: int) -> Preempted:
    """Save, on all ranks together, and say so."""
    if session.saver.position != session.position:
        _save(session)
    session.saver.join()
    distributed.barrier()  # nobody leaves before the file is there
    return Preempted(signum, str(session.saver.path))


def _shard_writer(cfg: Config, model: nn.Module) -> ShardWriter | None:
    if not is_sharded(model):
        return None
    from videovit.engine.checkpoints.sharded import ShardWriter  # brings half a second of imports

    return ShardWriter(cfg.DIST_TIMEOUT_S)


def _check_lists(cfg: Config) -> None:
    """What validation and the tests behind training cannot use is told now, not after the first or last epoch.

    Raises:
        UserError: a list cannot be used, and what `check_test` and `check_shuffle_eval` look at.
        UnreadableVideosError: videos of the validation list are not there.
    """
    if cfg.DETECTION.ENABLE:
        read_truth(cfg, "val")
    if cfg.TEST.ENABLE:
        check_test(cfg)
    if cfg.SHUFFLE_EVAL.ENABLE:
        check_shuffle_eval(cfg)
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
            ema=parts.ema,
            cfg_text=dump_config(cfg),
            num_steps=num_steps,
            global_batch=_global_batch(cfg),
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


def _save(session: _Session) -> None:
    """Begin to write a checkpoint of the position; a sharded run's last one is a file like any other's."""
    parts = session.parts
    state = snapshot(
        without_wrapper(parts.model),
        position=session.position,
        cfg_text=dump_config(session.cfg),
        optimizer=parts.optimizer,
        scaler=parts.scaler,
        ema=parts.ema,
        global_batch=_global_batch(session.cfg),
    )
    if session.run.rank == 0:
        session.held(True)
    if session.shards is None or session.ended:
        session.saver.save(session.position, whole(state))
    else:
        session.saver.save(session.position, state, write_shards=session.shards.write)


def _global_batch(cfg: Config) -> int:
    """Videos that a step of all ranks takes."""
    return cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS


def build_training(cfg: Config, run: Run, *, paths: Sequence[str] = ()) -> Training:
    """Model, optimiser, schedule, loss and augmentation of the config, on the device of the run.

    Args:
        paths: of the training list, to name videos in messages.
    """
    model: nn.Module = build_on(cfg, run.device)
    supernet = model if isinstance(model, PSViTSupernet) else None
    ema = build_ema(model, cfg.TRAIN.EMA_DECAY)
    sharded = cfg.TRAIN.SHARD_MODEL and run.world_size > 1
    if sharded:
        model = shard(model, run.device)
        if ema is not None:
            shard(ema.module, run.device)
    optimizer = build_optimizer(cfg, model)
    if run.world_size > 1 and not sharded:
        find_unused = cfg.TRAIN.FIND_UNUSED_PARAMETERS or supernet is not None
        model = replicate(model, run.device, find_unused=find_unused, compression=cfg.TRAIN.GRAD_COMPRESSION)
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
        ema=ema,
        guard=NonFiniteGuard(
            cfg.TRAIN.NONFINITE,
            most_in_a_row=cfg.TRAIN.NONFINITE_IN_A_ROW,
            output_dir=Path(cfg.OUTPUT_DIR),
            paths=paths,
        ),
    )


def _report_step(session: _Session, *, epoch: int, step: int, done: StepResult, progress: Progress) -> None:
    cfg, run, num_steps = session.cfg, session.run, session.num_steps
    loss, norm = distributed.mean([done.loss, done.grad_norm])
    seconds = progress.elapsed_s / (step + 1 - progress.first)
    values = {
        "epoch": f"{epoch + 1}/{cfg.SOLVER.MAX_EPOCH}",
        "iter": f"{step + 1}/{num_steps}",
        "loss": loss,
        "grad_norm": norm,
        "lr": done.lr,
        "dt": seconds,
        "dt_data": progress.data_s / (step + 1 - progress.first),
        "eta": progress.eta(session.last_step - epoch * num_steps - progress.total),
        "clips_per_s": progress.clips_per_s,
        "gpu_mem_gb": torch.cuda.max_memory_allocated() / 2**30 if run.device.type == "cuda" else 0.0,
    }
    run.log.stats("train_iter", values, step=epoch * num_steps + step + 1)


def _report_epoch(session: _Session, *, epoch: int, progress: Progress, num_bad: int) -> None:
    cfg, run = session.cfg, session.run
    values = {
        "epoch": f"{epoch + 1}/{cfg.SOLVER.MAX_EPOCH}",
        "clips_per_s": progress.clips_per_s,
        "data_share": progress.data_s / progress.elapsed_s,
        "bad_samples": num_bad,
        "skipped_steps": session.parts.guard.num_skipped,
    }
    run.log.stats("train_epoch", values, step=epoch + 1)
