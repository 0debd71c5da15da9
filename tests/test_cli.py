"""The command line: commands, separating configs from KEY VALUE pairs, exit codes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.project import ROOT
from videovit import __version__
from videovit.cli import COMMANDS, exit_code, main, split_config_arguments
from videovit.commands import benchmark, run
from videovit.config import Config, ConfigError


@pytest.mark.parametrize(
    ("words", "opts", "files", "pairs"),
    [
        (["a.yaml"], [], ["a.yaml"], []),
        (["a.yaml", "b.yml"], [], ["a.yaml", "b.yml"], []),
        (["a.yaml", "NUM_GPUS", "0"], [], ["a.yaml"], ["NUM_GPUS", "0"]),
        (["a.yaml"], ["NUM_GPUS", "0"], ["a.yaml"], ["NUM_GPUS", "0"]),
        (["a.yaml", "NUM_GPUS", "0"], ["--opts", "X", "1"], ["a.yaml"], ["NUM_GPUS", "0", "X", "1"]),
        (["a.yaml", "OUTPUT_DIR", "b.yaml"], [], ["a.yaml"], ["OUTPUT_DIR", "b.yaml"]),
        (["odd"], ["X", "1"], ["odd"], ["X", "1"]),  # loading it explains what is wrong
        (["Demo/PIT", "Demo/PS_VIT", "X", "1"], [], ["Demo/PIT", "Demo/PS_VIT"], ["X", "1"]),
    ],
)
def test_configs_come_first(words: list[str], opts: list[str], files: list[str], pairs: list[str]) -> None:
    assert split_config_arguments(words, opts) == (files, pairs)


def test_existing_file_without_suffix_is_a_config(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.touch()
    assert split_config_arguments(["a.yaml", str(path), "X", "1"], []) == (["a.yaml", str(path)], ["X", "1"])


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_lists_all_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and command.help in shown for name, command in COMMANDS.items())
    assert max(map(len, shown.splitlines())) <= 120


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"videovit {__version__}\n"


def test_unknown_command_suggests_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rnu"]) == 2
    assert "'rnu' is not a command; did you mean run?" in capsys.readouterr().err
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: videovit COMMAND")


@pytest.mark.parametrize("name", COMMANDS)
def test_command_help_needs_no_torch(name: str) -> None:
    code = f"""
import sys
from videovit.cli import main
try:
    main([{name!r}, "--help"])
finally:
    assert not {{"torch", "numpy"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: videovit {name} ")


def test_config_mistake_needs_no_torch() -> None:
    code = "import sys; from videovit.cli import main; code = main(sys.argv[1:]); print('torch' in sys.modules, code)"
    words = ["run", "--cfg", "Demo/MVIT_TINY", "NUM_GPU", "0"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout == "False 1\n"
    assert "command line: NUM_GPU is not a known key; did you mean NUM_GPUS?" in done.stderr


@pytest.mark.parametrize(
    ("tool", "command"),
    [
        *[("run_net.py", "run"), ("predict.py", "predict"), ("submit.py", "submit"), ("export_weights.py", "export")],
        *[("probe_videos.py", "probe"), ("reencode_videos.py", "reencode")],
    ],
)
def test_tool_has_the_arguments_of_its_command(tool: str, command: str) -> None:
    calls = ([str(ROOT / "tools" / tool)], ["-m", "videovit", command])
    first, second = (
        subprocess.run([sys.executable, *call, "--help"], capture_output=True, text=True, timeout=60, cwd=ROOT).stdout
        for call in calls
    )
    assert first.startswith(f"usage: {tool} ")
    assert first.split("\n\n")[1:] == second.split("\n\n")[1:]


@pytest.mark.parametrize(
    "tool", sorted(path.name for path in (ROOT / "tools").glob("*.py") if path.stem != "benchmark_peers")
)
def test_tool_without_the_project_explains_how_to_install_it(tool: str, tmp_path: Path) -> None:
    call = [sys.executable, "-I", "-S", str(ROOT / "tools" / tool), "--help"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"install the project into this Python: {sys.executable} -m pip install -e ." in done.stderr


def test_benchmark_command_only_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Config] = []
    monkeypatch.setattr(benchmark, "run_all", ran.extend)
    benchmark.main(["--what", "train", "--cfg", "Demo/MVIT_TINY", "BENCHMARK.NUM_STEPS", "2", "BENCHMARK.WHAT", "sync"])
    benchmark.main(["--cfg", "Demo/MVIT_TINY", "BENCHMARK.WHAT", "sync", "TEST.ENABLE", "True"])
    first, second = ran
    assert first.BENCHMARK.ENABLE and (first.BENCHMARK.WHAT, first.BENCHMARK.NUM_STEPS) == ("train", 2)
    assert not (first.TRAIN.ENABLE or first.TEST.ENABLE or first.SHUFFLE_EVAL.ENABLE or first.SEARCH.ENABLE)
    assert second.BENCHMARK.WHAT == "sync" and second.TEST.ENABLE
    with pytest.raises(SystemExit):
        benchmark.main(["--what", "nothing", "--cfg", "Demo/MVIT_TINY"])


def test_option_that_exists_is_not_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", "run", "--format", "onnx", "--size", "64"])
    assert capsys.readouterr().err.endswith("argument --size: expected 2 arguments\n")


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["predict", "a.mp4", "--modle", "x"], "--model"),
        (["finetune", "videos", "--from-scrach"], "--from-scratch"),
        (["run", "--cfg", "Demo/PIT", "--optss"], "--opts"),
        (["analyze", "a", "--outptu=b"], "--output"),
        (["features", "a", "--model", "b", "--output", "c", "--layer", "stage 2"], "stage2"),
        (["zoo", "--\x1b[31m"], ""),
    ],
)
def test_unknown_option_or_choice_suggests_nearest(
    words: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    printed = capsys.readouterr().err
    assert printed.endswith(f"; did you mean {near}?\n" if near else "--\\x1b[31m\n")


def test_wrong_value_suggests_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["pack", "list.csv", "--output", "shards", "--size", "200KB"])
    assert capsys.readouterr().err.endswith("argument --size: '200KB' is no size such as 500MB or 1GB\n")


@pytest.mark.parametrize("words", [["analyze", "a", "--output"], ["robustness", "a", "--what"]])
def test_option_without_its_value_suggests_nothing(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert re.search(rf"argument {words[-1]}: expected .* argument\n$", capsys.readouterr().err)


def test_runs_in_one_output_dir_are_refused() -> None:
    with pytest.raises(ValueError, match="several configs train in one OUTPUT_DIR: x, x; give each its own"):
        run.main(["--cfg", "Demo/PIT", "Demo/PS_VIT", "OUTPUT_DIR", "x"])


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def user_error() -> None:
        raise ConfigError(["a is b"])

    def interrupt() -> None:
        raise KeyboardInterrupt

    def bug() -> None:
        raise ZeroDivisionError

    assert exit_code(lambda: None) == 0
    assert exit_code(user_error) == 1
    assert "a is b" in capsys.readouterr().err
    assert exit_code(interrupt, hint="go on") == 130
    assert "go on" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        exit_code(bug)


@pytest.mark.parametrize(
    ("statement", "is_finished"),
    [
        ("list(map(__import__, ['package.slow']))", True),
        ("import package.slow", False),
        ("from package import slow", False),
    ],
)
def test_ctrl_c_during_an_import_of_an_extension_waits_for_its_end(
    statement: str, is_finished: bool, tmp_path: Path
) -> None:
    """C imports it, and drops the exception as the initialization of torch does; a statement is interrupted at once."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").write_text("")
    (tmp_path / "package/slow.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.2)\n"
        "    print('finished', flush=True)\n"
        "except KeyboardInterrupt:\n"
        f"    if {is_finished}: pass\n"
        "    else: raise\n"
    )
    code = (
        "import sys, time\n"
        "from videovit.cli import exit_code\n"
        "def main():\n"
        f"    {statement}\n"
        "    time.sleep(60)\n"
        "sys.exit(exit_code(main))\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, env=env)
    assert done.stdout == ("finished\n" if is_finished else "")
    assert done.stderr == "\ninterrupted\n" and done.returncode == 130


def test_machine_errors_are_no_bugs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write_to_a_folder() -> None:
        tmp_path.write_text("")

    def write_to_a_full_disk() -> None:
        Path("/dev/full").write_text("text")

    def read_an_absent_file() -> None:
        (tmp_path / "absent").read_text()

    assert exit_code(write_to_a_folder) == exit_code(write_to_a_full_disk) == 1
    printed = capsys.readouterr().err
    assert f"error: [Errno 21] Is a directory: '{tmp_path}'" in printed and "error: [Errno 28] No space left" in printed
    with pytest.raises(FileNotFoundError):
        exit_code(read_an_absent_file)
