#!/usr/bin/env python3
"""Compare decoding speed with other libraries: the same clips of the same videos, in turns, in one process."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    from videovit import cli
except ModuleNotFoundError as error:
    sys.exit(f"{error}; install the project into this Python: {sys.executable} -m pip install -e .")

import av
import numpy as np
import simplejson
import torch

from videovit.data.decode.cost import Job, Way, measure_ways, plan_jobs, read_once
from videovit.data.decode.decord_backend import FOUND_SAFE, load_decord
from videovit.data.decode.protocol import Indices, shorten
from videovit.data.decode.pyav_backend import TABLES
from videovit.data.decode.torchcodec_backend import load_torchcodec
from videovit.data.files.video_files import find_videos
from videovit.data.records import Sample
from videovit.data.sampling import ClockPlan, EvenSpans, RandomSpans
from videovit.engine.reporting.log import format_table
from videovit.errors import UserError
from videovit.messages import plural

BASELINE = "decord"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="On a busy machine, trust the CPU time of all threads. 'x decord' is its ratio to decord, opened anew "
        "for every clip. What is known about a file is dropped before it is read, except in the rows 'known file'.",
    )
    parser.add_argument("videos", nargs="+", metavar="LIST", help="lists (.csv, .txt), folders or video files")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 10], metavar="N", help="clips per video (1 10)")
    parser.add_argument("--frames", type=int, default=16, metavar="T", help="frames per clip (16)")
    parser.add_argument("--stride", type=int, default=4, metavar="N", help="frames between two frames of a clip (4)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds that medians are taken over (5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the places of single clips (0)")
    parser.add_argument("--late", action="store_true", help="take single clips from the second half of the videos")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to this file")
    return parser.parse_args(argv)


def decord_per_clip(decord: Any) -> Way:
    """decord: one reader per clip, one thread."""

    def read(path: str, clips: list[Indices]) -> object:
        return [
            decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1).get_batch(clip.tolist()).asnumpy()
            for clip in clips
        ]

    return read


def decord_in_memory(decord: Any) -> Way:
    """decord as in mmaction2: the whole file in memory, one reader, one batch of all clips, a list of images."""

    def read(path: str, clips: list[Indices]) -> object:
        reader = decord.VideoReader(io.BytesIO(Path(path).read_bytes()), num_threads=1)
        return list(reader.get_batch(np.concatenate(clips).tolist()).asnumpy())

    return read


def pyav_in_full(path: str, clips: list[Indices]) -> object:
    """PyAV without seeking or skipping: decodes everything up to the last wanted frame."""
    wanted = set(np.concatenate(clips).tolist())
    last = max(wanted)
    images = []
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                images.append(frame.to_ndarray(format="rgb24", threads=1))
            if index == last:
                break
    return images


def torchcodec_exact(decoder: Any) -> Way:
    """torchcodec: one decoder, all frames in one call."""

    def read(path: str, clips: list[Indices]) -> object:
        video = decoder(path, seek_mode="exact", num_ffmpeg_threads=1)
        return video.get_frames_at(np.unique(np.concatenate(clips)).tolist()).data

    return read


def without_cache(way: Way) -> Way:
    """One of our ways, without what is cached about a file that was read before."""

    def read(path: str, clips: list[Indices]) -> object:
        FOUND_SAFE.pop(path, None)
        TABLES.drop(path)
        return way(path, clips)

    return read


def readable_jobs(ways: Mapping[str, Way], jobs: Sequence[Job]) -> list[Job]:
    """The jobs that every way can read; the others are named on stderr. decord, for one, cannot read AV1."""
    decord = load_decord()
    errors = (
        RuntimeError,
        ValueError,
        OSError,
        IndexError,
        *([decord.DECORDError, decord.DECORDLimitReachedError] if decord else []),
    )
    kept = []
    for path, clips in jobs:
        for name, way in ways.items():
            try:
                way(path, clips)
            except errors as error:
                print(f"left out, {name} cannot read it: {path}: {shorten(error)}", file=sys.stderr)
                break
        else:
            kept.append((path, clips))
    return kept


def find_ways() -> dict[str, Way]:
    """The ways whose libraries are installed, by name."""
    ways: dict[str, Way] = {}
    decord = load_decord()
    if decord is not None:
        ways[BASELINE] = decord_per_clip(decord)
        ways["decord as in mmaction2"] = decord_in_memory(decord)
    ways["PyAV in full"] = pyav_in_full
    try:
        ways["torchcodec exact"] = torchcodec_exact(load_torchcodec())
    except UserError as error:
        print(f"left out: {error}", file=sys.stderr)
    ways["ours, decord (default)"] = without_cache(read_once("decord"))
    ways["ours, decord, known file"] = read_once("decord")
    ways["ours, pyav"] = without_cache(read_once("pyav"))
    ways["ours, pyav, known file"] = read_once("pyav")
    return ways


class SecondHalf(ClockPlan):
    """A plan applied to the second half of a video."""

    def __init__(self, plan: ClockPlan) -> None:
        self.plan, self.target_fps = plan, plan.target_fps

    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[Indices]:
        """The clips of `plan` in the frames from the middle on."""
        first = num_frames // 2
        return [clip_T + first for clip_T in self.plan(num_frames - first, fps, rng)]


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    samples = [Sample(video.path, 0) for video in find_videos(args.videos)]
    ways = find_ways()
    results = []
    for views in args.views:
        plan: ClockPlan = RandomSpans(args.frames, args.stride, 30.0)
        if views > 1:
            plan = EvenSpans(args.frames, args.stride, 30.0, num_clips=views)
        jobs, unreadable = plan_jobs(samples, SecondHalf(plan) if args.late else plan, seed=args.seed)
        for path in unreadable:
            print(f"left out, unreadable: {path}", file=sys.stderr)
        jobs = readable_jobs(ways, jobs)
        if not jobs:
            raise UserError("none of the videos can be read by all libraries")
        costs = measure_ways(ways, jobs, rounds=args.rounds)
        base = costs[BASELINE].cpu_ms if BASELINE in costs else float("nan")
        title = f"{views} x {args.frames}x{args.stride}, {plural(len(jobs), 'video')}"
        rows = [[n, f"{c.cpu_ms:.1f}", f"{c.cpu_ms / base:.2f}", f"{c.clips_per_s:.1f}"] for n, c in costs.items()]
        print(format_table([title, "CPU ms/clip", "x decord", "clips/s"], rows) + "\n")
        results += [{"views": views, "way": name, **vars(cost)} for name, cost in costs.items()]
    if args.json:
        Path(args.json).write_text(simplejson.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(cli.exit_code(main))
