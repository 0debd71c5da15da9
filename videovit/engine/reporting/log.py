"""The log of a run: console, `stdout.log`, `stats.jsonl`, TensorBoard.

The log is for people. Every result is also reported once through `RunLog.stats`: as a line of
`OUTPUT_DIR/stats.jsonl`, to TensorBoard if enabled, and with `LOG_JSON` as PySlowFast's `json_stats: {...}` line in the
log. Only rank 0 writes files; the other ranks print warnings and errors.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import simplejson

from videovit.engine.reporting import console
from videovit.engine.reporting.json_lines import append_record, read_records
from videovit.engine.reporting.tensorboard import TensorBoard
from videovit.errors import UserError
from videovit.messages import labeled, printable

logger = logging.getLogger("videovit")


class LevelFormatter(logging.Formatter):
    """`[11/28 15:30:00] message`, with the level in front of warnings and errors: `warning: message`.

    Messages contain names of files and classes, which must not reach a terminal with escape sequences in them.
    """

    def __init__(self) -> None:
        super().__init__("[%(asctime)s] %(message)s", datefmt="%m/%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.levelno >= logging.WARNING:
            record.message = labeled(record.levelname.lower(), record.message)
        else:
            record.message = printable(record.message, keep_lines=True)
        return super().formatMessage(record)


class ConsoleHandler(logging.Handler):
    """Writes to stderr without breaking a progress bar, until the console is gone: the run and its file go on.

    If a pipe stays full for WAIT_S, lines are left out until it has room again.
    """

    _is_gone = False
    _is_stuck = False

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_gone:
            return
        was_stuck = self._is_stuck
        try:
            self._is_stuck = not console.write_line(self.format(record), 0.0 if was_stuck else console.WAIT_S)
        except console.CONSOLE_ERRORS as error:
            self._is_gone = True  # before the warning, which goes through this handler too
            logger.warning("the console cannot be written: %s", error)
        if self._is_stuck and not was_stuck:
            logger.warning("the console accepts no more lines; they are left out until it does")


class LogFile(logging.FileHandler):
    """`stdout.log`. If the disk is full, lines are dropped after one warning, and the run goes on.

    Args:
        path: of the file.
        held: keep lines in memory until `write_held`.
    """

    _has_failed = False

    def __init__(self, path: Path, *, held: bool = False) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._held: list[logging.LogRecord] | None = [] if held else None

    @property
    def is_held(self) -> bool:
        return self._held is not None

    def emit(self, record: logging.LogRecord) -> None:
        if self._held is None:
            super().emit(record)
        else:
            self._held.append(record)

    def write_held(self) -> None:
        """Write what was held, and every line from now on."""
        held, self._held = self._held or [], None
        for record in held:
            self.emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._has_failed:
            self._has_failed = True  # before the warning, which goes through this handler too and fails again
            logger.warning("%s cannot be written: %s", self.baseFilename, sys.exc_info()[1])

    def close(self) -> None:
        # Closing flushes, which fails again on a full disk and would hide the error that ended the run.
        with contextlib.suppress(OSError):
            super().close()


class RunLog:
    """The log of one process of a run; a context manager that sets logging up and restores it.

    Args:
        output_dir: folder for `stdout.log` and `stats.jsonl`; created if absent.
        rank: global rank; ranks above 0 write no files and print warnings and errors only.
        tensorboard_dir: folder for TensorBoard event files; None disables them.
        log_json: also write every record to the log.
        held: write nothing before `write_files`, since the folder may belong to another run.

    Raises:
        UserError: TensorBoard is enabled but not installed, or the folder cannot be written.
    """

    def __init__(
        self,
        output_dir: Path,
        *,
        rank: int = 0,
        tensorboard_dir: Path | None = None,
        log_json: bool = False,
        held: bool = False,
    ) -> None:
        self.rank = rank
        self._log_json = log_json
        self._last_texts: dict[str, str] = {}
        self.output_dir = output_dir
        self._tensorboard: TensorBoard | None = None
        self._handlers: list[logging.Handler] = [ConsoleHandler()]
        self._file: LogFile | None = None
        if rank == 0:
            try:
                output_dir.mkdir(parents=True, exist_ok=True)
                for name in ("stdout.log", "stats.jsonl"):
                    _try_to_append(output_dir / name)  # rather than after the first steps
                self._file = LogFile(output_dir / "stdout.log", held=held)
            except (OSError, ValueError) as error:  # ValueError: a null character
                reason = error if isinstance(error, ValueError) else error.strerror
                raise UserError(f"OUTPUT_DIR {output_dir} cannot be written: {reason}") from error
            self._handlers.append(self._file)
            if tensorboard_dir is not None:
                self._tensorboard = TensorBoard(tensorboard_dir)

    def __enter__(self) -> RunLog:
        warnings_log, show = logging.getLogger("py.warnings"), warnings.showwarning
        self._before = (logger.level, logger.propagate, warnings_log.handlers)
        for handler in self._handlers:
            handler.setFormatter(LevelFormatter())
            logger.addHandler(handler)
        logger.setLevel(logging.INFO if self.rank == 0 else logging.WARNING)
        logger.propagate = False  # handlers of the root logger would print every line again
        # Python's warnings, from PyTorch and others, belong in the file too.
        logging.captureWarnings(True)
        self._captures = warnings.showwarning is not show
        warnings_log.handlers = list(self._handlers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._file is not None and not self._file.is_held and error is not None:
            # The command line prints the error on the console, but only after this file is closed.
            with (
                contextlib.suppress(OSError),
                open(self.output_dir / "stdout.log", "a", encoding="utf-8", errors="backslashreplace") as file,
            ):
                file.write(printable(f"ended by {type(error).__name__}: {error}\n", keep_lines=True))
        # A program that uses this library may have configured logging for itself.
        level, logger.propagate, logging.getLogger("py.warnings").handlers = self._before
        logger.setLevel(level)
        if self._captures:
            logging.captureWarnings(False)
        for handler in self._handlers:
            logger.removeHandler(handler)
            handler.close()

    def write_files(self) -> None:
        """Write to the files from now on; for a log that was held."""
        if self._file is not None:
            self._file.write_held()

    def info_if_new(self, topic: str, text: str) -> None:
        """Log `topic: text`, unless it is the last text of this topic."""
        if self._last_texts.get(topic) != text:
            self._last_texts[topic] = text
            logger.info("%s: %s", topic, text)

    def stats(self, kind: str, values: Mapping[str, object], *, step: int | None = None) -> None:
        """Report one record, e.g. `stats("val_epoch", {"epoch": "3/30", "top1_err": 12.5})`.

        Args:
            kind: what the record is about; SlowFast's `_type`.
            values: what to report. A line in the log shows floats with 5 significant digits, the file has all of them.
            step: x position in TensorBoard; None keeps the record out of TensorBoard.

        Raises:
            UserError: `stats.jsonl` cannot be written.
        """
        if self.rank != 0:
            return
        record = {"_type": kind, **values}
        if self._log_json:
            rounded = {name: _rounded(value) for name, value in sorted(record.items())}
            logger.info("json_stats: %s", simplejson.dumps(rounded, ignore_nan=True))
        append_record(self.output_dir / "stats.jsonl", record)
        if self._tensorboard is not None and step is not None:
            self._tensorboard.add(kind, values, step)

    def reported(self, kind: str, epoch: int) -> bool:
        """Whether this run or an earlier one in the same folder reported `kind` for `epoch`; on rank 0 only.

        Args:
            kind: as in `stats`.
            epoch: counted from 1.
        """
        records = read_records(self.output_dir / "stats.jsonl", word=f'"{kind}"')
        return any(r.get("_type") == kind and str(r.get("epoch")).startswith(f"{epoch}/") for r in records)


def _try_to_append(path: Path) -> None:
    """Check that a file, if it exists, can be appended to.

    Raises:
        OSError: it cannot be written, or is a pipe: a run would wait for its reader.
    """
    if not os.path.lexists(path):
        return
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    is_pipe = stat.S_ISFIFO(os.fstat(handle).st_mode)
    os.close(handle)
    if is_pipe:
        raise OSError(errno.ENXIO, f"{path.name} is a pipe")


def _rounded(value: object) -> object:
    # More digits than 5 make log lines hard to compare by eye.
    return float(f"{value:.5g}") if isinstance(value, float) else value


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a plain text table: the first column left-aligned, the others right-aligned, "-" for None."""
    cells = [list(map(printable, header)), *(["-" if v is None else printable(v) for v in row] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    lines = [
        "  ".join(v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
