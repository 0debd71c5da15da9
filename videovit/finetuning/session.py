"""`videovit.finetune`: data, recipe, training, test, report."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from videovit.config import Config, dump_config, load_config, with_opts
from videovit.engine import launch
from videovit.engine.checkpoints.weights import find_weights_file
from videovit.engine.distributed.lock import output_lock
from videovit.errors import UserError
from videovit.finetuning import recipes, trial
from videovit.finetuning.data import Divided, cpu_cores, prepare_data, read_videos
from videovit.finetuning.record import RECORD, check_same, describe_changes, file_states, read_record, write_record
from videovit.finetuning.report import report
from videovit.finetuning.request import Request
from videovit.messages import labeled, plural, printable

CONFIG = "config.yaml"
MOST_VALIDATIONS = 40  # on few videos epochs are short, and there are many


def finetune(
    data: str | Path = "",
    *,
    table: str | Path = "",
    path_column: str = "video",
    label_column: str = "label",
    split_column: str = "",
    multi_label: bool = False,
    model: str = "",
    cfg: str = "",
    from_scratch: bool = False,
    epochs: int | None = None,
    minutes: float | None = None,
    freeze: str | int = "",
    batch_size: int | None = None,
    output: str | Path = "",
    seed: int = 0,
    opts: Sequence[object] = (),
) -> dict[str, float]:
    """Train a classifier of own videos, test it, and print what it gets wrong.

    A call with the same arguments continues a run that was stopped.

    Args:
        data: a folder with a folder of videos (or images) per class, which may be in folders train, val and test.
        table: instead of `data`, a CSV or TSV file with a header and a row per video.
        path_column, label_column: columns of the table.
        split_column: column of train, val or test; empty to divide the videos here.
        multi_label: a row may name several classes, separated by | or ; or a comma.
        model: zoo:NAME, the OUTPUT_DIR of a run, or a weight file; by default the zoo's MViTv2-S, or DeiT-S for images.
        cfg: config of a weight file that has none beside it.
        from_scratch: train a small model without weights instead, or with `cfg` the model of that config.
        epochs: number of epochs; by default that of the recipe.
        minutes: choose the number of epochs so that the run takes about so long.
        freeze: what is not trained: backbone, or the number of layers from the input on.
        batch_size: videos per step; by default that of the recipe, less on few videos.
        output: folder of the run; by default output/ and the name of the data.
        seed: of the division and of the training.
        opts: KEY VALUE KEY VALUE ..., as in `load_config`.

    Returns:
        The measures of the test, such as top1_acc, in percent.

    Raises:
        UserError: data, model or arguments cannot be used.
        Preempted: a signal ended the run after training was saved.
    """
    return run(
        Request(
            data=str(data),
            table=str(table),
            path_column=path_column,
            label_column=label_column,
            split_column=split_column,
            multi_label=multi_label,
            model=model,
            cfg=cfg,
            from_scratch=from_scratch,
            epochs=epochs,
            minutes=minutes,
            freeze=str(freeze),
            batch_size=batch_size,
            output=str(output),
            seed=seed,
            opts=tuple(map(str, opts)),
        )
    )


def run(request: Request) -> dict[str, float]:
    """See `finetune`."""
    start = time.monotonic()
    request.check_source()
    folder = request.output_dir
    record = read_record(folder)
    if record is None:
        cfg = prepare(request, start=start)
    else:
        before, states = record
        check_same(before, request)
        cfg = load_config(folder / CONFIG, ["OUTPUT_DIR", folder, "DATA.PATH_TO_DATA_DIR", folder / "data"])
        _say(f"continuing the run in {folder}, with the same split")
        videos = read_videos(request).videos
        for line in describe_changes(states, file_states(videos, states)):
            _say(labeled("warning", f"{line}; to use the data as they are now, choose another folder by --output"))
    results = launch.run(cfg)
    report(cfg, _say)
    return results.get("test", {})


def _say(text: str) -> None:
    print(printable(text, keep_lines=True), flush=True)


def prepare(request: Request, *, start: float) -> Config:
    """Prepare the folder of the run: lists, config, and the record of both.

    Raises:
        UserError: data, model or arguments cannot be used, or another command works in the folder.
    """
    folder = request.output_dir
    read = read_videos(request)
    found = list(read.videos)
    recipe = recipes.find_recipe(request, images=read.images)
    build = functools.partial(
        recipes.build_run_config,
        request,
        recipe,
        images=read.images,
        multi_label=read.multi_label,
        num_classes=len(read.classes),
        gpu=torch.cuda.is_available(),
    )
    _check_weights(request, recipe)
    _check_keys(functools.partial(build, num_classes=max(2, len(read.classes))))  # a single class is named later
    # Of two commands at once, one would train on lists that the other has replaced.
    with output_lock(folder):
        if (folder / RECORD).exists():
            hint = "Repeat the command to continue that run, or choose another folder by --output"
            raise UserError("another command has prepared a run here", where=folder, hint=hint)
        divided = prepare_data(
            read,
            folder / "data",
            seed=request.seed,
            workers=cpu_cores(),
            quiet=not sys.stderr.isatty(),
            say=_say,
        )
        cfg = build(validate="val" in divided)
        cfg = _fit_to_machine(cfg, request, recipe, divided, start=start)
        partial = folder / f".{CONFIG}.tmp"
        partial.write_text(dump_config(cfg), encoding="utf-8")
        partial.replace(folder / CONFIG)
        write_record(folder, request, file_states(found))
    return cfg


def _check_weights(request: Request, recipe: recipes.Recipe) -> None:
    """Download the weights before the videos are opened, to fail early without a network.

    Raises:
        UserError: they are not available; the message names the command that trains without.
    """
    if request.from_scratch:
        return
    try:
        _, weights = recipes.find_model(request.model or recipe.model, request.cfg)
        find_weights_file(weights)
    except UserError as error:
        command = recipes.scratch_command(request)
        raise UserError(f"{error}\nTo train a small model without weights instead: {command}") from None


def _check_keys(build: Callable[..., Config]) -> None:
    """Fail early: name wrong keys and values before every video is opened.

    Raises:
        UserError: there are some.
    """
    try:
        build(validate=True)
    except UserError:
        build(validate=False)  # the division will show which; what is wrong with both is wrong anyhow


def _fit_to_machine(cfg: Config, request: Request, recipe: recipes.Recipe, divided: Divided, *, start: float) -> Config:
    """Choose the batch and the number of epochs, and print them."""
    sizes = {split: len(videos) for split, videos in divided.items()}
    given = set(request.opts[::2])
    trained = _with(cfg, {"TRAIN.CHECKPOINT_FILE_PATH": ""})
    cost = trial.measure(_with(trained, {"TRAIN.BATCH_SIZE": 1, "TRAIN.GRAD_ACCUM_STEPS": 1}))
    size = cfg.TRAIN.BATCH_SIZE if "TRAIN.BATCH_SIZE" in given else request.batch_size
    batches = trial.choose_batch(cfg, cost, num_train=sizes["train"], size=size)
    keys = {key: value for key, value in batches.keys().items() if key not in given}
    cfg = _with(cfg, keys)
    cost = trial.measure_pace(_with(trained, keys), cost)
    parts = f", computed in {cfg.TRAIN.GRAD_ACCUM_STEPS} parts" if cfg.TRAIN.GRAD_ACCUM_STEPS > 1 else ""
    memory = (
        f"about {cost.mib:,.0f} MiB each, {cost.free_mib:,.0f} MiB free"
        if cost.free_mib
        else f"{cost.mib:,.0f} MiB each"
    )
    _say(f"batch: {plural(cfg.TRAIN.BATCH_SIZE, 'video')} per step{parts} ({memory}), BASE_LR {cfg.SOLVER.BASE_LR:g}")
    if "SOLVER.MAX_EPOCH" not in given:
        epochs = request.epochs or trial.choose_epochs(
            cfg,
            cost,
            sizes=sizes,
            least_steps=recipe.least_steps,
            most=recipes.MOST_EPOCHS,
            seconds=None if request.minutes is None else 60 * request.minutes - (time.monotonic() - start),
        )
        period = max(1, round(epochs / MOST_VALIDATIONS))
        keys = {
            "SOLVER.MAX_EPOCH": epochs,
            "SOLVER.WARMUP_EPOCHS": min(cfg.SOLVER.WARMUP_EPOCHS, epochs / 4),
            "TRAIN.EVAL_PERIOD": min(1, cfg.TRAIN.EVAL_PERIOD) * period,
            "TRAIN.CHECKPOINT_PERIOD": period,
        }
        cfg = _with(cfg, {key: value for key, value in keys.items() if key not in given})
    seconds = trial.run_seconds(cfg, cost, epochs=cfg.SOLVER.MAX_EPOCH, sizes=sizes)
    _say(
        f"epochs: {cfg.SOLVER.MAX_EPOCH}, about {_minutes(seconds)} on this machine "
        f"({1000 * cost.train_s:,.0f} ms per training video, {1000 * cost.read_s:,.0f} ms to read it)"
    )
    if request.minutes is not None and seconds + time.monotonic() - start > 66 * request.minutes:
        _say(labeled("warning", f"even a single epoch takes longer than --minutes {request.minutes:g}"))
    return cfg


def _with(cfg: Config, keys: dict[str, object]) -> Config:
    return with_opts(cfg, recipes.as_opts(keys))


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"
