"""The log of a run: lines, records, progress, tables."""

import contextlib
import fcntl
import json
import logging
import os
import pty
import shutil
import signal
import struct
import sys
import termios
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch

from videovit.cli import say
from videovit.engine.reporting import progress as progress_lines
from videovit.engine.reporting.log import RunLog, format_table, logger
from videovit.engine.reporting.progress import Bar, Progress
from videovit.engine.run_context import Run
from videovit.errors import UserError


def test_stats_are_written_to_log_and_file(tmp_path: Path) -> None:
    with RunLog(tmp_path, log_json=True) as log:
        log.stats("val_epoch", {"epoch": "1/2", "top1_err": 12.3456789, "loss": float("nan")})
    text = (tmp_path / "stdout.log").read_text()
    assert 'json_stats: {"_type": "val_epoch", "epoch": "1/2", "loss": null, "top1_err": 12.346}' in text
    (record,) = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert record == {"_type": "val_epoch", "epoch": "1/2", "top1_err": 12.3456789, "loss": None}


def test_log_has_no_json_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path) as log:
        log.stats("train_iter", {"epoch": "1/2", "loss": 1.5})
        logger.info("a line")
    for text in ((tmp_path / "stdout.log").read_text(), capsys.readouterr().err):
        assert "a line" in text and "json_stats" not in text and "{" not in text
    assert "train_iter" in (tmp_path / "stats.jsonl").read_text()


@pytest.mark.parametrize("level", [logging.NOTSET, logging.ERROR])
def test_closed_log_restores_the_logger(level: int, tmp_path: Path) -> None:
    """A program that uses the library configures its own logging."""
    warnings_log = logging.getLogger("py.warnings")
    own = logging.NullHandler()
    logger.setLevel(level)
    logger.propagate = False
    warnings_log.addHandler(own)
    try:
        with RunLog(tmp_path):
            assert logger.level == logging.INFO
        assert (logger.level, logger.propagate, logger.handlers) == (level, False, [])
        assert warnings_log.handlers == [own]
    finally:
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        warnings_log.removeHandler(own)


def test_line_of_a_topic_is_not_repeated(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        for text in ("7 pyav", "7 pyav", "6 pyav, 1 decord", "6 pyav, 1 decord"):
            log.info_if_new("validation: videos were decoded by", text)
    assert len((tmp_path / "stdout.log").read_text().splitlines()) == 2


def test_reported_is_known_after_an_incomplete_line(tmp_path: Path) -> None:
    """A record that a full disk cut off does not prevent resuming, even twice."""
    for _ in range(2):
        with RunLog(tmp_path) as log:
            assert not log.reported("val_epoch", 2)
            (tmp_path / "stats.jsonl").open("a").write('{"_type": "val_epoch", "epoch": "2/')
            log.stats("val_epoch", {"epoch": "12/20"})
            assert log.reported("val_epoch", 12) and not log.reported("val_epoch", 1)


def test_log_on_full_disk_warns_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error that ended the run is reported, not that its log could not be written."""
    (tmp_path / "stdout.log").symlink_to("/dev/full")
    with pytest.raises(UserError, match="no such list"), RunLog(tmp_path):
        for line in range(3):
            logger.info("line %d", line)
        raise UserError("no such list")
    shown = capsys.readouterr().err
    assert shown.count("stdout.log cannot be written: [Errno 28]") == 1
    assert "line 2" in shown and "Traceback" not in shown and "Call stack" not in shown


@pytest.mark.parametrize("console", ["pipe", "full disk", "closed"])
def test_run_goes_on_without_console(console: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `| head`, with stderr on a full disk, or on a terminal that was closed."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(os.open("/dev/full", os.O_WRONLY) if console == "full disk" else writer, "w", buffering=1)
    if console == "closed":
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    with RunLog(tmp_path):
        for line in range(3):
            logger.info("line %d", line)
    text = (tmp_path / "stdout.log").read_text()
    assert text.count("the console cannot be written") == 1 and text.count("line ") == 3
    with contextlib.suppress(OSError, ValueError):
        stream.close()


def test_pipe_that_nobody_reads_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines appear again once the pipe is read."""
    monkeypatch.setattr("videovit.engine.reporting.console.WAIT_S", 0.1)
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", stream)
    with RunLog(tmp_path):
        for line in range(2000):
            logger.info("line %d %s", line, "x" * 100)
        os.read(reader, 1 << 20)
        logger.info("the last line")
    assert b"the last line" in os.read(reader, 1 << 20)
    text = (tmp_path / "stdout.log").read_text()
    assert text.count("the console accepts no more lines") == 1 and text.count("line ") == 2000
    stream.close()
    os.close(reader)


def test_line_longer_than_a_pipe_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videovit.engine.reporting.console.WAIT_S", 0.1)
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stderr", os.fdopen(writer, "w", buffering=1))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(20)  # ends a line that waits
    try:
        with RunLog(tmp_path):
            logger.info("a list of names: %s", "x" * 1_000_000)
        say("e" * 1_000_000)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        os.close(reader)
    assert (tmp_path / "stdout.log").read_text().count("x") == 1_000_000


@pytest.mark.parametrize("has_reader", [False, True])
@pytest.mark.parametrize("name", ["stdout.log", "stats.jsonl"])
def test_pipe_as_file_of_a_run_is_an_error(tmp_path: Path, name: str, has_reader: bool) -> None:
    os.mkfifo(tmp_path / name)
    reader = os.open(tmp_path / name, os.O_RDONLY | os.O_NONBLOCK) if has_reader else None
    with pytest.raises(UserError, match="cannot be written: " + (f"{name} is a pipe" if has_reader else "No such")):
        RunLog(tmp_path)
    if reader is not None:
        os.close(reader)


def test_progress_goes_on_without_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that is closed in the middle of an epoch."""
    monkeypatch.setattr(progress_lines, "LINE_S", 0.0)
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    stream = os.fdopen(terminal, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", stream)
    with RunLog(tmp_path):
        progress = Progress("epoch 1/2", 4, log_period=1)
        for step, _ in progress.over("abcd"):
            if step == 1:
                os.close(main)
            time.sleep(0.15)  # the bar is drawn ten times per second
            progress.count(1)
        assert progress.num_clips == 4
        progress = Progress("epoch 2/2", 4, log_period=4)
        for _ in progress.over("abcd"):
            progress.count(1)
    assert "epoch 2/2  step 4/4" in (tmp_path / "stdout.log").read_text()
    with contextlib.suppress(OSError):
        stream.close()


def test_held_log_writes_nothing_before_release(tmp_path: Path) -> None:
    (tmp_path / "stdout.log").write_text("of another run\n")
    with pytest.raises(UserError), RunLog(tmp_path, tensorboard_dir=tmp_path / "tb", held=True):
        logger.warning("one")
        raise UserError("in use")
    assert (tmp_path / "stdout.log").read_text() == "of another run\n" and not (tmp_path / "tb").exists()
    with pytest.raises(UserError), RunLog(tmp_path, held=True) as log:
        logger.warning("two")
        log.write_files()
        logger.warning("three")
        raise UserError("four")
    lines = (tmp_path / "stdout.log").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["run", "two", "three", "four"]


def test_stats_that_cannot_be_written_are_noticed_at_start(tmp_path: Path) -> None:
    (tmp_path / "stats.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot be written: Is a directory"):
        RunLog(tmp_path)


def test_folder_with_a_null_character_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: .*null"):
        RunLog(tmp_path / "a\0b")


def test_removed_folder_is_named(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run") as log:
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(UserError, match=r"run/stats.jsonl: could not be written: No such file"):
            log.stats("val_epoch", {"epoch": "1/2"})


def test_names_with_escape_sequences_are_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b]0;owned\x07a\rb\udce4.mp4"
    with pytest.raises(UserError), RunLog(tmp_path):
        logger.warning("unreadable: %s\nand others", name)
        raise UserError("cannot be read", where=name)
    for text in ((tmp_path / "stdout.log").read_text(), capsys.readouterr().err):
        assert "\x1b" not in text and "\x07" not in text and "\r" not in text
        assert r"unreadable: \x1b]0;owned\x07a\rb\udce4.mp4" in text and "\nand others" in text


def test_warnings_and_errors_carry_their_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path):
        logger.info("one")
        logger.warning("two of %d", 3)
        logger.error("three")
        warnings.warn("four", stacklevel=1)
    for text in ((tmp_path / "stdout.log").read_text(), capsys.readouterr().err):
        lines = [line.split("] ", 1)[1] for line in text.splitlines() if line.startswith("[")]
        assert lines[:3] == ["one", "warning: two of 3", "error: three"]
        assert lines[3].startswith("warning: ") and lines[3].endswith("UserWarning: four")


def test_file_names_that_are_not_utf_8_are_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Image folders may contain such files."""
    with pytest.raises(UserError), RunLog(tmp_path):
        logger.info("unreadable: %s", os.fsdecode(b"m\xe4dchen.png"))
        raise UserError(os.fsdecode(b"m\xe4dchen.png"))
    assert (tmp_path / "stdout.log").read_text().count(r"m\udce4dchen.png") == 2
    assert "cannot be written" not in capfd.readouterr().err


def test_ranks_above_zero_write_no_files(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run", rank=1) as log:
        log.stats("val_epoch", {"a": 1})
    assert not (tmp_path / "run").exists()


def test_tensorboard_receives_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path, tensorboard_dir=tmp_path / "tb") as log:
        log.stats("train_iter", {"epoch": "1/2", "loss": 1.5}, step=3)
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train_iter/loss")] == [(3, 1.5)]


def test_progress_without_terminal_logs_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_lines, "LINE_S", 0.0)
    with RunLog(tmp_path):
        progress = Progress("epoch 1/2", 4, log_period=2)
        for _, batch in progress.over([3, 3, 3, 3]):
            progress.count(batch, loss=0.5)
    lines = [line for line in (tmp_path / "stdout.log").read_text().splitlines() if "step" in line]
    assert len(lines) == 2
    assert all(word in lines[1] for word in ("epoch 1/2", "step 4/4", "clips/s", "data", "compute", "eta", "loss 0.5"))
    assert progress.num_clips == 12


def test_lines_of_a_quick_pass_are_sparse(tmp_path: Path) -> None:
    with RunLog(tmp_path):
        progress = Progress("epoch 1/2", 100, log_period=1)
        for _ in progress.over(range(100)):
            progress.count(1)
    assert "step" not in (tmp_path / "stdout.log").read_text()


def test_bar_of_a_pass_stands_below_that_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    stream = os.fdopen(terminal, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", stream)
    pieces: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while True:
                pieces.append(os.read(main, 4096))

    reader = threading.Thread(target=read)
    reader.start()
    with RunLog(tmp_path):
        whole = Bar("training", 8)
        progress = Progress("epoch 1/2", 4)
        for _ in progress.over("abcd"):
            whole.update()
            progress.count(1, loss=0.5)
        logger.info("a line between the bars")
        whole.close()
    stream.close()
    reader.join()
    os.close(main)
    shown = b"".join(pieces).decode()
    assert "training:   0%" in shown and "\n\repoch 1/2:   0%" in shown.replace("\r\n", "\n")
    assert "a line between the bars" in shown and "step" not in (tmp_path / "stdout.log").read_text()


def test_rates_include_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of four ranks has seen 50 clips in two seconds."""
    monkeypatch.setattr(progress_lines, "LINE_S", 0.0)
    monkeypatch.setattr(Progress, "elapsed_s", 2.0)
    with RunLog(tmp_path) as log:
        progress = Run(log, torch.device("cpu"), rank=0, world_size=4).progress("test", 1, log_period=1)
        for _ in progress.over("a"):
            progress.count(50)
    assert " 100.0 clips/s " in (tmp_path / "stdout.log").read_text()
    assert progress.clips_per_s == 100.0


def test_progress_of_resumed_epoch_continues_counting() -> None:
    progress = Progress("epoch", 10, first=7, quiet=True)
    assert [step for step, _ in progress.over("abc")] == [7, 8, 9]


def test_remaining_time_beyond_all_calendars(tmp_path: Path) -> None:
    progress = Progress("epoch 1", 3, quiet=True)
    for _ in progress.over(range(1)):
        time.sleep(0.001)
    assert "days" in progress.eta(2**53)


def test_logging_is_restored_afterwards(tmp_path: Path) -> None:
    before = list(logger.handlers)
    with RunLog(tmp_path):
        assert len(logger.handlers) == len(before) + 2
    assert logger.handlers == before
    assert logger.propagate
    assert logging.getLogger("py.warnings").handlers == []


def test_format_table_aligns_columns() -> None:
    assert format_table(["a", "bb"], [["x", 1], ["yyy", None]]) == "a    bb\n---  --\nx     1\nyyy   -"


def test_tensorboard_without_package_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        RunLog(tmp_path, tensorboard_dir=tmp_path / "tb")
