"""Time this project's models against torchvision's, pytorchvideo's and timm's: same weights, same input, interleaved.

    python tools/benchmark_peers.py                                      # everything, 2 threads
    python tools/benchmark_peers.py --models v2_s --work train --dtypes bf16 --rounds 9
    python tools/benchmark_peers.py --threads 1 --clock cpu              # on a machine with other users
    python tools/benchmark_peers.py --device cuda --batch 8 --compile    # CUDA events

All entries of a table run in one process in turns (A B C, C B A, ...), so that drift of the machine affects them
equally; medians are reported. Inference of this project's models is that of `optimize_for_inference`. Peak memory is
measured in a separate process for each entry: what the first forward (and backward) pass adds to the memory of the
process that holds the model, packed weights included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn

from videovit.config import load_config
from videovit.engine.tasks.benchmark import measure_matrix_peak
from videovit.models import (
    VideoModel,
    build_model,
    count_macs,
    export_state_dict,
    load_pretrained,
    optimize_for_inference,
)

CONFIGS = Path(__file__).parents[1] / "configs"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def ours(config: str) -> VideoModel:
    """This project's model of a config."""
    return build_model(load_config(CONFIGS / config))


def torchvision_v1_b() -> nn.Module:
    """torchvision's MViT-B 16x4."""
    from torchvision.models.video import mvit_v1_b

    return mvit_v1_b(weights=None)


def torchvision_v2_s() -> nn.Module:
    """torchvision's MViTv2-S 16x4."""
    from torchvision.models.video import mvit_v2_s

    return mvit_v2_s(weights=None)


def pytorchvideo_v1_b() -> nn.Module:
    """pytorchvideo's MViT-B 16x4, with the eps of its pooling norms set to that of the others."""
    from pytorchvideo.models.hub import mvit_base_16x4

    model = mvit_base_16x4(pretrained=False)
    model.head.sequential_pool = model.head.activation = None
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and ".attn.norm_" in name:
            module.eps = 1e-6
    return model


class Squeezed(nn.Module):
    """An image model that takes clips of one frame."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Logits of (B, C, 1, H, W)."""
        logits: Tensor = self.model(x_BCTHW[:, :, 0])
        return logits


def timm_v2_t() -> nn.Module:
    """timm's MViTv2-T."""
    import timm

    return Squeezed(timm.create_model("mvitv2_tiny", pretrained=False))


@dataclass(frozen=True)
class Contest:
    """A model of this project and the same model of others.

    Attributes:
        config: of this project's model.
        clip_size: (T, H, W) in pixels.
        batch: clips or images.
        peers: layout of weights -> builder; all entries get the weights of the first.
    """

    config: str
    clip_size: tuple[int, int, int]
    batch: int
    peers: dict[str, Callable[[], nn.Module]]


CONTESTS = {
    "v1_b": Contest(
        "Kinetics/MVIT_B_16x4_CONV.yaml",
        (16, 224, 224),
        1,
        {"torchvision": torchvision_v1_b, "pytorchvideo": pytorchvideo_v1_b},
    ),
    "v2_s": Contest("Kinetics/MVITv2_S_16x4.yaml", (16, 224, 224), 1, {"torchvision": torchvision_v2_s}),
    "image_v2_t": Contest("ImageNet/MVITv2_T.yaml", (1, 224, 224), 8, {"timm": timm_v2_t}),
}


def perturb(model: nn.Module) -> nn.Module:
    """Move norms, biases and position tables off their initial values, so that equal logits mean equal models."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "pos" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@dataclass(frozen=True)
class Job:
    """The work that is timed: `inference` or `train`, `fp32` or `bf16`, and the device."""

    work: str
    dtype: str
    device: str

    def run(self, model: nn.Module, x: Tensor) -> Tensor:
        """One inference, or one forward and backward pass; returns logits."""
        autocast = torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bf16")
        if self.work == "inference":
            with torch.inference_mode(), autocast:
                inferred: Tensor = model(x)
                return inferred
        for parameter in model.parameters():
            parameter.grad = None
        with autocast:
            logits: Tensor = model(x)
        logits.float().logsumexp(1).sum().backward()
        return logits.detach()

    def seconds(self, model: nn.Module, x: Tensor, clock: str) -> float:
        """Time of one run: CUDA events on a GPU, else wall or CPU time."""
        if self.device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            self.run(model, x)
            end.record()
            torch.cuda.synchronize()
            return float(start.elapsed_time(end)) / 1e3
        now = time.perf_counter if clock == "wall" else time.process_time
        began = now()
        self.run(model, x)
        return now() - began


def entries(contest: Contest, job: Job, compiled: bool) -> dict[str, nn.Module]:
    """All models of a contest with the same weights, on the device and in the mode of the job."""
    (first, build), *others = contest.peers.items()
    model, peer = ours(contest.config), perturb(build())
    inner = peer.model if isinstance(peer, Squeezed) else peer
    load_pretrained(model, inner.state_dict(), source=first)
    found: dict[str, nn.Module] = {"videovit": model, first: peer}
    for name, build in others:
        found[name] = build()
        found[name].load_state_dict(export_state_dict(model, name))
    found = {name: m.to(job.device).train(job.work == "train") for name, m in found.items()}
    if job.work == "inference":
        found["videovit"] = optimize_for_inference(model)
    if compiled:
        found |= {f"{name}, compiled": torch.compile(m) for name, m in found.items()}
    return found


def example(contest: Contest, batch: int, device: str) -> Tensor:
    """A standard normal batch."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, *contest.clip_size, generator=generator).to(device)


def _status_mib(field: str) -> float:
    """A memory field of this process (Linux), in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def peak_mib(contest_name: str, entry: str, job: Job, batch: int, threads: int) -> float:
    """Memory in MiB that one run adds to a process that holds the model; call it in a fresh process."""
    torch.set_num_threads(threads)
    contest = CONTESTS[contest_name]
    model: nn.Module = ours(contest.config) if entry == "videovit" else contest.peers[entry]()
    model = model.to(job.device).train(job.work == "train")
    if isinstance(model, VideoModel) and job.work == "inference":
        model = optimize_for_inference(model)
    x = example(contest, batch, job.device)
    if job.device == "cuda":
        job.run(model, x)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job.run(model, x)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status_mib("VmRSS")
    job.run(model, x)
    return _status_mib("VmHWM") - before


def contest_rows(name: str, job: Job, options: argparse.Namespace) -> list[list[str]]:
    """One table row per entry."""
    contest = CONTESTS[name]
    batch = options.batch or contest.batch
    x = example(contest, batch, job.device)
    models = entries(contest, job, options.compile)
    logits = {}
    for key, model in models.items():  # the first runs are warm-up; logits are compared without dropout
        logits[key] = Job("inference", job.dtype, job.device).run(model.eval(), x).float()
        model.train(job.work == "train")
        for _ in range(20 if job.device == "cuda" else 1):
            job.run(model, x)
    times: dict[str, list[float]] = {key: [] for key in models}
    for turn in range(options.rounds):
        for key in list(models)[:: 1 if turn % 2 == 0 else -1]:
            times[key].append(job.seconds(models[key], x, options.clock))
    macs = count_macs(ours(contest.config), (batch, 3, *contest.clip_size)) * (3 if job.work == "train" else 1)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    peak = 1e9 * measure_matrix_peak(torch.device(job.device), DTYPES[job.dtype], clock)
    medians = {key: statistics.median(t) for key, t in times.items()}
    rows = []
    for key in models:
        memory = "-"
        if "compiled" not in key and not options.no_memory:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                memory = f"{pool.submit(peak_mib, name, key, job, batch, options.threads).result():.0f}"
        rows.append(
            [
                f"{name} x{batch}",
                f"{job.work} {job.dtype}",
                key,
                f"{medians[key]:.3f}",
                f"{medians[key] / medians['videovit']:.2f}",
                f"{batch / medians[key]:.2f}",
                memory,
                f"{100 * macs / medians[key] / peak:.0f} %",
                f"{(logits[key] - logits['videovit']).abs().max() / logits['videovit'].std():.1e}",
            ]
        )
    return rows


def main() -> None:
    """Parse the command line, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=CONTESTS, default=list(CONTESTS))
    parser.add_argument("--work", nargs="+", choices=("inference", "train"), default=["inference", "train"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="bf16: by autocast")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=0, help="clips per batch (default: 1, images 8)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: time on the CPU; with 1 thread")
    parser.add_argument("--compile", action="store_true", help="every entry also under torch.compile")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory (a process per entry)")
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu adds up the threads: use --threads 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no GPU that PyTorch can use")
    if options.rounds < 1 or options.threads < 1 or options.batch < 0:
        parser.error("--rounds and --threads must be at least 1, --batch at least 0")
    torch.set_num_threads(options.threads)
    titles = ["model", "work", "who", "seconds", "x videovit", "clips/s", "peak MiB", "of peak", "difference"]
    print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles), flush=True)
    for name in options.models:
        for work in options.work:
            for dtype in options.dtypes:
                for row in contest_rows(name, Job(work, dtype, options.device), options):
                    print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
