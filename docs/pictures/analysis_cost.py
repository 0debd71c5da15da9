"""Measure what analyses, explanations, attacks and corruptions cost per clip, beside plain inference.

    python docs/pictures/analysis_cost.py Kinetics/MVIT_B_16x4_CONV
    python docs/pictures/analysis_cost.py Demo/MVIT_TINY --occlusion --repeat 5

Seconds are CPU seconds of one thread, the median of some repetitions after one more; a busy machine changes them
little. Memory is the highest resident memory during a repetition minus that before it (Linux). Weights are random.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from videovit.analysis.attacks import PixelSpace, fgsm, pgd
from videovit.analysis.corruptions import CORRUPTIONS, corrupt
from videovit.analysis.covering import cover_center
from videovit.analysis.explain import METHODS
from videovit.analysis.findings import Findings
from videovit.config import load_config
from videovit.data.transforms.pipeline import build_preparation
from videovit.models import build_model, optimize_for_inference

MIB = 2**20
libc = ctypes.CDLL("libc.so.6")


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def measured(call: Callable[[], object], repeat: int) -> tuple[float, float]:
    """CPU seconds, and MiB of memory, of a call."""
    call()
    seconds, peaks = [], []
    for _ in range(repeat):
        libc.malloc_trim(0)  # what earlier calls left for reuse would hide what this one needs
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, start = resident("VmRSS"), time.process_time()
        call()
        seconds.append(time.process_time() - start)
        peaks.append(resident("VmHWM") - before)
    return statistics.median(seconds), max(0, statistics.median(peaks)) / MIB


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--occlusion", action="store_true", help="also measure the heat map by occlusion (197 passes)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cfg = load_config(args.config)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    fast = optimize_for_inference(model)
    T, S = cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE
    frames = torch.randint(0, 255, (1, T, S, S, 3), dtype=torch.uint8)
    frames = (frames.float().mean(-1, keepdim=True) + torch.zeros(3)).to(torch.uint8)
    prepare = build_preparation(cfg, train=False)
    x, labels, pixels = prepare(frames, None), torch.tensor([0]), PixelSpace(prepare.mean, prepare.std)

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, labels, reduction="sum")

    def infer(x: torch.Tensor = x) -> None:
        with torch.inference_mode():
            fast(x)

    def analyze(*what: str) -> Callable[[], object]:
        findings = Findings(replace(cfg.ANALYSIS, WHAT=what), model)  # type: ignore[arg-type]

        def update() -> None:
            with torch.inference_mode():
                findings.update(fast, x, frames, [0])

        return update

    eps = {"eps": 8 / 255, "pixels": pixels, "loss": loss}
    calls: dict[str, Callable[[], object]] = {
        "inference": infer,
        "attention": analyze("attention"),
        "attention and similarity": analyze("attention", "similarity"),
    }
    for name, method in METHODS.items():
        if name != "occlusion" or args.occlusion:
            calls[f"explain: {name}"] = lambda method=method: method(model, x, labels)  # type: ignore[misc]
    calls["occluded center, and inference"] = lambda: infer(cover_center(x, 0.5))
    calls["FGSM, and inference"] = lambda: infer(fgsm(model, x, labels, **eps))  # type: ignore[arg-type]
    start = torch.zeros_like(x)
    calls["PGD of 5 steps, and inference"] = lambda: infer(
        pgd(model, x, labels, step=4 / 255, num_steps=5, start_BCTHW=start, **eps)  # type: ignore[arg-type]
    )
    for name, row in CORRUPTIONS.items():
        if T > 1 or not row.in_time:
            calls[f"{name}, without inference"] = lambda name=name: corrupt(name, 3, frames[0], (0,))  # type: ignore[misc]
    print(f"{args.config}: one clip of {T} x {S} x {S}")
    print("| | seconds | against inference | memory, MiB |\n|---|--:|--:|--:|")
    base = 0.0
    for name, call in calls.items():
        seconds, mib = measured(call, args.repeat)
        base = base or seconds
        print(f"| {name} | {seconds:.3g} | {seconds / base:.2g} | {mib:.0f} |", flush=True)


if __name__ == "__main__":
    main()
