"""Features of many videos, in files: by several processes on several machines, and through restarts.

The list is divided into blocks (`feature_files`). Every process takes its share of those that are not complete; nothing
is exchanged while they work. Whoever completes the last block writes the index.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejson
import torch
from torch import nn

from videovit.engine import distributed
from videovit.engine.checkpoints.saved_model import describe_input
from videovit.engine.checkpoints.weights import build_seeded_model, load_weights_to_test, test_dtype
from videovit.engine.distributed import preemption
from videovit.engine.distributed.lock import output_lock
from videovit.engine.distributed.preemption import Preempted
from videovit.engine.problem import Problem
from videovit.engine.reporting.json_lines import replacing
from videovit.engine.reporting.log import logger
from videovit.engine.run_context import Run, record_config
from videovit.engine.tasks.feature_files import (
    CONFIG,
    DTYPES,
    SETTINGS,
    UNREADABLE,
    Block,
    Layout,
    Rows,
    import_h5py,
    write_index,
)
from videovit.engine.tasks.feature_rows import Extractor, VideoRows
from videovit.engine.tasks.inputs import list_videos, refuse_detector
from videovit.engine.tasks.predict import Predictor
from videovit.errors import UserError
from videovit.messages import plural

MOST_PER_BLOCK = 1000  # videos; of maps fewer, which take more room
MOST_MAPS_PER_BLOCK = 20
BLOCKS_PER_PROCESS = 4  # at least: processes then end at about the same time


def features(problem: Problem, run: Run) -> dict[str, float]:
    """Write what `FEATURES` describes to OUTPUT_DIR; continues what was left.

    Returns:
        Numbers of this process: `videos`, `clips` and `clips_per_s`; and `unreadable` of all, once all are complete.

    Raises:
        UserError: there are no videos, none of them can be read, the folder holds other features, or it cannot be
            written.
        Preempted: a signal ended the work; what was computed is in the folder.
    """
    cfg, section = problem.cfg, problem.cfg.FEATURES
    refuse_detector(cfg)
    if not section.VIDEOS:
        raise UserError("no videos to read", where="FEATURES.VIDEOS", expected="lists, folders or files")
    if section.FORMAT == "hdf5":
        import_h5py()
    paths = list_videos(cfg, section.VIDEOS)
    model = build_seeded_model(cfg, run.device)
    checkpoint = load_weights_to_test(cfg, model)
    predictor = Predictor(cfg, model, run.device, class_names=[""] * cfg.MODEL.NUM_CLASSES)
    extractor = Extractor(cfg, predictor)
    with output_lock(Path(cfg.OUTPUT_DIR)):
        settings = _settings(problem, paths, model, checkpoint, extractor)
        layout = Layout(
            folder=Path(cfg.OUTPUT_DIR),
            paths=paths,
            format=section.FORMAT,
            dtype=section.DTYPE,
            row_shape=extractor.row_shape,
            one_row=extractor.one_row,
            per_block=_agreed(lambda: _begin(problem, run, settings)),
        )
        unfinished = distributed.gather(layout.unfinished())[0]
        result = _extract(layout, extractor, run, unfinished[run.rank :: run.world_size])
        if not layout.unfinished():
            result |= _end(layout)
    run.log.stats("features", {**result, "checkpoint": checkpoint}, step=cfg.SOLVER.MAX_EPOCH)
    return result


def _extract(layout: Layout, extractor: Extractor, run: Run, numbers: Sequence[int]) -> dict[str, float]:
    """Complete blocks; returns what this process has done."""
    blocks: dict[int, Block] = {}
    total = sum(len(layout.videos_of(number)) for number in numbers)
    kept = 0
    for number in numbers:
        if layout.part(number, ".open.jsonl").is_file():
            blocks[number] = Block(layout, number)
            kept += len(blocks[number].done)

    def jobs() -> Iterator[tuple[int, str]]:
        for number in numbers:
            done = blocks[number].done if number in blocks else ()
            yield from ((video, layout.paths[video]) for video in layout.videos_of(number) if video not in done)

    def finish(number: int) -> None:
        if len(blocks[number].done) == len(layout.videos_of(number)):
            blocks.pop(number).finish()

    for number in list(blocks):  # left between the last video and the files
        finish(number)
    progress = run.progress("features", total, first=kept)
    computed = 0
    for _, video in progress.over(extractor.videos(jobs())):
        number = video.number // layout.per_block
        if number not in blocks:
            blocks[number] = Block(layout, number)
        _add(blocks[number], layout, extractor, video)
        finish(number)
        computed += 1
        progress.count(video.num_clips)
        signals = preemption.installed()
        if signals is not None and signals.requested():
            raise Preempted(signals.requested(), str(layout.folder))
    return {
        "videos": float(computed),
        "clips": float(progress.num_clips),
        "clips_per_s": progress.num_clips / progress.elapsed_s,
    }


def _add(block: Block, layout: Layout, extractor: Extractor, video: VideoRows) -> None:
    if video.error:
        block.add({"video": video.number, "path": video.path, "error": video.error})
        return
    rows: Rows = extractor.joined(video).numpy()
    with np.errstate(over="ignore"):
        rows = rows.astype(DTYPES[layout.dtype])
    if not np.isfinite(rows).all():
        raise UserError("features are too large for f16", where=video.path, hint="Set FEATURES.DTYPE f32")
    times = {"start_s": [round(s, 6) for s in video.start_s], "end_s": [round(s, 6) for s in video.end_s]}
    block.add({"video": video.number, "path": video.path, "fps": video.fps, **times}, rows)


def _end(layout: Layout) -> dict[str, float]:
    """Write the index, and say what is in it.

    Raises:
        UserError: no video could be read.
    """
    readable, unreadable = write_index(layout)
    layout.tidy()
    if unreadable:
        logger.warning("%s could not be read: %s", plural(unreadable, "video"), layout.folder / UNREADABLE)
    if not readable:
        raise UserError("none of the videos could be read", where=layout.folder / UNREADABLE)
    shape = " x ".join(map(str, layout.row_shape))
    logger.info("%s, rows of %s (%s): %s", plural(readable, "video"), shape, layout.dtype, layout.folder)
    return {"readable": float(readable), "unreadable": float(unreadable)}


def digest_of_weights(model: nn.Module) -> str:
    """A number that changes with any weight of a model."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _settings(
    problem: Problem, paths: Sequence[str], model: nn.Module, checkpoint: str, extractor: Extractor
) -> dict[str, Any]:
    """Everything that the features depend on."""
    cfg, section = problem.cfg, problem.cfg.FEATURES
    videos = hashlib.sha256()
    for path in paths:
        videos.update(path.encode(errors="surrogatepass") + b"\0")
    return {
        "model": cfg.MODEL.MODEL_NAME,
        "checkpoint": checkpoint,
        "weights": digest_of_weights(model),
        "precision": str(test_dtype(cfg) or "fp32").removeprefix("torch."),
        "engine": cfg.TEST.ENGINE,
        "input": describe_input(cfg),
        "layer": section.LAYER,
        "window_s": section.WINDOW_S,
        "stride_s": section.STRIDE_S or (0.0 if section.WINDOW_S else cfg.PREDICT.WINDOW_STRIDE_S),
        "dtype": section.DTYPE,
        "format": section.FORMAT,
        "row_shape": list(extractor.row_shape),
        "num_videos": len(paths),
        "videos": videos.hexdigest(),
        "per_shard": section.PER_SHARD,
    }


def _agreed(compute: Callable[[], int]) -> int:
    """A number that rank 0 computes; its error is raised on all ranks. A collective call."""
    number, problem = 0, ""
    if distributed.rank() == 0:
        try:
            number = compute()
        except UserError as error:
            problem = str(error)
    number, problem = distributed.gather((number, problem))[0]
    if problem:
        raise UserError(problem)
    return number


def _begin(problem: Problem, run: Run, settings: dict[str, Any]) -> int:
    """Record the settings, or compare them with those of the folder; returns the number of videos of a block."""
    folder = Path(problem.cfg.OUTPUT_DIR)
    path = folder / SETTINGS
    chosen = int(settings["per_shard"])
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            settings["per_shard"] = chosen or int(before["per_shard"])
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"damaged: {error}", where=path, hint="Choose another folder") from error
        # As JSON has them: tuples are lists there.
        now = json.loads(json.dumps(settings))
        changed = [key for key in now if key != "checkpoint" and before.get(key) != now[key]]
        if changed:
            key = changed[0]
            raise UserError(
                f"the folder holds other features: {key} was {before.get(key)!r}, and is {now[key]!r} now",
                where=folder,
                hint="Choose another folder",
            )
        return int(before["per_shard"])
    most = MOST_PER_BLOCK if len(settings["row_shape"]) == 1 else MOST_MAPS_PER_BLOCK
    even = -(-int(settings["num_videos"]) // (BLOCKS_PER_PROCESS * run.world_size))
    settings["per_shard"] = chosen or min(most, even)
    record_config(problem.cfg, run, CONFIG)
    with replacing(path) as partial:
        partial.write_text(simplejson.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return int(settings["per_shard"])
