"""The training task: checks its inputs and those of the tasks after it, then lets a `Trainer` run."""

from __future__ import annotations

from pathlib import Path

from videovit.data.decode.remote_videos import is_missing
from videovit.data.records import Failure
from videovit.data.sample_list import Paths
from videovit.engine.checkpoints.folder import check_folder
from videovit.engine.checkpoints.saving import Saver
from videovit.engine.distributed import preemption
from videovit.engine.distributed.lock import output_lock
from videovit.engine.evaluation.inference import MAX_LISTED, describe_unreadable
from videovit.engine.problem import Problem
from videovit.engine.run_context import Run
from videovit.engine.tasks.analyze import check_analyze
from videovit.engine.tasks.robustness import check_robustness
from videovit.engine.tasks.shuffle_eval import check_shuffle_eval
from videovit.engine.tasks.test import check_test
from videovit.engine.tasks.use_of_time import check_use_of_time
from videovit.engine.training.determinism import deterministic
from videovit.engine.training.trainer import Trainer
from videovit.errors import UserError


def train(problem: Problem, run: Run) -> dict[str, float]:
    """Train from scratch, from given weights, or from where an earlier run in the same folder stopped.

    Returns:
        The measures of the last validation, such as top1_acc, in percent; empty if there was none.

    Raises:
        Preempted: a signal stopped the run; training is saved.
        UserError: another job trains in the same folder, or has taken it over.
    """
    cfg, output_dir = problem.cfg, Path(problem.cfg.OUTPUT_DIR)
    with (
        preemption.install() as signals,
        output_lock(output_dir) as lock,
        Saver(output_dir, minutes=cfg.TRAIN.CHECKPOINT_MINUTES, keep=cfg.TRAIN.CHECKPOINT_KEEP) as saver,
    ):
        run.log.write_files()
        check_folder(output_dir)
        check_inputs(problem)
        trainer = Trainer(problem, run, signals=signals, lock=lock, saver=saver)
        with deterministic(cfg, trainer.model, run.device):
            return trainer.fit()


def check_inputs(problem: Problem) -> None:
    """Check the inputs of training, validation, and the tasks that follow, before the first step.

    Raises:
        UserError: an input cannot be used, or videos of the validation list do not exist.
    """
    cfg = problem.cfg
    _ = problem.class_names  # as many as the model has outputs
    problem.train.check()
    if cfg.TRAIN.EVAL_PERIOD:
        problem.val.check()
    if cfg.TEST.ENABLE:
        check_test(problem)
    if cfg.SHUFFLE_EVAL.ENABLE:
        check_shuffle_eval(problem)
    if cfg.USE_OF_TIME.ENABLE:
        check_use_of_time(problem)
    if cfg.ROBUSTNESS.ENABLE:
        check_robustness(problem)
    if cfg.ANALYSIS.ENABLE:
        check_analyze(problem)
    if not cfg.TRAIN.EVAL_PERIOD:
        return
    # Training replaces videos that are missing; validation would stop the run after the first epoch.
    paths, prefix = Paths(problem.val.samples), cfg.DATA.PATH_PREFIX
    missing = [Failure(path, "file does not exist", "not opened") for path in paths if is_missing(path, prefix)]
    if missing and not cfg.TEST.SKIP_UNREADABLE:
        raise UserError(describe_unreadable(missing[:MAX_LISTED]))
