"""How fast is it: the model alone, the training step, the loader, decoding, averaging gradients (`BENCHMARK.WHAT`).

Times are medians over steps after a warm-up; on a GPU by CUDA events. Share of peak is the multiply-adds of the model
against the fastest matrix product that this machine shows in the same run, in the same number type.
"""

from __future__ import annotations

import dataclasses
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videovit.config import Config
from videovit.data.build import build_decode_options, build_loader, read_samples
from videovit.data.decode.timing import measure_decode
from videovit.data.records import Batch
from videovit.data.sampling import ClipPlan, EvenSpans, RandomSpans
from videovit.engine import distributed
from videovit.engine.checkpoints.weights import build_on
from videovit.engine.distributed.parallel import without_sync
from videovit.engine.reporting.log import format_table, logger
from videovit.engine.run import Run
from videovit.engine.tasks.train import build_training
from videovit.engine.training.determinism import deterministic
from videovit.engine.training.step import autocast, train_step
from videovit.models import count_macs, count_params

WARMUP_STEPS = 3


@dataclass(frozen=True)
class Timing:
    """Seconds of every step, and the largest memory in use meanwhile over that before, in MiB."""

    seconds: list[float]
    peak_mib: float

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


def time_steps(
    step: Callable[[], object], device: torch.device, *, num_steps: int, warmup: int = WARMUP_STEPS
) -> Timing:
    """Time a step again and again.

    Args:
        step: what to time; on a GPU it only has to start the work.
        device: where the work is done.
        num_steps: how often it is timed.
        warmup: how often it runs before.
    """
    for _ in range(warmup):
        step()
    with _peak_memory(device) as peak:
        seconds = [_time_once(step, device) for _ in range(num_steps)]
    return Timing(seconds, peak())


def _time_once(step: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end)) / 1e3


@contextmanager
def _peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Gives a function that tells the peak since entry, over what was in use at entry, in MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: (torch.cuda.max_memory_allocated(device) - before) / 2**20
        return
    reset = Path("/proc/self/clear_refs")  # Linux: makes the high-water mark start anew
    try:
        reset.write_text("5")
        before_kib = _status_kib("VmRSS")
        yield lambda: (_status_kib("VmHWM") - before_kib) / 2**10
    except OSError:
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        yield lambda: (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 2**10


def _status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise OSError(f"no {field} in /proc/self/status")


def measure_matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-adds a second of the fastest square-ish matrix product found, in 1e9."""
    best = 0.0
    shapes = [(2048, 768, 3072), (3136, 384, 1536), (2048, 2048, 2048)]
    if device.type == "cuda":
        shapes = [(8192, 8192, 8192), (16384, 4096, 4096)]
    for rows, inner, columns in shapes:
        a = torch.randn(rows, inner, device=device).to(dtype)
        b = torch.randn(inner, columns, device=device).to(dtype)
        timing = time_steps(lambda a=a, b=b: a @ b, device, num_steps=15)  # type: ignore[misc]
        best = max(best, rows * inner * columns / min(timing.seconds) / 1e9)
    return best


# ---------------------------------------------------------------------------------------------------------- the task


def benchmark(cfg: Config, run: Run) -> dict[str, float]:
    """Measure what `BENCHMARK.WHAT` names, and print a table; every row also goes to stats.jsonl.

    Returns:
        `<row>_clips_per_s` of every row.
    """
    is_training = cfg.BENCHMARK.WHAT in ("train", "sync")
    with deterministic(cfg, run.device) if is_training else nullcontext():
        rows = BENCHMARKS[cfg.BENCHMARK.WHAT](cfg, run)
    if run.rank == 0:
        header = list(rows[0])
        table = [[_shown(row.get(name)) for name in header] for row in rows]
        logger.info("\n%s", format_table(header, table))
    for row in rows:
        run.log.stats("benchmark", {"what": cfg.BENCHMARK.WHAT, **row})
    return {f"{row['row']}_clips_per_s": float(row["clips_per_s"]) for row in rows}


def _shown(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


def _variants(cfg: Config, device: torch.device) -> list[tuple[str, torch.dtype, bool]]:
    """(name, number type, compiled) of the rows: fp32 and bf16, on a GPU and where asked compiled too."""
    compiled = cfg.BENCHMARK.COMPILE or device.type == "cuda"
    plain = [("fp32", torch.float32, False), ("bf16", torch.bfloat16, False)]
    return plain + ([("bf16 compiled", torch.bfloat16, True)] if compiled else [])


def _clips(cfg: Config, device: torch.device, num: int) -> Tensor:
    size = cfg.DATA.TRAIN_CROP_SIZE
    return torch.randn(num, 3, cfg.DATA.NUM_FRAMES, size, size, device=device)


def _cost(cfg: Config, model: nn.Module) -> tuple[int, float]:
    size = cfg.DATA.TRAIN_CROP_SIZE
    return count_params(model), count_macs(model, (1, 3, cfg.DATA.NUM_FRAMES, size, size)) / 1e9


def benchmark_model(cfg: Config, run: Run) -> list[dict[str, Any]]:
    """Inference of the model on random clips."""
    model = build_on(cfg, run.device).eval()
    params, gmacs = _cost(cfg, model)
    x_BCTHW = _clips(cfg, run.device, cfg.BENCHMARK.BATCH_SIZE)
    rows = []
    for name, dtype, compiled in _variants(cfg, run.device):
        network = torch.compile(model) if compiled else model
        peak = measure_matrix_peak(run.device, dtype)

        def step(network: Any = network, dtype: torch.dtype = dtype) -> None:
            with torch.inference_mode(), autocast(run.device, None if dtype == torch.float32 else dtype):
                network(x_BCTHW)

        with _told_if_not_compiled(compiled):
            timing = time_steps(step, run.device, num_steps=cfg.BENCHMARK.NUM_STEPS)
            rows.append(_model_row(name, timing, len(x_BCTHW), params, gmacs, gmacs, peak))
    return rows


def benchmark_train(cfg: Config, run: Run) -> list[dict[str, Any]]:
    """The whole training step on one random batch: preparation, mixup, forward, backward, clipping, optimiser."""
    batch = _random_batch(cfg)
    rows = []
    for name, dtype, compiled in _variants(cfg, run.device):
        parts = build_training(cfg, run)
        parts.dtype = None if dtype == torch.float32 else dtype
        parts.scaler = None
        params, gmacs = _cost(cfg, parts.model)
        if compiled:
            parts.model = torch.compile(parts.model)  # type: ignore[assignment]
        parts.model.train()
        peak = measure_matrix_peak(run.device, dtype)

        def step(parts: Any = parts) -> None:
            train_step(parts, batch, epoch=0, step=0, num_steps=1000)

        with _told_if_not_compiled(compiled):
            timing = time_steps(step, run.device, num_steps=cfg.BENCHMARK.NUM_STEPS)
            # A backward pass is two more products of the same size for every product of the forward pass.
            rows.append(_model_row(name, timing, len(batch), params, gmacs, 3 * gmacs, peak))
    return rows


@contextmanager
def _told_if_not_compiled(compiled: bool) -> Iterator[None]:
    """A row that torch.compile cannot give (say, without a C compiler) costs a warning, not the other rows."""
    try:
        yield
    except RuntimeError as error:  # those of the compiler are
        if not compiled:
            raise
        logger.warning("warning: no compiled row: %s: %s", type(error).__name__, str(error).strip().split("\n")[0])


def _random_batch(cfg: Config) -> Batch:
    size, num = cfg.DATA.TRAIN_CROP_SIZE, cfg.BENCHMARK.BATCH_SIZE
    index = torch.arange(num)
    frames = torch.randint(0, 256, (num, cfg.DATA.NUM_FRAMES, size, size, 3), dtype=torch.uint8)
    return Batch(frames, index % cfg.MODEL.NUM_CLASSES, index, index * 0, index, [])


def benchmark_sync(cfg: Config, run: Run) -> list[dict[str, Any]]:
    """What averaging gradients over the processes costs: training steps with it and without it, in turns."""
    batch, parts = _random_batch(cfg), build_training(cfg, run)
    parts.model.train()

    def step(*, sync: bool) -> None:
        with nullcontext() if sync else without_sync(parts.model):
            train_step(parts, batch, epoch=0, step=0, num_steps=1000)

    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(WARMUP_STEPS + cfg.BENCHMARK.NUM_STEPS):
        for sync, times in seconds.items():
            distributed.barrier()  # waiting for a process that is late is not part of it
            taken = _time_once(partial(step, sync=sync), run.device)
            times += [taken] if number >= WARMUP_STEPS else []
    both, alone = (statistics.median(seconds[sync]) for sync in (True, False))
    return [
        {
            "row": f"{run.world_size} processes",
            "clips_per_s": len(batch) * run.world_size / both,
            "step_s": both,
            "alone_s": alone,
            "share_of_step_%": 100.0 * (1.0 - alone / both),
            "gradients_mb": 4e-6 * count_params(parts.model),
        }
    ]


def _model_row(
    name: str, timing: Timing, num_clips: int, params: int, gmacs: float, work: float, peak: float
) -> dict[str, Any]:
    clips_per_s = num_clips / timing.median_s
    return {
        "row": name,
        "params": params,
        "gmacs": gmacs,
        "clips_per_s": clips_per_s,
        "step_s": timing.median_s,
        "peak_mib": timing.peak_mib,
        "share_of_peak_%": 100.0 * work * clips_per_s / peak,
        "peak_gmacs_per_s": peak,
    }


def benchmark_loader(cfg: Config, run: Run) -> list[dict[str, Any]]:
    """The training loader, from files to batches, without a model; the first pass over the files is not counted.

    All processes together, until the last one has ended.
    """
    loader = build_loader(cfg, "train", rank=run.rank, world_size=run.world_size)
    num_clips, start = 0, time.perf_counter()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        progress = run.progress(f"loader, pass {epoch + 1}/2", len(loader), log_period=cfg.LOG_PERIOD)
        num_clips, start = 0, time.perf_counter()
        for _, batch in progress.over(loader):
            num_clips += len(batch)
            progress.count(len(batch))
    passes = distributed.gather((num_clips, time.perf_counter() - start))
    num_clips, seconds = sum(clips for clips, _ in passes), max(taken for _, taken in passes)
    processes = f"{run.world_size} processes x " if run.world_size > 1 else ""
    return [
        {
            "row": f"{processes}{cfg.DATA_LOADER.NUM_WORKERS} workers",
            "clips_per_s": num_clips / seconds,
            "clips": num_clips,
            "seconds": seconds,
        }
    ]


def benchmark_decode(cfg: Config, run: Run) -> list[dict[str, Any]]:
    """Decoding alone, in this process: one clip a video as in training, and all clips of a video as in the test."""
    samples = read_samples(cfg, "train")[: cfg.BENCHMARK.NUM_STEPS]
    spans = cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.TARGET_FPS
    plans: dict[str, ClipPlan] = {
        "one clip": RandomSpans(*spans),
        f"{cfg.TEST.NUM_ENSEMBLE_VIEWS} clips": EvenSpans(*spans, num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS),
    }
    options = dataclasses.replace(build_decode_options(cfg, training=True), timeout_s=0.0)
    backend = cfg.DATA.DECODING_BACKEND
    return [
        {"row": f"{backend}, {name}", **measure_decode(samples, plan, backend, options=options, seed=cfg.RNG_SEED)}
        for name, plan in plans.items()
    ]


BENCHMARKS: dict[str, Callable[[Config, Run], Sequence[dict[str, Any]]]] = {
    "model": benchmark_model,
    "train": benchmark_train,
    "sync": benchmark_sync,
    "loader": benchmark_loader,
    "decode": benchmark_decode,
}
