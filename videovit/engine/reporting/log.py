"""What a run tells: console lines, `stats.jsonl`, progress bars, TensorBoard.

Every number is reported once, through `RunLog.stats`: as a SlowFast-style `json_stats: {...}` line in the log, as a
line of `OUTPUT_DIR/stats.jsonl`, and to TensorBoard where asked. Only rank 0 writes; the other ranks log errors.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import simplejson
from tqdm import tqdm

from videovit.engine.reporting.json_lines import append_record, read_records
from videovit.errors import UserError

T = TypeVar("T")
logger = logging.getLogger("videovit")


class ConsoleHandler(logging.Handler):
    """Lines on stderr that do not run into a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class LogFile(logging.FileHandler):
    """`stdout.log`; where the disk is full its lines are lost, with one warning, and the run goes on."""

    _is_told = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._is_told:
            self._is_told = True
            tqdm.write(f"warning: {self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class RunLog:
    """The reports of one process of a run; used as a context manager.

    Args:
        output_dir: folder for `stdout.log` and `stats.jsonl`; made when absent.
        rank: global rank; ranks above 0 write no files and print warnings and errors only.
        tensorboard_dir: folder for TensorBoard event files, or None for none.

    Raises:
        UserError: TensorBoard is asked for and not installed, or the folder cannot be written.
    """

    def __init__(self, output_dir: Path, *, rank: int = 0, tensorboard_dir: Path | None = None) -> None:
        self.rank = rank
        self.output_dir = output_dir
        self._writer: Any = None
        self._handlers: list[logging.Handler] = [ConsoleHandler()]
        if rank == 0:
            try:
                output_dir.mkdir(parents=True, exist_ok=True)
                self._handlers.append(LogFile(output_dir / "stdout.log", encoding="utf-8", errors="backslashreplace"))
            except OSError as error:
                raise UserError(f"OUTPUT_DIR {output_dir} cannot be written: {error.strerror}") from error
            if tensorboard_dir is not None:
                self._writer = _tensorboard_writer(tensorboard_dir)

    def __enter__(self) -> RunLog:
        form = logging.Formatter("[%(asctime)s] %(message)s", datefmt="%m/%d %H:%M:%S")
        for handler in self._handlers:
            handler.setFormatter(form)
            logger.addHandler(handler)
        logger.setLevel(logging.INFO if self.rank == 0 else logging.WARNING)
        logger.propagate = False
        logging.captureWarnings(True)
        logging.getLogger("py.warnings").handlers = list(self._handlers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        if self.rank == 0 and error is not None:  # the console is told by the command line
            with (
                contextlib.suppress(OSError),
                open(self.output_dir / "stdout.log", "a", encoding="utf-8", errors="backslashreplace") as file,
            ):
                file.write(f"ended by {type(error).__name__}: {error}\n")
        logger.propagate = True
        logging.captureWarnings(False)
        logging.getLogger("py.warnings").handlers = []
        for handler in self._handlers:
            logger.removeHandler(handler)
            handler.close()

    def stats(self, kind: str, values: Mapping[str, Any], *, step: int | None = None) -> None:
        """Report one record, e.g. `stats("val_epoch", {"epoch": "3/30", "top1_err": 12.5})`.

        Args:
            kind: what it is about, SlowFast's `_type`.
            values: what to report; floats are rounded to 5 significant digits on the console only.
            step: x position in TensorBoard; None keeps the record out of TensorBoard.
        """
        if self.rank != 0:
            return
        record = {"_type": kind, **values}
        rounded = {name: _rounded(value) for name, value in sorted(record.items())}
        logger.info("json_stats: %s", simplejson.dumps(rounded, ignore_nan=True))
        append_record(self.output_dir / "stats.jsonl", record)
        if self._writer is not None and step is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def reported(self, kind: str, epoch: int) -> bool:
        """Whether an earlier run of this folder reported `kind` of `epoch` (from 1); for rank 0."""
        records = read_records(self.output_dir / "stats.jsonl", word=f'"{kind}"')
        return any(r.get("_type") == kind and str(r.get("epoch")).startswith(f"{epoch}/") for r in records)


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _tensorboard_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "TENSORBOARD.ENABLE is True, but the package tensorboard is not installed: pip install tensorboard"
        ) from error
    return SummaryWriter(str(folder))


class Progress:
    """Clips/s, remaining time and the share of time spent waiting for data, while iterating over batches.

    On a terminal a bar; elsewhere one plain line every `log_period` steps and one at the end.

        for step, batch in progress.over(loader):
            with_the_batch()
            progress.count(len(batch), loss=0.7)

    Args:
        name: what is being done, e.g. "epoch 3/30".
        total: number of steps of the whole pass.
        first: steps already done in an earlier run (mid-epoch resume).
        log_period: plain lines come every so many steps.
        quiet: neither bar nor lines (ranks above 0).
        num_processes: that do the same beside this one, each on clips of its own; rates are those of all together.
    """

    def __init__(
        self,
        name: str,
        total: int,
        *,
        first: int = 0,
        log_period: int = 10,
        quiet: bool = False,
        num_processes: int = 1,
    ) -> None:
        self.name, self.total, self.first, self.log_period, self.quiet = name, total, first, max(1, log_period), quiet
        self.step = first
        self.num_clips = 0  # of this process
        self.num_processes = num_processes
        self.data_s = 0.0  # seconds spent waiting for the loader
        self.last_data_s = 0.0
        self._start = time.monotonic()
        self._bar: Any = None

    def over(self, loader: Iterable[T]) -> Iterator[tuple[int, T]]:
        """Yield (step, batch), timing how long each batch was waited for."""
        if not self.quiet and _has_terminal():
            self._bar = tqdm(total=self.total, initial=self.first, desc=self.name, unit="step", leave=False)
        self._start = time.monotonic()
        batches = iter(loader)
        try:
            while True:
                asked = time.monotonic()
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                self.last_data_s = time.monotonic() - asked
                self.data_s += self.last_data_s
                yield self.step, batch
                self.step += 1
        finally:
            if self._bar is not None:
                self._bar.close()

    def count(self, num_clips: int, **values: float) -> None:
        """Say how many clips this step had, and what else to show."""
        self.num_clips += num_clips
        if self.quiet:
            return
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        done = self.step + 1
        if self._bar is not None:
            self._bar.update(1)
            self._bar.set_postfix_str(f"{self.summary()}  {shown}", refresh=False)
        elif (done - self.first) % self.log_period == 0 or done == self.total:
            logger.info(
                "%s  step %d/%d  %s  eta %s  %s", self.name, done, self.total, self.summary(), self.eta(), shown
            )

    @property
    def elapsed_s(self) -> float:
        return max(1e-9, time.monotonic() - self._start)

    @property
    def clips_per_s(self) -> float:
        return self.num_clips * self.num_processes / self.elapsed_s

    def summary(self) -> str:
        share = self.data_s / self.elapsed_s
        return f"{self.clips_per_s:.1f} clips/s  data {share:.0%} compute {1 - share:.0%}"

    def eta(self, further_steps: int = 0) -> str:
        """Remaining time as h:mm:ss, `further_steps` being those after this pass."""
        done = max(1, self.step + 1 - self.first)
        remaining = self.total - self.step - 1 + further_steps
        return str(datetime.timedelta(seconds=int(self.elapsed_s / done * remaining)))


def _has_terminal() -> bool:
    """Whether stderr is a terminal of some size (those of build machines may have none)."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).lines > 0


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain text table; the first column left-aligned, the others right-aligned."""
    cells = [list(map(str, header)), *(["-" if v is None else str(v) for v in row] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    lines = [
        "  ".join(v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
