#!/usr/bin/env python3
"""Measure what lists of many videos cost: seconds and MB to read, order, share with workers, and record results."""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

try:
    from videovit import cli
except ModuleNotFoundError as error:
    sys.exit(f"{error}; install the project into this Python: {sys.executable} -m pip install -e .")

import numpy as np
import torch

from videovit.data.build import describe_train_list
from videovit.data.order import EpochSampler
from videovit.data.readers import kinetics
from videovit.data.readers.ava import BoxRules, key_frames, read_boxes
from videovit.data.records import Failure, Sample
from videovit.data.sample_list import Paths, SampleList, labels_of
from videovit.engine.checkpoints.train_list import list_digest
from videovit.engine.evaluation.predictions import write_predictions
from videovit.engine.evaluation.view_ensemble import TopK
from videovit.engine.training.bad_sample_list import BadSamples

NUM_CLASSES, PREFIX = 400, "/data/k400"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="processes that share a list (default 8)")
    parser.add_argument("--classes", type=int, default=40, metavar="K", help="classes of the metrics (default 40)")
    return parser.parse_args(argv)


def write_lists(folder: Path, number: int) -> None:
    """A list like that of Kinetics, and a box file like that of AVA with two lines per video."""
    rng = random.Random(0)
    with open(folder / "train.csv", "w", encoding="utf-8") as file:
        for row in range(number):
            label, name = rng.randrange(NUM_CLASSES), "".join(rng.choices(LETTERS, k=11))
            file.write(f"name_of_class_{label:03d}/{name}_{row % 1000:06d}_{row % 1000 + 10:06d}.mp4 {label}\n")
    with open(folder / "boxes.csv", "w", encoding="utf-8") as file:
        for row in range(number):
            box = f"v{row // 3600:03d},{900 + row // 4 % 900:04d},{row % 97 / 200:.3f},0.118,0.714,0.97{row % 10}"
            file.writelines(f"{box},{action},{row % 4}\n" for action in (row % 40 + 1, row % 40 + 41))


def measured(call: Callable[[], object]) -> dict[str, float]:
    """Seconds of CPU and MB in a process of its own: the peak while it runs, and what stays."""
    ours, theirs = multiprocessing.Pipe()

    def run() -> None:
        before, start = memory_mb("Rss"), time.process_time()
        kept = call()
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        theirs.send({"s": seconds, "peak MB": peak - before, "kept MB": memory_mb("Rss") - before})
        del kept

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    found: dict[str, float] = ours.recv()
    process.join()
    return found


def memory_mb(kind: str) -> float:
    """Rss (all), Pss (shared pages divided by the processes that share them) or private memory of this process."""
    total = 0
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        for line in file:
            name = line.split(":")[0]
            if name == kind or (kind == "Private" and name in ("Private_Clean", "Private_Dirty")):
                total += int(line.split()[1])
    return total / 1024


def share(samples: SampleList | list[Sample], num_workers: int) -> dict[str, float]:
    """MB by which a worker grows when it goes through all videos in random order: mean of all workers."""
    context = multiprocessing.get_context("fork")
    queue, ready = context.SimpleQueue(), context.Barrier(num_workers)
    # The order belongs to the main process.
    order_WN = [np.random.default_rng(worker).permutation(len(samples)) for worker in range(num_workers)]

    def work(worker: int) -> None:
        private, share = memory_mb("Private"), memory_mb("Pss")
        start = time.process_time()
        for index in order_WN[worker]:
            _ = samples[int(index)]
        seconds = time.process_time() - start
        ready.wait()  # shared pages count for all
        queue.put((memory_mb("Private") - private, memory_mb("Pss") - share, seconds))
        ready.wait()

    processes = [context.Process(target=work, args=(worker,)) for worker in range(num_workers)]
    for process in processes:
        process.start()
    found = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    private, shared, seconds = (sum(column) / num_workers for column in zip(*found, strict=True))
    return {"private MB": private, "PSS MB": shared, "us per video": 1e6 * seconds / len(samples)}


def rows_of(folder: Path, args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    path = folder / "train.csv"
    samples = kinetics.read(path, num_classes=NUM_CLASSES, prefix=PREFIX)
    number = len(samples)

    def read() -> object:
        return kinetics.read(path, num_classes=NUM_CLASSES, prefix=PREFIX)

    def read_first() -> object:
        path.with_name("train.csv.columns").unlink(missing_ok=True)
        return read()

    def bad_samples() -> object:
        bad = BadSamples(folder, num_samples=number, max_fraction=1.0)
        bad.record(
            [Failure(path, "damaged, or not a video file", "pyav") for path in samples.paths_between(0, number // 100)]
        )
        bad.sync()
        return bad

    def metrics() -> TopK:
        scored = TopK(num_videos=number, num_views=1, num_classes=args.classes)
        labels = torch.from_numpy(labels_of(samples)) % args.classes
        for start in range(0, number, 64):
            videos_B = torch.arange(start, min(start + 64, number))
            batch = SimpleNamespace(labels=labels[videos_B], videos_B=videos_B, views_B=torch.zeros_like(videos_B))
            scored.update(torch.rand(len(videos_B), args.classes), batch)  # type: ignore[arg-type]
        scored.result()
        return scored

    def predictions() -> object:
        scored = TopK(num_videos=number, num_views=1, num_classes=args.classes)
        scored.seen_VN[:], scored.labels[:] = True, 1
        names = [f"class {k}" for k in range(args.classes)]
        return write_predictions(folder / "predictions.csv", scored.predictions_of(Paths(samples)), names)

    def boxes() -> object:
        rows = read_boxes(folder / "boxes.csv", BoxRules(80, (900.0, 1800.0)), scored=False)
        return SampleList.of(
            key_frames(rows, {name: Sample(f"/m/{name}.mkv") for name in sorted({row.key[0] for row in rows})})
        )

    return {
        "read the list for the first time": read_first,
        "read it again": read,
        "digest": lambda: list_digest(samples, [PREFIX]),
        "describe": lambda: describe_train_list(samples, num_classes=NUM_CLASSES, videos_per_step=64),
        "order of an epoch": lambda: sum(1 for _ in EpochSampler(number, batch_size=8, seed=1)),
        "balanced order": lambda: sum(
            1 for _ in EpochSampler(number, batch_size=8, seed=1, classes=labels_of(samples))
        ),
        "list of bad videos, 1 % bad": bad_samples,
        f"top-k of {args.classes} classes": metrics,
        "predictions.csv": predictions,
        "AVA: read two box lines per video": boxes,
    }


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    logging.getLogger("videovit").setLevel(logging.ERROR)  # every bad video is a line
    torch.set_num_threads(1)
    for number in args.videos:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_lists(folder, number)
            for row, call in rows_of(folder, args).items():
                print(json.dumps({"videos": number, "row": row, **{k: round(v, 2) for k, v in measured(call).items()}}))
            samples = kinetics.read(folder / "train.csv", num_classes=NUM_CLASSES, prefix=PREFIX)
            size = sum(array.nbytes for array in samples._columns.values()) / number
            shared = {k: round(v, 1) for k, v in share(samples, args.workers).items()}
            print(
                json.dumps(
                    {"videos": number, "row": f"{args.workers} workers", "bytes per video": round(size, 1), **shared}
                )
            )
            usual = {k: round(v, 1) for k, v in share(list(samples), args.workers).items()}
            print(
                json.dumps({"videos": number, "row": f"{args.workers} workers, list of objects", **usual}), flush=True
            )


if __name__ == "__main__":
    sys.exit(cli.exit_code(main))
