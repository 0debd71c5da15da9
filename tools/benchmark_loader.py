#!/usr/bin/env python3
"""Compare the training loader with the usual way to write one: the same clips of the same videos, in turns."""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

try:
    from videovit import cli
except ModuleNotFoundError as error:
    sys.exit(f"{error}; install the project into this Python: {sys.executable} -m pip install -e .")

import numpy as np
import simplejson
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor
from tqdm import tqdm

from videovit.config import Config
from videovit.data.build import ClipLoader, build_dataset
from videovit.data.dataset import RepeatedCrops
from videovit.data.decode import DecodeError, open_video
from videovit.data.files.video_files import find_videos
from videovit.data.order import EpochSampler
from videovit.data.records import Batch, Sample, collate
from videovit.data.transforms import spatial
from videovit.data.transforms.pil_operations import OPERATIONS
from videovit.data.transforms.pipeline import build_preparation, build_train_transform
from videovit.data.transforms.randaugment import RandAugment
from videovit.engine.reporting.log import format_table
from videovit.errors import UserError
from videovit.messages import plural

RECIPE = Path(__file__).resolve().parents[1] / "configs" / "Kinetics" / "MVIT_B_16x4_CONV.yaml"
BASELINE = "PIL and float transforms"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"All loaders decode alike and draw the same random numbers. '{BASELINE}': RandAugment on PIL images, "
        "then float tensors, normalized, cropped and mirrored in the workers. On a busy machine, trust the CPU time of "
        "all processes. The decoder's time limit is off, since it costs every loader the same.",
    )
    parser.add_argument("videos", nargs="+", metavar="LIST", help="lists (.csv, .txt), folders or video files")
    parser.add_argument("--cfg", default=str(RECIPE), metavar="FILE", help="recipe (%(default)s)")
    parser.add_argument("--num-sample", type=int, default=2, metavar="N", help="augmentations per clip (2)")
    parser.add_argument(
        "--repeat", type=int, default=25, metavar="N", help="repetitions of every video in a round (25)"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds that medians are taken over (3)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes (2)")
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="videos per batch (4)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to this file")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class FloatTransform:
    """The usual training transform: the draws of `build_train_transform`, in PySlowFast's order."""

    cfg: Config

    def __call__(self, frames_THWC: Tensor, rng: np.random.Generator) -> Tensor:
        """Returns normalized float32 frames (3, T, S, S)."""
        transform, data = build_train_transform(self.cfg), self.cfg.DATA
        plan = transform.augment.draw(rng) if isinstance(transform.augment, RandAugment) else []
        images = [Image.fromarray(frame) for frame in frames_THWC.numpy()]
        for step in plan:
            images = [OPERATIONS[step.name](image, step) for image in images]
        x_TCHW = torch.stack([to_tensor(image) for image in images])
        x_TCHW = (x_TCHW - torch.tensor(data.MEAN).view(3, 1, 1)) / torch.tensor(data.STD).view(3, 1, 1)
        height, width = x_TCHW.shape[2:]
        size = transform.crop_size
        if transform.area is not None:
            box = spatial.inception_box(height, width, rng, area=transform.area, aspect=transform.aspect)
        else:
            short = spatial.random_short_side(*transform.short_side, rng, inverse_uniform=transform.inverse_uniform)
            scale = short / min(height, width)
            height, width = max(int(height * scale), short), max(int(width * scale), short)
            x_TCHW = F.interpolate(x_TCHW, size=(height, width), mode="bilinear", align_corners=False)
            top, left = int(rng.integers(0, height - size + 1)), int(rng.integers(0, width - size + 1))
            box = spatial.Box(top, left, size, size)
        x_TCHW = x_TCHW[..., box.top : box.top + box.height, box.left : box.left + box.width]
        x_TCHW = F.interpolate(x_TCHW, size=(size, size), mode="bilinear", align_corners=False)
        if transform.flip_prob > 0 and rng.random() < transform.flip_prob:
            x_TCHW = x_TCHW.flip(3)
        return x_TCHW.transpose(0, 1).contiguous()


@dataclass(frozen=True)
class Way:
    """One way to make training batches: a loader, and the work that remains for a batch."""

    loader: ClipLoader
    finish: Callable[[Batch], Tensor]


def build_way(cfg: Config, samples: list[Sample], args: argparse.Namespace, *, usual: bool = False) -> Way:
    """The loader of a config, or with `usual` the common one with the same draws."""
    dataset = build_dataset(cfg, "train", samples)
    prepare = build_preparation(cfg, train=True)
    if usual:
        dataset._crops = RepeatedCrops(FloatTransform(cfg), cfg.AUG.NUM_SAMPLE)
    loader = ClipLoader(
        dataset,
        batch_size=args.batch,
        sampler=EpochSampler(len(samples), batch_size=args.batch, seed=cfg.RNG_SEED),
        num_workers=args.workers,
        collate_fn=collate,
        generator=torch.Generator(),
    )
    return Way(loader, lambda batch: batch.frames_BTHWC if usual else prepare(batch.frames_BTHWC, batch.erase_seeds_B))


def build_ways(cfg: Config, samples: list[Sample], args: argparse.Namespace) -> dict[str, Way]:
    """All ways, by name."""

    def variant(**aug: object) -> Config:
        return dataclasses.replace(cfg, AUG=dataclasses.replace(cfg.AUG, **aug))

    return {
        BASELINE: build_way(cfg, samples, args, usual=True),
        "ours, AUG.BACKEND pil": build_way(variant(BACKEND="pil"), samples, args),
        "ours, AUG.BACKEND fast": build_way(variant(BACKEND="fast"), samples, args),
        "ours, no RandAugment": build_way(variant(AA_TYPE="", COLOR_JITTER=0.0), samples, args),
    }


def read_all(way: Way, epoch: int) -> tuple[float, float, int]:
    """CPU and wall time in seconds, of all processes, and the number of clips of one epoch."""
    way.loader.sampler.set_epoch(epoch)
    before, start, num_clips = cpu_s(), time.perf_counter(), 0
    for batch in way.loader:
        num_clips += len(way.finish(batch))
    return cpu_s() - before, time.perf_counter() - start, num_clips


def cpu_s() -> float:
    """CPU time of this process and of the workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def mean_difference(ways: dict[str, Way], name: str, std: float) -> float:
    """Mean absolute difference between the first batch and the baseline's, in levels of 255."""
    first = []
    for way in (ways[BASELINE], ways[name]):
        way.loader.sampler.set_epoch(0)
        first.append(way.finish(next(iter(way.loader))))
    return float((first[0] - first[1]).abs().mean()) * 255.0 * std


def find_readable(names: list[str]) -> list[Sample]:
    """The videos that can be decoded; the others are named on stderr.

    Raises:
        UserError: no video can be decoded.
    """
    samples = []
    for video in find_videos(names):
        try:
            with open_video(video.path, "pyav") as opened:
                opened.frames(np.array([opened.num_frames - 1]))
            samples.append(Sample(video.path, 0))
        except DecodeError as error:
            print(f"left out, unreadable: {error}", file=sys.stderr)
    if not samples:
        raise UserError("none of the videos can be read")
    return samples


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    opts = ["AUG.NUM_SAMPLE", args.num_sample, "AUG.RE_PROB", 0, "DATA.DECODE_TIMEOUT_S", 0, *args.opts]
    cfg = cli.load(args.cfg, [str(word) for word in opts])
    samples = find_readable(args.videos) * args.repeat
    if len(samples) < args.batch:
        raise UserError(f"{plural(len(samples), 'video')} cannot fill one batch of {args.batch}; raise --repeat")
    ways = build_ways(cfg, samples, args)
    differences = {name: mean_difference(ways, name, float(np.mean(cfg.DATA.STD))) for name in ways}
    cpu_ms: dict[str, list[float]] = {name: [] for name in ways}
    clips_per_s: dict[str, list[float]] = {name: [] for name in ways}
    turns = [(turn, name) for turn in range(args.rounds) for name in np.roll(list(ways), turn).tolist()]
    for turn, name in tqdm(turns, desc="loader", unit="turn", disable=None):
        cpu, wall, num_clips = read_all(ways[name], turn)
        cpu_ms[name].append(1000 * cpu / num_clips)
        clips_per_s[name].append(num_clips / wall)
    results = [
        {
            "way": name,
            "cpu_ms_per_clip": statistics.median(cpu_ms[name]),
            "clips_per_cpu_s": 1000 / statistics.median(cpu_ms[name]),
            "clips_per_s": statistics.median(clips_per_s[name]),
            "times_baseline": statistics.median(np.divide(cpu_ms[BASELINE], cpu_ms[name]).tolist()),
            "mean_difference": differences[name] if "no RandAugment" not in name else float("nan"),
        }
        for name in ways
    ]
    title = f"{cfg.DATA.DECODING_BACKEND}, {args.num_sample} clips per video, {plural(args.workers, 'worker')}"
    header = [title, "CPU ms/clip", "clips per CPU s", "x per CPU s", "clips/s", "difference"]
    rows = [[row["way"], *(f"{row[key]:.3g}" for key in list(row)[1:])] for row in results]
    rows = [[name, cpu, rate, times, wall, gap] for name, cpu, rate, wall, times, gap in rows]
    print(format_table(header, rows))
    if args.json:
        Path(args.json).write_text(simplejson.dumps(results, indent=1, ignore_nan=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(cli.exit_code(main))
