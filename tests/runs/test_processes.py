"""Whole runs as processes: two in one folder, a console that goes away, a bare environment, threads of prediction."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.project import ROOT
from tests.helpers.runs import Make, exit_codes, num_lines, start_ranks, wait_for
from videovit.commands import predict
from videovit.config import dump_config
from videovit.engine import launch
from videovit.engine.tasks import predict as task
from videovit.errors import UserError

LONG = "SOLVER.MAX_EPOCH 500 TRAIN.CHECKPOINT_PERIOD 500 TEST.ENABLE False TRAIN.EVAL_PERIOD 500"


def test_refused_run_leaves_log_of_the_first(make: Make, tmp_path: Path) -> None:
    cfg = make(tmp_path, LONG)
    (first,) = start_ranks(cfg)
    wait_for(lambda: num_lines(tmp_path / "stats.jsonl") >= 2)
    assert exit_codes(start_ranks(cfg)) == [1]
    first.terminate()
    assert exit_codes([first]) == [75]
    text = (tmp_path / "stdout.log").read_text()
    assert text.count("process 1 of 1") == 1 and "in use by" not in text and "ended by UserError" not in text
    assert "ended by Preempted" in text


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGTERM])
def test_console_that_goes_away(signum: signal.Signals, make: Make, tmp_path: Path) -> None:
    """As after `| head`; then a signal, which still saves."""
    config = tmp_path / "config.yaml"
    config.write_text(dump_config(make(tmp_path / "run", LONG)))
    command = [sys.executable, "-m", "videovit", "run", "--cfg", str(config)]
    reader, writer = os.pipe()
    with subprocess.Popen(command, cwd=ROOT, stdout=writer, stderr=writer) as process:
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        wait_for(lambda: num_lines(tmp_path / "run/stats.jsonl") >= 5)
        process.send_signal(signum)
        assert process.wait(60) == 75
    assert "the console cannot be written" in (tmp_path / "run/stdout.log").read_text()
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 1


def test_bare_environment(make: Make, tmp_path: Path) -> None:
    """Without any environment variable, not even PATH."""
    config = tmp_path / "config.yaml"
    opts = "SOLVER.MAX_EPOCH 1 NUM_CPU_PROCS 2 DATA_LOADER.NUM_WORKERS 1"
    config.write_text(dump_config(make(tmp_path / "run", opts)))
    command = [sys.executable, "-m", "videovit", "run", "--cfg", str(config)]
    done = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_predict_uses_its_threads(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = make(tmp_path / "run", "SOLVER.MAX_EPOCH 1 TEST.ENABLE False")
    used = []

    class Counting(task.Predictor):
        def predict(self, path: str, *, quiet: bool = False) -> task.Prediction:
            used.append(torch.get_num_threads())
            raise UserError("enough")

    before = torch.get_num_threads()
    monkeypatch.setattr(task, "Predictor", Counting)
    try:
        launch.run(cfg)
        video = str(Path(cfg.DATA.PATH_TO_DATA_DIR) / "test0.mp4")
        words = ["--cfg", str(tmp_path / "run/config.yaml"), "--checkpoint", str(tmp_path / "run"), video]
        words += ["--opts", "NUM_CPU_THREADS", "3"]
        with pytest.raises(UserError, match="enough"):
            predict.main(words)
    finally:
        torch.set_num_threads(before)
    assert used == [3]
