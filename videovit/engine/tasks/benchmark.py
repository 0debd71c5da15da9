"""The benchmark task: speed of the model, a training step, the loader, decoding, averaging gradients, or analysis.

`BENCHMARK.WHAT` chooses. Times are medians over steps after a warm-up; on a GPU they are taken by CUDA events. The
share of peak compares the multiply-adds of the model with the fastest matrix product found in the same run, in the same
number type.
"""

from __future__ import annotations

import ctypes
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.analysis.findings import Findings
from videovit.config import Config
from videovit.config.schema.evaluation import EngineName
from videovit.data.build import build_decode_options
from videovit.data.decode.cost import measure_decode
from videovit.data.records import Batch
from videovit.data.sampling import ClockPlan, EvenSpans, RandomSpans
from videovit.engine import distributed
from videovit.engine.checkpoints.weights import build_seeded_model
from videovit.engine.distributed.parallel import without_sync
from videovit.engine.evaluation.inference import Inference
from videovit.engine.exported.engines import ENGINES
from videovit.engine.problem import Problem
from videovit.engine.reporting.log import format_table, logger
from videovit.engine.run_context import Run
from videovit.engine.training.build import build_training
from videovit.engine.training.determinism import deterministic
from videovit.engine.training.step import Training, train_step, without_wrapper
from videovit.errors import UserError
from videovit.models import count_macs, count_params
from videovit.models.contract import LayeredModel, VideoModel
from videovit.models.cpu.linear import product

WARMUP_STEPS = 3


@dataclass(frozen=True)
class Timing:
    """Times of a repeated step.

    Attributes:
        seconds: of every step.
        peak_mib: largest memory in use during the steps, minus that in use before, in MiB.
    """

    seconds: list[float]
    peak_mib: float

    @property
    def median_s(self) -> float:
        """Median of `seconds`."""
        return statistics.median(self.seconds)


def time_steps(
    step: Callable[[], object],
    device: torch.device,
    *,
    num_steps: int,
    warmup: int = WARMUP_STEPS,
    limit_s: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time a step repeatedly.

    Args:
        step: what to time; on a GPU it only has to start the work.
        device: where the work is done.
        num_steps: number of timed steps.
        warmup: number of steps before them.
        limit_s: after so many seconds three timed steps are enough.
        clock: of a CPU.
    """
    for _ in range(warmup):
        step()
    seconds: list[float] = []
    with _peak_memory(device) as peak:
        while len(seconds) < num_steps and (len(seconds) < 3 or sum(seconds) < limit_s):
            seconds.append(_time_once(step, device, clock))
    return Timing(seconds, peak())


def _time_once(
    step: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    if device.type != "cuda":
        start = clock()
        step()
        return clock() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end)) / 1e3


@contextmanager
def _peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Yields a function that returns the peak memory since entry, minus the memory in use at entry, in MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: (torch.cuda.max_memory_allocated(device) - before) / 2**20
        return
    # Memory that earlier steps have freed and the allocator keeps would hide what the next ones need.
    with suppress(AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    reset = Path("/proc/self/clear_refs")  # Linux: resets the high-water mark
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


def measure_matrix_peak(
    device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Multiply-adds per second of the fastest matrix product found, in 1e9.

    A CPU without instructions for bfloat16 needs 100 times as long for it as for float32, hence the limit.
    """
    best = 0.0
    shapes = [(2048, 768, 3072), (3136, 384, 1536), (2048, 2048, 2048)]
    if device.type == "cuda":
        shapes = [(8192, 8192, 8192), (16384, 4096, 4096)]
    for rows, inner, columns in shapes:
        x = torch.randn(rows, inner, device=device).to(dtype)
        weight = torch.randn(columns, inner, device=device).to(dtype)
        for multiply in (F.linear, product):  # by MKL and by oneDNN, whose speeds differ on CPUs that are not Intel's
            timing = time_steps(partial(multiply, x, weight), device, num_steps=15, warmup=1, limit_s=2, clock=clock)
            best = max(best, rows * inner * columns / min(timing.seconds) / 1e9)
    return best


# ---------------------------------------------------------------------------------------------------------- the task


def benchmark(problem: Problem, run: Run) -> dict[str, float]:
    """Measure what `BENCHMARK.WHAT` names, and print a table; every row also goes to stats.jsonl.

    Returns:
        `<row>_clips_per_s` of every row.
    """
    what = problem.cfg.BENCHMARK.WHAT
    rows = BENCHMARKS[what](problem, run)
    if run.rank == 0:
        header = list(rows[0])
        table = [[_shown(row.get(name)) for name in header] for row in rows]
        logger.info("\n%s", format_table(header, table))
    for row in rows:
        run.log.stats("benchmark", {"what": what, **row})
    return {f"{row['row']}_clips_per_s": float(row["clips_per_s"]) for row in rows}


def _shown(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


def _variants(cfg: Config, device: torch.device) -> list[tuple[str, torch.dtype | None, bool]]:
    """(name, type of autocast, compiled) of the rows: fp32 and bf16; on a GPU, or if requested, compiled too."""
    compiled = cfg.BENCHMARK.COMPILE or device.type == "cuda"
    plain: list[tuple[str, torch.dtype | None, bool]] = [("fp32", None, False), ("bf16", torch.bfloat16, False)]
    return plain + ([("bf16 compiled", torch.bfloat16, True)] if compiled else [])


def _clips(cfg: Config, device: torch.device, num: int) -> Tensor:
    size = cfg.DATA.TRAIN_CROP_SIZE
    return torch.randn(num, cfg.DATA.INPUT_CHANNEL_NUM[0], cfg.DATA.NUM_FRAMES, size, size, device=device)


def _cost(cfg: Config, model: LayeredModel) -> tuple[int, float]:
    size, channels = cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.INPUT_CHANNEL_NUM[0]
    return count_params(model), count_macs(model, (1, channels, cfg.DATA.NUM_FRAMES, size, size)) / 1e9


def benchmark_model(problem: Problem, run: Run) -> list[dict[str, Any]]:
    """Inference of the model on random clips."""
    cfg = problem.cfg
    model = build_seeded_model(cfg, run.device).eval()
    params, gmacs = _cost(cfg, model)
    x_BCTHW = _clips(cfg, run.device, cfg.BENCHMARK.BATCH_SIZE)
    rows = []
    for name, dtype, compiled in _variants(cfg, run.device):
        inference = Inference(model, problem.preparation, run.device, dtype=dtype)
        # The compiler has optimizations of its own, so it gets the model as it is.
        network: Any = torch.compile(model) if compiled else inference.model
        peak = measure_matrix_peak(run.device, dtype or torch.float32)

        def step(network: Any = network, inference: Inference = inference) -> None:
            with inference.mode():
                network(x_BCTHW)

        with _skipped_if_not_compiled(compiled):
            timing = time_steps(step, run.device, num_steps=cfg.BENCHMARK.NUM_STEPS)
            rows.append(_model_row(name, timing, len(x_BCTHW), params, gmacs, gmacs, peak))
    return rows


def benchmark_engines(problem: Problem, run: Run) -> list[dict[str, Any]]:
    """Inference by every engine that is installed, in turns, on random clips; on the CPU.

    Times are latencies of a batch. `cpu_s` is the time of all threads, which other programs on the machine disturb
    less. `first_s` is what the first batch takes, in which an engine makes its graph. `peak_mib` is what one more batch
    adds, which is nothing if an engine keeps its buffers.
    """
    cfg, device = problem.cfg, torch.device("cpu")
    model = build_seeded_model(cfg, device).eval()
    x_BCTHW = _clips(cfg, device, cfg.BENCHMARK.BATCH_SIZE)
    steps: dict[str, Callable[[], Tensor]] = {}
    first_s: dict[str, float] = {}
    for engine in ENGINES:
        for name, dtype in (("fp32", None), ("bf16", torch.bfloat16)):
            try:
                inference = Inference(model, problem.preparation, device, dtype=dtype, engine=cast(EngineName, engine))
                infer = partial(_infer_once, inference, x_BCTHW)
                first_s[f"{engine} {name}"] = _time_once(infer, device)
                steps[f"{engine} {name}"] = infer
            except UserError as error:
                logger.info("no row for %s %s: %s", engine, name, error)
    expected, (fp32, *_) = steps["torch fp32"](), steps
    peaks = {row: time_steps(step, device, num_steps=1, warmup=1).peak_mib for row, step in steps.items()}
    wall: dict[str, list[float]] = {row: [] for row in steps}
    used: dict[str, list[float]] = {row: [] for row in steps}
    for _ in range(cfg.BENCHMARK.NUM_STEPS):
        for row, step in steps.items():
            start = time.process_time()
            wall[row].append(_time_once(step, device))
            used[row].append(time.process_time() - start)
    return [
        {
            "row": row,
            "clips_per_s": len(x_BCTHW) / statistics.median(wall[row]),
            "p50_s": statistics.median(wall[row]),
            "p95_s": float(torch.tensor(wall[row]).quantile(0.95)),
            "cpu_s": statistics.median(used[row]),
            "times_fp32": statistics.median(used[row]) / statistics.median(used[fp32]),
            "peak_mib": peaks[row],
            "first_s": first_s[row],
            "difference": float((step() - expected).abs().max() / expected.std()),
        }
        for row, step in steps.items()
    ]


def _infer_once(inference: Inference, x_BCTHW: Tensor) -> Tensor:
    with inference.mode():
        logits: Tensor = inference.model(x_BCTHW)
        return logits.float()


def benchmark_attention(problem: Problem, run: Run) -> list[dict[str, Any]]:
    """The analysis of attention and of map similarity against plain inference, on random clips."""
    cfg = problem.cfg
    model = build_seeded_model(cfg, run.device).eval()
    inference = Inference(model, problem.preparation, run.device)
    findings = Findings(replace(cfg.ANALYSIS, WHAT=("attention", "similarity")), model)
    x_BCTHW = _clips(cfg, run.device, cfg.BENCHMARK.BATCH_SIZE)
    steps: dict[str, Callable[[], object]] = {
        "inference": lambda: inference.model(x_BCTHW),
        "attention": lambda: findings.update(cast(VideoModel, inference.model), x_BCTHW, x_BCTHW, ()),
    }
    with inference.mode():
        timings = {row: time_steps(step, run.device, num_steps=cfg.BENCHMARK.NUM_STEPS) for row, step in steps.items()}
    return [
        {
            "row": row,
            "clips_per_s": len(x_BCTHW) / timing.median_s,
            "step_s": timing.median_s,
            "times_inference": timing.median_s / timings["inference"].median_s,
            "peak_mib": timing.peak_mib,
        }
        for row, timing in timings.items()
    ]


def benchmark_train(problem: Problem, run: Run) -> list[dict[str, Any]]:
    """The whole training step on one random batch: preparation, mixup, forward, backward, clipping, optimizer."""
    cfg, batch = problem.cfg, _random_batch(problem.cfg)
    rows = []
    for name, dtype, compiled in _variants(cfg, run.device):
        training = build_training(problem, run)
        training.dtype, training.scaler = dtype, None
        model = without_wrapper(training.model)
        params, gmacs = _cost(cfg, model)
        if compiled:
            training.model = cast(nn.Module, torch.compile(training.model))
        training.model.train()
        peak = measure_matrix_peak(run.device, dtype or torch.float32)

        def step(training: Training = training) -> None:
            train_step(training, batch, epoch=0, step=0, num_steps=1000)

        with deterministic(cfg, model, run.device), _skipped_if_not_compiled(compiled):
            timing = time_steps(step, run.device, num_steps=cfg.BENCHMARK.NUM_STEPS)
            # The backward pass has two products of the same size for every product of the forward pass.
            rows.append(_model_row(name, timing, len(batch), params, gmacs, 3 * gmacs, peak))
    return rows


@contextmanager
def _skipped_if_not_compiled(compiled: bool) -> Iterator[None]:
    """Turn a failure of torch.compile, for example without a C compiler, into a warning, so that other rows remain."""
    try:
        yield
    except RuntimeError as error:  # base class of the compiler's errors
        if not compiled:
            raise
        logger.warning("no compiled row: %s: %s", type(error).__name__, str(error).strip().split("\n")[0])


def _random_batch(cfg: Config) -> Batch:
    size, num = cfg.DATA.TRAIN_CROP_SIZE, cfg.BENCHMARK.BATCH_SIZE
    index = torch.arange(num)
    frames = torch.randint(0, 256, (num, cfg.DATA.NUM_FRAMES, size, size, 3), dtype=torch.uint8)
    return Batch(frames, index % cfg.MODEL.NUM_CLASSES, index, index * 0, index, [])


def benchmark_sync(problem: Problem, run: Run) -> list[dict[str, Any]]:
    """The cost of averaging gradients over the processes: training steps with and without it, alternating."""
    cfg, batch, training = problem.cfg, _random_batch(problem.cfg), build_training(problem, run)
    training.model.train()

    def step(*, sync: bool) -> None:
        with nullcontext() if sync else without_sync(training.model):
            train_step(training, batch, epoch=0, step=0, num_steps=1000)

    seconds: dict[bool, list[float]] = {True: [], False: []}
    with deterministic(cfg, without_wrapper(training.model), run.device):
        for number in range(WARMUP_STEPS + cfg.BENCHMARK.NUM_STEPS):
            for sync, times in seconds.items():
                distributed.barrier()  # waiting for a late process is not part of it
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
            "gradients_mb": 4e-6 * count_params(training.model),
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


def benchmark_loader(problem: Problem, run: Run) -> list[dict[str, Any]]:
    """The training loader, from files to batches, without a model; the second of two passes over the files.

    Counts the clips of all processes, until the last one is done.
    """
    cfg, loader = problem.cfg, problem.train.loader(run)
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


def benchmark_decode(problem: Problem, run: Run) -> list[dict[str, Any]]:
    """Decoding alone, in this process: one clip per video as in training, and all clips of a video as in the test."""
    cfg = problem.cfg
    samples = problem.train.samples[: cfg.BENCHMARK.NUM_STEPS]
    spans = cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.TARGET_FPS
    plans: dict[str, ClockPlan] = {
        "one clip": RandomSpans(*spans),
        f"{cfg.TEST.NUM_ENSEMBLE_VIEWS} clips": EvenSpans(*spans, num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS),
    }
    options = replace(build_decode_options(cfg, training=True), timeout_s=0.0)
    backend = cfg.DATA.DECODING_BACKEND
    return [
        {"row": f"{backend}, {name}", **measure_decode(samples, plan, backend, options=options, seed=cfg.RNG_SEED)}
        for name, plan in plans.items()
    ]


BENCHMARKS: dict[str, Callable[[Problem, Run], Sequence[dict[str, Any]]]] = {
    "model": benchmark_model,
    "engines": benchmark_engines,
    "attention": benchmark_attention,
    "train": benchmark_train,
    "sync": benchmark_sync,
    "loader": benchmark_loader,
    "decode": benchmark_decode,
}
"""By `BENCHMARK.WHAT`."""
