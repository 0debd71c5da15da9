"""Inference: the model in evaluation mode over all batches of a split, and where its logits go.

Validation, test, frame shuffling, search and prediction all run their model through `Inference`, which makes it ready
by the engine of its row in `ENGINES`.

B clips, C channels, T frames, H W pixels, K classes, R boxes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from videovit.config.schema.evaluation import EngineName
from videovit.data.build import ClipLoader
from videovit.data.records import Batch, Failure
from videovit.data.sample_list import Paths
from videovit.engine import distributed
from videovit.engine.distributed import preemption
from videovit.engine.distributed.preemption import Preempted
from videovit.engine.exported.engines import ENGINES
from videovit.engine.reporting.log import logger
from videovit.engine.reporting.progress import Progress
from videovit.engine.run_context import Run, report_decoders
from videovit.errors import UserError
from videovit.messages import plural, printable
from videovit.models.contract import LayeredModel

T = TypeVar("T")
Preparation = Callable[[Tensor, Tensor | None], Tensor]
"""uint8 (B, T, H, W, 3) and erasing seeds (B,) or None -> float (B, 3, T, H, W)."""

SCAN_S = 60.0  # after the first unreadable video: how long to scan for others before the run stops
MAX_LISTED = 20  # unreadable videos in one message


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """Mixed precision in `dtype`, or full precision for None."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


class Sink(Protocol):
    """Receives the logits of each batch."""

    def update(self, batch: Batch, logits: Tensor) -> None: ...


class ForwardPass(Protocol):
    """Runs a model on every batch, and takes its output."""

    def run(self, inference: Inference, x_BCTHW: Tensor, batch: Batch) -> None:
        """Run the model once.

        Args:
            inference: the model.
            x_BCTHW: the input that the batch makes.
            batch: on the same device.
        """


@dataclass(frozen=True)
class Pass:
    """A forward pass of a classifier.

    Attributes:
        sinks: receive (batch, logits), in order.
        change: (x (B, 3, T, H, W), batch) -> x of the same shape; None leaves the input alone.
        corrupt: (frames (B, T, H, W, 3) uint8, batch) -> frames of the same shape, before they are prepared.
    """

    sinks: Sequence[Sink]
    change: Callable[[Tensor, Batch], Tensor] | None = None
    corrupt: Callable[[Tensor, Batch], Tensor] | None = None

    def run(self, inference: Inference, x_BCTHW: Tensor, batch: Batch) -> None:
        """See `ForwardPass.run`."""
        changed = x_BCTHW
        if self.corrupt is not None:
            changed = inference.prepared(self.corrupt(batch.frames_BTHWC, batch))
        if self.change is not None:
            changed = self.change(changed, batch)
        logits = inference.model(changed, batch.boxes_R5)
        for sink in self.sinks:
            sink.update(batch, logits)


class Inference:
    """A model in evaluation mode, and how it is run.

    Args:
        model: is left alone; weights that change later do not show here.
        preparation: frames -> input of the model.
        device: where the model is.
        dtype: of autocast; None for full precision.
        clips_per_step: clips that go through the model at once.
        skip_unreadable: leave unreadable videos out, instead of stopping at them.
        engine: what runs the model, see `ENGINES`.

    Attributes:
        model: shares parameters with the given one; what another engine than PyTorch runs only has its forward passes.
        unreadable: videos that could not be read so far.
    """

    def __init__(
        self,
        model: LayeredModel,
        preparation: Preparation,
        device: torch.device,
        *,
        dtype: torch.dtype | None = None,
        clips_per_step: int = 8,
        skip_unreadable: bool = False,
        engine: EngineName = "torch",
    ) -> None:
        self.model: nn.Module = ENGINES[engine](model, dtype)
        self.device, self.dtype, self.clips_per_step = device, dtype, clips_per_step
        self.skip_unreadable = skip_unreadable
        self.unreadable: list[Failure] = []
        self._preparation = preparation

    @contextlib.contextmanager
    def mode(self) -> Iterator[None]:
        """No gradients, and the precision of this inference, until the end of the block."""
        with torch.inference_mode(), autocast(self.device, self.dtype):
            yield

    def prepared(self, frames_BTHWC: Tensor) -> Tensor:
        """The input of the model (B, 3, T, H, W)."""
        return self._preparation(frames_BTHWC.to(self.device), None)


def evaluate_split(
    inference: Inference,
    loader: ClipLoader,
    passes: Sequence[ForwardPass],
    run: Run,
    *,
    name: str,
    log_period: int = 10,
) -> frozenset[int]:
    """Evaluate all videos of a loader, with progress; a collective call.

    Args:
        inference: the model.
        loader: of this rank.
        passes: see `evaluate`.
        run: this process.
        name: of the progress bar.
        log_period: see `Run.progress`.

    Returns:
        The videos, of all ranks, that were left out because they cannot be read.

    Raises:
        UserError: see `evaluate`.
        Preempted: see `stoppable`.
    """
    batches = stoppable(loader, len(loader))
    evaluate(inference, batches, passes, run.progress(name, len(loader), log_period=log_period))
    report_decoders(loader, run, name)
    paths = {failure.path for part in distributed.gather(inference.unreadable) for failure in part}
    listed = enumerate(Paths(loader.dataset.samples)) if paths else ()
    return frozenset(i for i, path in listed if path in paths)


def evaluate(inference: Inference, batches: Iterable[Batch], passes: Sequence[ForwardPass], progress: Progress) -> None:
    """Run the model over all batches and hand its output to the passes; videos are decoded once for all passes.

    Unreadable videos are never replaced. Unless they are skipped, they stop the run, after a short scan for others, so
    that one message names all of them.

    Args:
        inference: the model; it collects the unreadable videos.
        batches: of this rank.
        passes: what is computed from each batch, in order.
        progress: counts the videos.

    Raises:
        UserError: videos cannot be read.
    """
    with inference.mode():
        for batch in readable(inference, batches, progress):
            infer(inference, batch, passes)


def readable(inference: Inference, batches: Iterable[Batch], progress: Progress) -> Iterator[Batch]:
    """The batches to infer, until a video cannot be read; arguments and errors as in `evaluate`."""
    stop_at = float("inf")
    known = {failure.path for failure in inference.unreadable}  # an earlier pass over the list has named them
    num_known = len(inference.unreadable)
    for _, batch in progress.over(batches):
        if batch.failures:
            new = {failure.path: failure for failure in batch.failures if failure.path not in known}
            known.update(new)
            inference.unreadable += new.values()
            if not inference.skip_unreadable:
                stop_at = min(stop_at, time.monotonic() + SCAN_S)
        if stop_at == float("inf"):
            yield batch
        elif time.monotonic() > stop_at or len(inference.unreadable) >= MAX_LISTED:
            break
        progress.count(len(batch))
    if stop_at < float("inf"):
        raise UserError(describe_unreadable(inference.unreadable))
    for failure in inference.unreadable[num_known:]:
        logger.warning("left out: %s: %s", printable(failure.path), failure.reason)


def prepared_chunks(inference: Inference, batch: Batch) -> Iterator[tuple[Batch, Tensor]]:
    """As many clips as go through the model at once, and the input (B, 3, T, H, W) that they make."""
    for chunk in batch.split(inference.clips_per_step):
        if not len(chunk):  # no video of the batch could be read
            continue
        chunk = chunk.to(inference.device)
        yield chunk, inference.prepared(chunk.frames_BTHWC)


def infer(inference: Inference, batch: Batch, passes: Sequence[ForwardPass]) -> None:
    """Run all passes on one batch."""
    for chunk, x_BCTHW in prepared_chunks(inference, batch):
        for one in passes:
            one.run(inference, x_BCTHW, chunk)


def stoppable(batches: Iterable[T], num_steps: int) -> Iterator[T]:
    """The batches, until a signal has reached any rank; a collective call.

    Args:
        batches: at most `num_steps` of them; other ranks may have other numbers.
        num_steps: of this rank.

    Raises:
        Preempted: on every rank, at the same step. Nothing is saved here.
    """
    signals = preemption.installed()
    if signals is None:
        yield from batches
        return
    # Every rank takes part in as many exchanges as the rank with the most batches, or that one would wait forever.
    rest = max(distributed.gather(num_steps))
    for batch in batches:
        _stop_on_signal(signals.requested())
        rest -= 1
        yield batch
    for _ in range(rest):
        _stop_on_signal(signals.requested())


def _stop_on_signal(signum: int) -> None:
    (highest,) = distributed.highest([signum])
    if highest:
        raise Preempted(int(highest))


def describe_unreadable(failures: Sequence[Failure]) -> str:
    """The message about unreadable videos, or images, of an evaluation list."""
    noun = "image" if all(failure.backend == "image" for failure in failures) else "video"
    lines = [f"  {printable(f.path)}: {f.reason} ({f.backend})" for f in failures]
    return (
        f"{plural(len(failures), noun)} of the evaluation list cannot be read. Accuracy over a part of the list "
        "would not be comparable, so the run stops (there may be more):\n"
        + "\n".join(lines)
        + "\nReplace the files or remove their lines; TEST.SKIP_UNREADABLE True skips them and reports how many"
    )
