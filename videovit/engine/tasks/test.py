"""The test task: all views of every test video, their scores joined."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import simplejson

from videovit.data.sample_list import Paths
from videovit.engine.checkpoints.saving import not_written, save_flushed
from videovit.engine.checkpoints.weights import build_seeded_network, load_weights_to_test, test_dtype
from videovit.engine.evaluation.evaluator import Evaluator
from videovit.engine.evaluation.inference import evaluate_split
from videovit.engine.evaluation.predictions import NUM_WORST, format_mistakes, write_predictions
from videovit.engine.problem import Problem
from videovit.engine.reporting.json_lines import replacing
from videovit.engine.reporting.log import format_table, logger
from videovit.engine.run_context import Run
from videovit.errors import UserError
from videovit.models.contract import LayeredModel
from videovit.models.convert.checksums import state_crc
from videovit.models.convert.read import read_file
from videovit.models.download import local_file


def check_test(problem: Problem) -> None:
    """Check what a test needs, so that training before it does not end in an error.

    Raises:
        UserError: a list, the class names or the path of the scores cannot be used, the data do not have the requested
            views, or there are no weights and training will not write any.
    """
    cfg = problem.cfg
    problem.test.check()
    for num_clips in _numbers_of_clips(problem):
        problem.test.dataset(num_clips)
    _ = problem.class_names  # fails early if the file cannot be used
    _check_scores_path(problem)
    weights, output_dir = local_file(cfg.TEST.CHECKPOINT_FILE_PATH).resolve(), Path(cfg.OUTPUT_DIR).resolve()
    written_by_training = output_dir in (weights, *weights.parents)
    if cfg.TEST.CHECKPOINT_FILE_PATH and not weights.exists() and not written_by_training:
        read_file(cfg.TEST.CHECKPOINT_FILE_PATH)  # raises, and names similar files


def test(problem: Problem, run: Run) -> dict[str, float]:
    """Multi-view test, repeated for every number of clips in `TEST.NUM_TEMPORAL_CLIPS`.

    Returns:
        The measures of the evaluator, such as top1_acc, in percent; num_videos, num_views, num_skipped. Of the last
        number of clips.

    Raises:
        UserError: the scores cannot be saved at TEST.SAVE_RESULTS_PATH, among others.
    """
    cfg = problem.cfg
    _ = problem.class_names  # fails early if the file cannot be used
    _check_scores_path(problem)
    model = build_seeded_network(cfg, run.device)
    source = {"checkpoint": load_weights_to_test(cfg, model), "weights_crc32": state_crc(model.state_dict())}
    result: dict[str, float] = {}
    for num_clips in _numbers_of_clips(problem):
        result = _test_views(problem, run, model, source, num_clips)
    return result


def _numbers_of_clips(problem: Problem) -> tuple[int, ...]:
    """Clips per video, of each repetition of the test."""
    return problem.cfg.TEST.NUM_TEMPORAL_CLIPS or (problem.cfg.TEST.NUM_ENSEMBLE_VIEWS,)


def _check_scores_path(problem: Problem) -> None:
    """Create the folder for the scores; if that fails, better before the test than after it."""
    key, name = "TEST.SAVE_RESULTS_PATH", problem.cfg.TEST.SAVE_RESULTS_PATH
    if not name:
        return
    path = Path(problem.cfg.OUTPUT_DIR) / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be created: {error.strerror}", where=key) from error
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected the name of a file", where=key)
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path} cannot be written", where=key)


def _test_views(
    problem: Problem, run: Run, model: LayeredModel, source: Mapping[str, str], num_clips: int
) -> dict[str, float]:
    cfg = problem.cfg
    loader = problem.test.loader(run, num_clips)
    evaluator = problem.test.new_evaluator(loader.dataset)
    inference = problem.inference(
        model, run, batch_size=cfg.TEST.BATCH_SIZE, dtype=test_dtype(cfg), engine=cfg.TEST.ENGINE
    )
    passes = [evaluator.forward_pass(problem.activation)]
    skipped = evaluate_split(inference, loader, passes, run, name="test", log_period=cfg.LOG_PERIOD)
    result = evaluator.gather().result(skipped=skipped)
    about = {"split": "test_final", "views": evaluator.views, **source}
    run.log.stats("test_final", {**about, **result}, step=cfg.SOLVER.MAX_EPOCH)
    logger.info("\n%s", _format_result(evaluator, result, run.noun))
    if run.rank == 0:
        _write(
            problem,
            evaluator,
            Paths(loader.dataset.samples),
            f"_{num_clips}clips" if cfg.TEST.NUM_TEMPORAL_CLIPS else "",
        )
    return result


def _write(problem: Problem, evaluator: Evaluator, paths: Sequence[str], suffix: str) -> None:
    """Write reports and predictions to OUTPUT_DIR, and scores to TEST.SAVE_RESULTS_PATH; log the worst mistakes."""
    folder, name = Path(problem.cfg.OUTPUT_DIR), problem.cfg.TEST.SAVE_RESULTS_PATH
    files = evaluator.write_report(folder, problem.class_names, suffix=suffix)
    rows, mistakes = evaluator.predictions_of(paths), []
    table = folder / f"predictions{suffix}.csv"
    if rows is not None:
        files.append(table)
        mistakes = write_predictions(table, rows, problem.class_names)
    if errors := evaluator.error_report(problem.class_names, mistakes):
        files.append(folder / f"errors{suffix}.json")
        with replacing(files[-1]) as partial:
            partial.write_text(simplejson.dumps(errors, indent=1, ignore_nan=True) + "\n", encoding="utf-8")
    logger.info("written: %s", ", ".join(map(str, files)))
    if name:
        path = folder / name
        path = path.with_stem(path.stem + suffix)
        with replacing(path) as partial:
            try:
                save_flushed({**evaluator.state(), "paths": list(paths)}, partial)
            except (OSError, RuntimeError) as error:
                raise not_written(path, error) from error
        logger.info("scores (%ss x classes), labels and paths saved to %s", problem.test.spec.noun, path)
    logger.info("one page that shows it all: videovit report %s", shlex.quote(str(folder)))
    if mistakes:
        title = "all mistakes, the most confident first"
        if len(mistakes) == NUM_WORST:
            title = f"the {NUM_WORST} most confident mistakes (for all of them, see the column correct of {table})"
        logger.info("%s:\n%s", title, format_mistakes(mistakes, problem.class_names))
    elif rows is not None:
        logger.info("no mistakes: the class with the highest score is right in every %s", problem.test.spec.noun)


def _format_result(evaluator: Evaluator, result: dict[str, float], noun: str) -> str:
    """The table of a test: its measures, and the numbers of samples and views that they are based on."""
    num_videos, num_views = int(result["num_videos"]), int(result["num_views"])
    total = num_videos + int(result["num_skipped"])
    return format_table(
        ["test", *evaluator.columns.values(), f"{noun}s", "views", "left out"],
        [
            [
                evaluator.views,
                *(f"{result[name]:.2f}" for name in evaluator.columns),
                f"{num_videos} of {total}",
                f"{num_views} of {num_views // num_videos * total}",
                int(result["num_skipped"]),
            ]
        ],
    )
