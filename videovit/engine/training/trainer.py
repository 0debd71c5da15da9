"""Training, in the order in which it happens: build, resume, epochs of steps, checkpoints and validation in between.

fit -> train_epoch -> train_step (in step.py)
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import nn

from videovit.config import dump_config
from videovit.data.build import describe_train_list
from videovit.data.sample_list import Paths
from videovit.engine import distributed
from videovit.engine.checkpoints.folder import Position, checkpoint_path, find_checkpoints
from videovit.engine.checkpoints.resume import resume
from videovit.engine.checkpoints.saving import Saver, snapshot
from videovit.engine.checkpoints.train_list import data_folders, list_digest
from videovit.engine.checkpoints.weights import load_initial_weights, train_dtype, unsharded_copy
from videovit.engine.distributed.lock import OutputLock
from videovit.engine.distributed.parallel import is_sharded, unsharded
from videovit.engine.distributed.preemption import Preempted, Preemption
from videovit.engine.evaluation.inference import evaluate_split
from videovit.engine.evaluation.sinks import LossSink
from videovit.engine.objectives import build_loss
from videovit.engine.problem import Problem
from videovit.engine.reporting.curves import Curves
from videovit.engine.reporting.history import describe_epoch_end, read_history
from videovit.engine.reporting.log import logger
from videovit.engine.reporting.progress import Progress
from videovit.engine.run_context import Run, record_start, report_decoders
from videovit.engine.training.bad_sample_list import BadSamples
from videovit.engine.training.best import BestSoFar
from videovit.engine.training.build import build_training
from videovit.engine.training.optim import describe_groups
from videovit.engine.training.precise_bn import measure_batch_norms
from videovit.engine.training.stats_records import epoch_record, step_record, with_errors
from videovit.engine.training.step import StepResult, train_step, without_wrapper
from videovit.engine.training.trace import Trace
from videovit.engine.training.whole import LossMeans, WholeTraining
from videovit.messages import plural
from videovit.models.contract import LayeredModel
from videovit.models.convert import CheckpointError

if TYPE_CHECKING:
    from videovit.engine.checkpoints.sharded import ShardWriter


class Trainer:
    """Trains a model, from scratch, from given weights, or from where an earlier run in the same folder stopped.

    All methods are called on all ranks together.

    Args:
        problem: what is learned.
        run: this process.
        signals: signals that stop the run.
        lock: of the run's folder.
        saver: writes checkpoints.

    Attributes:
        training: the model, and what a step needs.
        best: the best validation so far.
        position: steps done.
    """

    def __init__(self, problem: Problem, run: Run, *, signals: Preemption, lock: OutputLock, saver: Saver) -> None:
        self.problem, self.cfg, self.run = problem, problem.cfg, run
        self.lock, self.saver = lock, saver
        self.loader = problem.train.loader(run)
        paths = Paths(self.loader.dataset.samples)
        self.train_list = list_digest(self.loader.dataset.samples, data_folders(self.cfg))
        self.training = build_training(problem, run, paths=paths)
        self.training.requests = lambda: (signals.requested(), saver.due())
        output_dir = Path(self.cfg.OUTPUT_DIR)
        self.trace = Trace(output_dir, run.rank, paths) if self.cfg.TRAIN.TRACE else None
        self.bad_samples = BadSamples(output_dir, num_samples=len(paths), max_fraction=self.cfg.DATA.MAX_BAD_FRACTION)
        self.shards = _shard_writer(self.training.model, self.cfg.DIST_TIMEOUT_S)
        self.best = BestSoFar(self.cfg)
        self.curves = Curves(output_dir / "curves.png")
        self.position = Position()

    @property
    def model(self) -> LayeredModel:
        """The model, without a distributed wrapper."""
        return without_wrapper(self.training.model)

    @property
    def num_steps(self) -> int:
        """Steps per epoch."""
        return len(self.loader)

    @property
    def last_step(self) -> int:
        """Steps of the whole training."""
        full = self.num_steps * self.cfg.SOLVER.MAX_EPOCH
        return min(self.cfg.TRAIN.MAX_STEPS or full, full)

    @property
    def steps_done(self) -> int:
        """Steps since the beginning of the training, in whatever run."""
        return self.position.epoch * self.num_steps + self.position.step

    @property
    def ended(self) -> bool:
        """Whether nothing is left to train."""
        return self.steps_done >= self.last_step

    @property
    def stopped_early(self) -> bool:
        """Whether training ends before its last step, since validations no longer improve."""
        return self.best.is_long_ago(self.position)

    # ------------------------------------------------------------------------------------------------------- the run

    def fit(self) -> dict[str, float]:
        """Train to the end.

        Returns:
            The measures of the last validation, in percent; empty if there was none.

        Raises:
            Preempted: a signal stopped the run; training is saved.
            UserError: another job has the folder, unreadable videos (too many, or of validation), a loss not finite.
        """
        self.start()
        self.whole = WholeTraining(
            self.last_step,
            first=self.steps_done,
            validation_steps=-(-len(self.problem.val.samples) // self._global_batch)
            if self.cfg.TRAIN.EVAL_PERIOD
            else 0,
            quiet=self.run.rank != 0,
        )
        # An earlier run may have ended between the last step of an epoch and the end of its validation.
        result = self._validate_and_log(again=True) if self.steps_done else {}
        while not (self.ended or self.stopped_early):
            self.train_epoch()
            epoch_due = self.position.step == 0 and self.position.epoch % self.cfg.TRAIN.CHECKPOINT_PERIOD == 0
            if self.ended or epoch_due or self._validation_is_due:
                self.measure_batch_norms()
            if self.ended or epoch_due:
                self.save()
            result = self._validate_and_log() or result
        self.whole.close()
        if self.stopped_early:
            self._stop_early()
        self.saver.join()
        distributed.barrier()
        return result

    def start(self) -> None:
        """Continue an earlier run of the same folder (`TRAIN.AUTO_RESUME`), or load the weights to start from.

        Raises:
            CheckpointError: the ranks found different checkpoints, or the folder holds another run.
        """
        cfg, training, output_dir = self.cfg, self.training, Path(self.cfg.OUTPUT_DIR)
        position = None
        if cfg.TRAIN.AUTO_RESUME:
            position = resume(
                output_dir,
                model=self.model,
                optimizer=training.optimizer,
                scaler=training.scaler,
                ema=training.ema,
                cfg_text=dump_config(cfg),
                num_steps=self.num_steps,
                global_batch=self._global_batch,
                train_list=self.train_list,
            )
        elif find_checkpoints(output_dir):
            raise CheckpointError(
                "holds an earlier run, and TRAIN.AUTO_RESUME is False, so that the two would be mixed",
                where=f"{output_dir}/checkpoints",
                hint="Choose another OUTPUT_DIR, or remove the folder",
            )
        if len(set(distributed.gather(position))) > 1:
            raise CheckpointError(
                f"the ranks found different checkpoints in {output_dir}: is it the same folder for all of them?"
            )
        if position is None:
            load_initial_weights(cfg, self.model)
        self.position = position or Position()
        self.best.restore(resumed=position is not None)
        # Only now: a run that cannot start must not replace the config of the one before.
        record_start(cfg, self.run, "config.yaml")
        epoch = describe_train_list(
            self.loader.dataset.samples,
            num_classes=0 if cfg.MASK.ENABLE else cfg.MODEL.NUM_CLASSES,
            videos_per_step=self._global_batch,
            balanced=cfg.DATA.SAMPLER == "balanced",
            noun=self.run.noun,
        )
        logger.info("training: %s", epoch)
        logger.info("optimizer: %s", describe_groups(training.optimizer))
        if self.ended:
            epochs, steps = plural(self.position.epoch, "epoch"), plural(self.position.step, "step")
            logger.info("nothing to train: %s and %s are done already", epochs, steps)

    def train_epoch(self) -> None:
        """Train to the end of the epoch, or of the training; save whenever a rank requests it.

        Raises:
            Preempted: a signal stopped the run; training is saved.
        """
        epoch, first_step = self.position.epoch, self.position.step
        last_step = min(self.num_steps, self.last_step - epoch * self.num_steps)
        name = f"epoch {epoch + 1}/{self.cfg.SOLVER.MAX_EPOCH}"
        progress = self.run.progress(name, last_step, first=first_step, log_period=self.cfg.LOG_PERIOD)
        means = LossMeans()
        self.loader.sampler.set_epoch(epoch, first_step)
        self.training.model.train()
        for step, batch in progress.over(self.loader):
            result = train_step(
                self.training, batch, epoch=epoch, step=step, num_steps=self.num_steps, trace=self.trace
            )
            progress.count(len(batch), loss=means.add(result), lr=result.lr)
            self.whole.step()
            self.bad_samples.record(batch.failures)
            ended = step + 1 == self.num_steps
            self.position = Position(epoch + 1) if ended else Position(epoch, step + 1, self.num_steps)
            self.saver.check()
            self.lock.check()
            if (step + 1) % self.cfg.LOG_PERIOD == 0:
                self._report_step(epoch, step, result, progress)
            if result.stop:
                self.bad_samples.sync()
                raise self._stopped(result.stop)
            if step + 1 == last_step:
                break
            if result.save:
                self.save()
        self.bad_samples.sync()
        self.whole.trained(progress.elapsed_s)
        report_decoders(self.loader, self.run, "training")
        self._report_epoch(epoch, progress, means)

    # ------------------------------------------------------------------------------- checkpoints, validation, signals

    def save(self, *, last: bool = False) -> None:
        """Begin to write a checkpoint of the position.

        Args:
            last: of the run; a sharded run's last one is a file like that of any run, as it is at the end of training.
        """
        state = snapshot(
            self.model,
            position=self.position,
            cfg_text=dump_config(self.cfg),
            optimizer=self.training.optimizer,
            scaler=self.training.scaler,
            ema=self.training.ema,
            global_batch=self._global_batch,
            train_list=self.train_list,
        )
        if self.run.rank == 0:
            self.lock.verify()
        if self.shards is None or self.ended or last:
            self.saver.save(self.position, unsharded(state))
        else:
            self.saver.save(self.position, state, write_shards=self.shards.write)

    def save_best(self) -> None:
        """Write the best checkpoint: the weights, without what only training needs."""
        state = snapshot(
            self.model,
            position=self.position,
            cfg_text=dump_config(self.cfg),
            ema=self.training.ema,
            global_batch=self._global_batch,
            train_list=self.train_list,
        )
        if self.run.rank == 0:
            self.lock.verify()
        self.saver.save_best({**unsharded(state), "best": self.best.state()})

    def validate_if_due(self, *, again: bool = False) -> dict[str, float]:
        """Validate after `TRAIN.EVAL_PERIOD` epochs and at the end of training; never if that is 0.

        Args:
            again: only if an earlier run did not finish this validation.

        Returns:
            The measures, in percent; empty if no validation is due.

        Raises:
            Preempted: a signal stopped the run; training is saved, and the next run validates.
        """
        epoch = self._last_epoch
        if not self._validation_is_due:
            return {}
        # Only rank 0 has a log to read.
        if again and distributed.gather(self.run.rank == 0 and self.run.log.reported("val_epoch", epoch + 1))[0]:
            return {}
        if again and self.cfg.BN.USE_PRECISE_STATS:  # the signal may have come before they were measured
            self.measure_batch_norms()
            self.save()
        try:
            return self.validate(epoch)
        except Preempted as stop:
            raise self._stopped(stop.signum) from None

    @property
    def _last_epoch(self) -> int:
        """The epoch of the last step, from 0."""
        return self.position.epoch if self.position.step else self.position.epoch - 1

    @property
    def _validation_is_due(self) -> bool:
        """Whether a validation follows the last step."""
        period = self.cfg.TRAIN.EVAL_PERIOD
        return bool(period) and (self.ended or not (self.position.step or self.position.epoch % period))

    def measure_batch_norms(self) -> None:
        """Measure the statistics of batch norms anew, if `BN.USE_PRECISE_STATS` is set; see `precise_bn.py`."""
        bn = self.cfg.BN
        if bn.USE_PRECISE_STATS:
            try:
                measure_batch_norms(
                    self.training, self.loader, epoch=self._last_epoch, num_batches=bn.NUM_BATCHES_PRECISE
                )
            except Preempted as stop:
                raise self._stopped(stop.signum) from None

    def validate(self, epoch: int) -> dict[str, float]:
        """Evaluate one central clip, with a center crop, of every validation video. (SlowFast's clips are random.)

        Args:
            epoch: for the report, counted from 0.
        """
        cfg, run, problem = self.cfg, self.run, self.problem
        ema = self.training.ema
        model: nn.Module = ema.module if ema is not None and cfg.TEST.USE_EMA else self.model
        # Ranks may have different numbers of batches, but the forward pass of a sharded model waits for all of them.
        model = unsharded_copy(cfg, model, run.device)
        inference = problem.inference(
            cast(LayeredModel, model), run, batch_size=cfg.TRAIN.BATCH_SIZE, dtype=train_dtype(cfg)
        )
        loader = problem.val.loader(run)
        evaluator = problem.val.new_evaluator(loader.dataset)
        sinks = [LossSink(build_loss(cfg.MODEL.LOSS_FUNC))] if evaluator.has_labels else []
        passes = [evaluator.forward_pass(problem.activation, sinks)]
        skipped = evaluate_split(inference, loader, passes, run, name="validation", log_period=cfg.LOG_PERIOD)
        result = evaluator.gather().result(skipped=skipped)
        losses = {"loss": sinks[0].result()} if sinks else {}
        # The file first: once the validation is reported, it is not repeated.
        if self.best.improves({**result, **losses}, epoch + 1):
            self.save_best()
        best = {"best_epoch": self.best.epoch} if self.best.epoch else {}
        values = {"epoch": f"{epoch + 1}/{cfg.SOLVER.MAX_EPOCH}", **losses, **with_errors(result), **best}
        run.log.stats("val_epoch", values, step=epoch + 1)
        return {name: value for name, value in result.items() if not name.startswith("num_")}

    def _stop_early(self) -> None:
        """Log why training ends, and save it for the test and for the next start, which trains no further."""
        logger.info("stopped early after epoch %d: %s", self.position.epoch, self.best)
        self.saver.join()
        written = checkpoint_path(Path(self.cfg.OUTPUT_DIR), self.position).exists()
        if not distributed.gather(written)[0]:
            self.save(last=True)

    def _stopped(self, signum: int) -> Preempted:
        """Save, unless the position is saved already, and wait for the file."""
        if self.saver.position != self.position:
            self.save()
        self.saver.join()
        distributed.barrier()  # no rank may leave before the file is written
        return Preempted(signum, str(self.saver.path))

    # -------------------------------------------------------------------------------------------------------- reports

    def _report_step(self, epoch: int, step: int, result: StepResult, progress: Progress) -> None:
        place = {"epoch": f"{epoch + 1}/{self.cfg.SOLVER.MAX_EPOCH}", "iter": f"{step + 1}/{self.num_steps}"}
        steps_after = self.last_step - epoch * self.num_steps - progress.total
        values = step_record(result, progress, steps=step + 1 - progress.first, steps_after=steps_after)
        self.run.log.stats("train_iter", {**place, **values}, step=epoch * self.num_steps + step + 1)

    def _report_epoch(self, epoch: int, progress: Progress, means: LossMeans) -> None:
        values = {
            "epoch": f"{epoch + 1}/{self.cfg.SOLVER.MAX_EPOCH}",
            **epoch_record(means, progress),
            "bad_samples": len(self.bad_samples),
            "skipped_steps": self.training.guard.num_skipped,
        }
        self.run.log.stats("train_epoch", values, step=epoch + 1)

    def _validate_and_log(self, *, again: bool = False) -> dict[str, float]:
        """`validate_if_due`; then a line about the epoch, and the curves."""
        began = time.monotonic()
        result = self.validate_if_due(again=again)
        if result:
            self.whole.validated(time.monotonic() - began)
        if self.run.rank == 0 and (result or not again):
            epoch, history = self.position.epoch + (self.position.step > 0), read_history(Path(self.cfg.OUTPUT_DIR))
            logger.info(
                "%s  %s", describe_epoch_end(history, epoch, self.run.noun), self.whole.times(self._validations_left())
            )
            self.curves.write(history, last=self.ended)
        return result

    def _validations_left(self) -> int:
        """Validations that are due from here to the end."""
        period, num_epochs = self.cfg.TRAIN.EVAL_PERIOD, -(-self.last_step // self.num_steps)
        later = range(self.position.epoch + 1, num_epochs + 1)
        return sum(epoch % period == 0 or epoch == num_epochs for epoch in later) if period else 0

    @property
    def _global_batch(self) -> int:
        """Videos per step of all ranks."""
        return self.cfg.TRAIN.BATCH_SIZE * self.cfg.NUM_SHARDS


def _shard_writer(model: nn.Module, timeout_s: float) -> ShardWriter | None:
    if not is_sharded(model):
        return None
    from videovit.engine.checkpoints.sharded import ShardWriter  # imports take half a second

    return ShardWriter(timeout_s)
