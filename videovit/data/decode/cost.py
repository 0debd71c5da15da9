"""Decoding cost: several readers of the same clips take turns, so that they see the same load on the machine."""

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
from videovit.data.sampling import ClockPlan
from videovit.errors import UserError
from videovit.messages import plural

Job = tuple[str, list[Indices]]
"""A file and the frame indices of each clip to read from it."""

Way = Callable[[str, list[Indices]], object]
"""Reads the clips of a job."""


@dataclass(frozen=True)
class Cost:
    """Cost of one reader; medians over rounds.

    Attributes:
        cpu_ms: CPU time per clip of all threads, in milliseconds; comparable even on a busy machine.
        clips_per_s: clips decoded per second of wall time, sequentially in one process.
        num_clips: clips per round.
        cpu_ms_rounds: `cpu_ms` of every round.
    """

    cpu_ms: float
    clips_per_s: float
    num_clips: int
    cpu_ms_rounds: tuple[float, ...]


def plan_jobs(samples: Sequence[Sample], plan: ClockPlan, *, seed: int = 0) -> tuple[list[Job], list[str]]:
    """The clips of each video as a data set would draw them, and the paths of unreadable videos."""
    jobs, unreadable = [], []
    for index, sample in enumerate(samples):
        try:
            # PyAV is exact about the number of frames, so all readers get the same indices.
            with open_video(sample.path, "pyav") as video:
                rng = np.random.default_rng([seed, index])
                jobs.append((sample.path, plan.clips(video, rng)))
        except DecodeError:
            unreadable.append(sample.path)
    return jobs, unreadable


def read_once(backend: str, options: DecodeOptions = DEFAULTS) -> Way:
    """A reader that works like ClipDataset: all frames of all clips in one pass over the video."""

    def read(path: str, clips: list[Indices]) -> object:
        with open_video(path, backend, options) as video:
            # Overlapping clips share frames.
            return video.frames(np.unique(np.concatenate(clips)))

    return read


def measure_ways(ways: Mapping[str, Way], jobs: Sequence[Job], *, rounds: int = 5) -> dict[str, Cost]:
    """Time several readers on the same clips, after one warm-up round.

    Args:
        ways: the readers by name. Their order rotates from file to file.
        jobs: what each of them reads per round.
        rounds: number of measured rounds.
    """
    names = list(ways)
    num_clips = sum(len(clips) for _, clips in jobs)
    cpu: dict[str, list[float]] = {name: [] for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        sums = {name: [0.0, 0.0] for name in names}
        for place, (path, clips) in enumerate(jobs):
            # Rotating the order cancels effects of caches and clock frequency.
            shift = (turn + place) % len(names)
            for name in names[shift:] + names[:shift]:
                before = _cpu_s(), time.perf_counter()
                ways[name](path, clips)
                sums[name][0] += _cpu_s() - before[0]
                sums[name][1] += time.perf_counter() - before[1]
        # The first round warms up.
        for name in names if turn else []:
            cpu[name].append(1000 * sums[name][0] / num_clips)
            # A coarse clock may measure no time at all.
            wall[name].append(num_clips / max(sums[name][1], 1e-9))
    return {
        name: Cost(statistics.median(cpu[name]), statistics.median(wall[name]), num_clips, tuple(cpu[name]))
        for name in names
    }


def measure_decode(
    samples: Sequence[Sample],
    plan: ClockPlan,
    backend: str,
    *,
    options: DecodeOptions = DEFAULTS,
    rounds: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """Measure decoding as the data set does it, in this process and without a time limit.

    Args:
        samples: videos; unreadable ones are skipped.
        plan: draws the clips of a video.
        backend: name of the decoder.
        options: options of the decoder.
        rounds: number of measured rounds, whose medians are returned.
        seed: seed of the plan.

    Returns:
        cpu_ms (per clip), clips_per_s, num_clips (per round), num_videos, num_unreadable.

    Raises:
        UserError: none of the videos can be read.
    """
    # Frames are chosen before the clock starts.
    jobs, unreadable = plan_jobs(samples, plan, seed=seed)
    if not jobs:
        raise UserError(f"none of the {plural(len(samples), 'video')} can be read")
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
