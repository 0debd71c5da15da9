"""What decoding costs: several ways to read the same clips, taking turns, so that they see the same machine."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from videovit.data.decode import DecodeError, DecodeOptions, open_video
from videovit.data.decode.protocol import DEFAULTS, Indices
from videovit.data.records import Sample
from videovit.data.sampling import ClipPlan

Job = tuple[str, list[Indices]]
"""A file, and the frame indices of each clip that is wanted of it."""

Way = Callable[[str, list[Indices]], object]
"""Reads the clips of a job."""


@dataclass(frozen=True)
class Cost:
    """Of one way of decoding; medians over rounds.

    Attributes:
        cpu_ms: CPU time per clip, all threads, milliseconds: the number to trust on a machine that does other work.
        clips_per_s: clips decoded in a second of wall time, one after the other in one process.
        num_clips: clips of a round.
        cpu_ms_rounds: of every round.
    """

    cpu_ms: float
    clips_per_s: float
    num_clips: int
    cpu_ms_rounds: tuple[float, ...]


def plan_jobs(samples: Sequence[Sample], plan: ClipPlan, *, seed: int = 0) -> tuple[list[Job], list[str]]:
    """The clips of each video, as a data set would draw them; and the videos that cannot be read."""
    jobs, unreadable = [], []
    for index, sample in enumerate(samples):
        try:
            with open_video(sample.path, "pyav") as video:
                rng = np.random.default_rng([seed, index])
                jobs.append((sample.path, plan(video.num_frames, video.fps, rng)))
        except DecodeError:
            unreadable.append(sample.path)
    return jobs, unreadable


def read_once(backend: str, options: DecodeOptions = DEFAULTS) -> Way:
    """The way of our data sets: all frames of all clips in one pass over the video."""

    def read(path: str, clips: list[Indices]) -> object:
        with open_video(path, backend, options) as video:
            return video.frames(np.unique(np.concatenate(clips)))

    return read


def measure_ways(ways: Mapping[str, Way], jobs: Sequence[Job], *, rounds: int = 5) -> dict[str, Cost]:
    """Time several ways of reading the same clips; one round before is not counted.

    Args:
        ways: by name.
        jobs: what each of them reads in a round; the order of the ways changes from file to file.
        rounds: how often.
    """
    names = list(ways)
    num_clips = sum(len(clips) for _, clips in jobs)
    cpu: dict[str, list[float]] = {name: [] for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        sums = {name: [0.0, 0.0] for name in names}
        for place, (path, clips) in enumerate(jobs):
            shift = (turn + place) % len(names)
            for name in names[shift:] + names[:shift]:
                before = _cpu_s(), time.perf_counter()
                ways[name](path, clips)
                sums[name][0] += _cpu_s() - before[0]
                sums[name][1] += time.perf_counter() - before[1]
        for name in names if turn else []:
            cpu[name].append(1000 * sums[name][0] / num_clips)
            wall[name].append(num_clips / max(sums[name][1], 1e-9))
    return {
        name: Cost(statistics.median(cpu[name]), statistics.median(wall[name]), num_clips, tuple(cpu[name]))
        for name in names
    }


def measure_decode(
    samples: Sequence[Sample],
    plan: ClipPlan,
    backend: str,
    *,
    options: DecodeOptions = DEFAULTS,
    rounds: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """The cost of decoding videos as the data set does, in this process, without a time limit.

    Args:
        samples: videos; those that cannot be read are left out.
        plan: draws the clips of a video.
        backend: name of the decoder.
        options: of the decoder.
        rounds: how often; medians are returned.
        seed: of the plan.

    Returns:
        cpu_ms (per clip), clips_per_s, num_clips (a round), num_videos, num_unreadable.

    Raises:
        ValueError: none of the videos can be read.
    """
    jobs, unreadable = plan_jobs(samples, plan, seed=seed)
    if not jobs:
        raise ValueError(f"none of the {len(samples)} videos can be read")
    cost = measure_ways({backend: read_once(backend, options)}, jobs, rounds=rounds)[backend]
    return {
        "cpu_ms": cost.cpu_ms,
        "clips_per_s": cost.clips_per_s,
        "num_clips": cost.num_clips,
        "num_videos": len(jobs),
        "num_unreadable": len(unreadable),
    }


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
