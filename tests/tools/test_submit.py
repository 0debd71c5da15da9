"""`videovit submit`: real jobs through submitit's local executor, and what it passes to Slurm."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import submitit
import torch

from tests.helpers.held_job import HeldJob
from tests.helpers.project import CONFIGS
from tests.helpers.runs import ROOT, exit_codes, num_lines, start_ranks, wait_for, write_config, write_data
from videovit.commands import submit
from videovit.config import load_config
from videovit.engine import slurm
from videovit.engine.slurm import SubmitError
from videovit.errors import UserError

SHORT = ["SOLVER.MAX_EPOCH", "2", "TRAIN.EVAL_PERIOD", "9", "TEST.ENABLE", "False", "TRAIN.TRACE", "True"]
Submitted = list["submitit.Job[Any]"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of a tiny training run."""
    home = tmp_path_factory.mktemp("home")
    data = write_data(home / "data")
    return ["--cfg", str(write_config(home)), "DATA.PATH_TO_DATA_DIR", str(data), *SHORT]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[object]], Submitted]:
    """`call(words)` runs the command in this process and returns the jobs that it submitted."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]))
    jobs: Submitted = []
    submit_jobs = slurm.submit
    monkeypatch.setattr(slurm, "submit", lambda *args, **others: jobs.extend(submit_jobs(*args, **others)) or jobs)

    def run(words: Sequence[object]) -> Submitted:
        jobs.clear()
        submit.main([*map(str, words)])
        return list(jobs)

    return run


Call = Callable[[Sequence[object]], Submitted]


def reference(words: Sequence[str], folder: Path, world_size: int) -> Path:
    """The same training without an interruption."""
    cfg = load_config(words[1], [*words[2:], "OUTPUT_DIR", str(folder)])
    assert exit_codes(start_ranks(cfg, world_size)) == [0] * world_size
    return folder


def assert_same(first: Path, second: Path) -> None:
    """Check for the same weights, bit for bit, and for every step done once with the same samples."""
    one, two = (torch.load(folder / "checkpoints/checkpoint_epoch_00002.pyth") for folder in (first, second))
    for name, tensor in one["model_state"].items():
        assert torch.equal(two["model_state"][name], tensor), name
    traces = sorted(path.name for path in first.glob("trace_rank*.jsonl"))
    assert traces == sorted(path.name for path in second.glob("trace_rank*.jsonl"))
    for name in traces:
        assert (first / name).read_text() == (second / name).read_text()


def output_of(job: submitit.Job[Any], rank: int = 0) -> str:
    """What submitit logged in a process of the job."""
    return job.task(rank).paths.stdout.read_text()


# ---------------------------------------------------------------------------------------------------- on this machine


def test_local_job_continues_after_time_limit(
    words: list[str], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, out = reference(words, tmp_path / "whole", 1), tmp_path / "out"
    monkeypatch.setattr(slurm, "Job", HeldJob)
    limit = ["--timeout-hours", 60 / 3600, "--signal-delay", 35]  # enough time to start on a busy machine
    (job,) = call(["--cluster", "local", *limit, *words, "OUTPUT_DIR", str(out)])
    printed = capfd.readouterr().out
    assert f"job {job.job_id} (1 x 1 processes): {out}\n" in printed and f"tail -F {job.paths.stderr}" in printed
    wait_for(job.done, 240)
    assert "this job is timed-out" in output_of(job) and "Requeued job" in output_of(job)
    assert [set(numbers) for numbers in job.result()] == [{"train"}]
    assert_same(whole, out)


def test_signal_to_one_process_stops_both(
    words: list[str], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stop at the same step, only the first one requeues the job, and neither leaves a result."""
    whole, out = reference(words, tmp_path / "whole", 2), tmp_path / "out"
    monkeypatch.setattr(slurm, "Job", HeldJob)
    (job,) = call(["--cluster", "local", "--tasks-per-node", 2, *words, "OUTPUT_DIR", str(out)])
    held = HeldJob((load_config(None, ["OUTPUT_DIR", str(out)]),), ()).held
    wait_for(lambda: len(held()) == 2, 120)
    for _ in range(2):
        os.kill(held()[1], signal.SIGUSR2)
    (out / "go_on").touch()
    wait_for(job.done, 120)
    assert output_of(job).count("Caught signal") == output_of(job).count("Requeued job") == 1
    assert "Caught signal" not in output_of(job, 1)
    assert not any("Traceback" in path.read_text() for path in job.paths.folder.glob("*.err"))
    assert len(job.results()) == 2
    assert_same(whole, out)


def test_local_job_runs_detached_and_can_be_stopped(words: list[str], tmp_path: Path) -> None:
    """The command returns while the job trains, although its output is a pipe."""
    command = [sys.executable, ROOT / "tools/submit.py", "--cluster", "local", *words, "SOLVER.MAX_EPOCH", "500"]
    command += ["OUTPUT_DIR", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    pid = int(re.findall(r"^  stop:     kill (\d+) ", done.stdout, re.MULTILINE)[0])
    wait_for(lambda: num_lines(tmp_path / "stats.jsonl") >= 2, 120)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), 120)
    steps = num_lines(tmp_path / "trace_rank0.jsonl")
    newest = max((tmp_path / "checkpoints").iterdir())
    content = torch.load(newest)
    assert 3 * (content["epoch"] + 1) + content["step"] == steps < 1500
    assert not (tmp_path / ".videovit.lock").exists()


def test_debug_cluster_runs_in_this_process(words: list[str], call: Call, tmp_path: Path) -> None:
    one = [*words, "SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", str(tmp_path)]
    assert call(["--cluster", "debug", *one]) == []
    assert (tmp_path / "checkpoints/checkpoint_epoch_00001.pyth").exists() and not (tmp_path / "jobs").exists()
    with pytest.raises(UserError, match="nowhere"):
        call(["--cluster", "debug", *one, "DATA.PATH_TO_DATA_DIR", "nowhere"])


# ------------------------------------------------------------------------------------------------------ what Slurm gets

SBATCH = """#!/bin/sh
if [ -e "$CLUSTER/refusal" ]; then cat "$CLUSTER/refusal" >&2; exit 1; fi
cp "$1" "$CLUSTER/script"
echo "Submitted batch job 123"
"""
SRUN = """#!/bin/sh
if [ -n "$ENDS_WITH" ]; then exit "$ENDS_WITH"; fi
while :; do
  case "$1" in --output|--error) shift 2;; -*) shift;; *) break;; esac
done
SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 exec "$@"
"""
SCONTROL = '#!/bin/sh\necho "$@" >> "$CLUSTER/scontrol.log"\n'


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fake Slurm programs: sbatch keeps the script, srun starts one process on this machine."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL, "sleep": "#!/bin/sh\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("CLUSTER", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def flags(cluster: Path) -> dict[str, str]:
    lines = (cluster / "script").read_text().splitlines()
    found = [re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(.*))?", line) for line in lines]
    return {match[1]: match[2] or "" for match in found if match}


def run_script(cluster: Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a node would."""
    env = {**os.environ, "SLURM_JOB_ID": "123", **variables}
    return subprocess.run(["bash", cluster / "script"], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_options_reach_sbatch(
    words: list[str], call: Call, cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {
        **{"partition": "gpu", "account": "vision", "qos": "high", "constraint": "a100|h100", "exclude": "node[7-9]"},
        **{"nodelist": "node[1-2]", "comment": "ICML deadline", "mem": "64GB", "nodes": "2", "gpus-per-node": "4"},
        **{"cpus-per-task": "10"},
    }
    options = [word for name, value in asked.items() for word in (f"--{name}", value)]
    options += ["--timeout-hours", "1.01", "--signal-delay", "90", "--name", "mvit", "--requeues", "3"]
    (job,) = call([*options, *words, "OUTPUT_DIR", str(tmp_path / "out"), "--job-dir", str(tmp_path / "jobs/%j")])
    printed = capsys.readouterr().out
    logs = tmp_path / "jobs/123/123_0_log"
    assert f"job 123 (2 x 4 processes): {tmp_path / 'out'}\n" in printed and f"tail -F {logs}.err" in printed
    assert "squeue -j 123 " in printed and "scancel 123\n" in printed and "scancel --signal=USR2 123 " in printed
    assert flags(cluster) == {
        **asked,
        **{"constraint": "'a100|h100'", "exclude": "'node[7-9]'", "nodelist": "'node[1-2]'"},
        **{"comment": "'ICML deadline'", "job-name": "mvit", "time": "61", "signal": "USR2@90"},
        **{"ntasks-per-node": "4", "open-mode": "append", "wckey": "submitit", "requeue": ""},
        **{"output": str(logs).replace("123", "%j") + ".out", "error": str(logs).replace("123", "%j") + ".err"},
    }
    (srun,) = [line for line in (cluster / "script").read_text().splitlines() if line.startswith("srun ")]
    assert " --kill-on-bad-exit=1 " in srun and " --cpus-per-task=10 " in srun
    assert f"export PYTHONPATH={ROOT}" in (cluster / "script").read_text()
    (cfg,) = submitit.core.utils.DelayedSubmission.load(job.paths.submitted_pickle).function.configs
    assert (cfg.NUM_SHARDS, cfg.NUM_GPUS, cfg.SOLVER.MAX_EPOCH) == (2, 4, 2)


@pytest.mark.parametrize("folder", ["jobs", "jobs/%j/a b"])
def test_crashes_are_requeued_and_errors_are_not(
    folder: str, words: list[str], call: Call, cluster: Path, tmp_path: Path
) -> None:
    jobs = ["--job-dir", str(tmp_path / folder)]
    call(["--requeues", "2", *jobs, *words, "OUTPUT_DIR", str(tmp_path / "out")])
    result = tmp_path / folder.replace("%j", "123") / "123_1_result.pkl"
    result.touch()  # left by the process that failed; the others were killed
    codes = [run_script(cluster, tmp_path, ENDS_WITH=code).returncode for code in ("0", "1", "143")]
    assert codes == [0, 1, 143] and not (cluster / "scontrol.log").exists()
    result.unlink()
    codes = [run_script(cluster, tmp_path, ENDS_WITH=code).returncode for code in ("0", "1", "137", "143", "137")]
    assert codes == [0, 1, 137, 143, 137]
    assert (cluster / "scontrol.log").read_text().splitlines() == ["requeue 123"] * 2
    array = {"SLURM_ARRAY_JOB_ID": "120", "SLURM_ARRAY_TASK_ID": "2"}
    (tmp_path / folder.replace("%j", "120_2")).mkdir(parents=True, exist_ok=True)
    assert run_script(cluster, tmp_path, ENDS_WITH="137", **array).returncode == 137
    assert (cluster / "scontrol.log").read_text().splitlines()[2:] == ["requeue 120_2"]
    call(["--requeues", "0", *jobs, *words, "OUTPUT_DIR", str(tmp_path / "out")])
    assert run_script(cluster, tmp_path, ENDS_WITH="137").returncode == 137
    assert len((cluster / "scontrol.log").read_text().splitlines()) == 3 and "no-requeue" in flags(cluster)


def test_sweep_becomes_one_array(words: list[str], call: Call, cluster: Path, tmp_path: Path) -> None:
    lines = tmp_path / "sweep.txt"
    lines.write_text("# rates\nSOLVER.BASE_LR 1e-4\n\nSOLVER.BASE_LR 2e-4 OUTPUT_DIR /elsewhere  # far\n")
    jobs = call([*words, "OUTPUT_DIR", str(tmp_path / "out"), "--array", str(lines)])
    assert [job.job_id for job in jobs] == ["123_0", "123_1"] and flags(cluster)["array"] == "0-1%2"
    loaded = [submitit.core.utils.DelayedSubmission.load(job.paths.submitted_pickle) for job in jobs]
    configs = [delayed.function.configs[0] for delayed in loaded]
    assert [cfg.SOLVER.BASE_LR for cfg in configs] == [1e-4, 2e-4]
    assert [cfg.OUTPUT_DIR for cfg in configs] == [str(tmp_path / "out/2"), "/elsewhere"]
    assert jobs[0].paths.folder == tmp_path / "out/jobs"


def test_job_has_the_nodes_of_the_config(words: list[str], call: Call, cluster: Path, tmp_path: Path) -> None:
    """A run for two machines gets two, wherever NUM_SHARDS is set."""
    lines = tmp_path / "sweep.txt"
    lines.write_text("NUM_SHARDS 2\n")
    here = [*words, "OUTPUT_DIR", str(tmp_path / "out")]
    for asked in (["NUM_SHARDS", "2"], ["--array", str(lines)]):
        (job,) = call([*here, *asked])
        (cfg,) = submitit.core.utils.DelayedSubmission.load(job.paths.submitted_pickle).function.configs
        assert (flags(cluster)["nodes"], cfg.NUM_SHARDS) == ("2", 2), asked
    call([*here, "NUM_SHARDS", "2", "--nodes", "3"])
    assert flags(cluster)["nodes"] == "3"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("SOLVER.BASE_LR", r"sweep.txt:2: expected KEY VALUE pairs, found 1 word"),
        ("SOLVER.BASE_LR '1", r"sweep.txt:2: No closing quotation"),
        ("SOLVER.BASE_LRR 1", r"sweep.txt:2: .*SOLVER.BASE_LRR.*SOLVER.BASE_LR"),
        ("OUTPUT_DIR {out}/1", r"several runs train in one OUTPUT_DIR: .*/1"),
        ("NUM_CPU_PROCS 2", r"1 x 1 \(0 GPUs\); 1 x 2 \(0 GPUs\)"),
    ],
)
def test_mistakes_in_a_sweep_prevent_submission(
    line: str, message: str, words: list[str], call: Call, cluster: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "sweep.txt"
    lines.write_text(f"SOLVER.BASE_LR 1\n{line.format(out=tmp_path)}\n")
    with pytest.raises(UserError, match=re.compile(message, re.DOTALL)):
        call([*words, "OUTPUT_DIR", str(tmp_path), "--array", str(lines)])
    assert not (cluster / "script").exists()


def test_refusal_of_sbatch_is_shown(words: list[str], call: Call, cluster: Path, tmp_path: Path) -> None:
    (cluster / "refusal").write_text("sbatch: error: invalid partition specified: gpuu\n")
    with pytest.raises(SubmitError, match="the cluster refused the job: sbatch: error: invalid partition specified"):
        call(["--partition", "gpuu", *words, "OUTPUT_DIR", str(tmp_path)])


def test_without_slurm(words: list[str], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SubmitError, match="sbatch is not in PATH.*--cluster local"):
        call([*words, "OUTPUT_DIR", str(tmp_path)])
    for cluster in ("local", "debug"):
        with pytest.raises(UserError, match=f"--nodes 2: --cluster {cluster} is this machine alone"):
            call(["--cluster", cluster, "--nodes", 2, *words, "OUTPUT_DIR", str(tmp_path)])
    with pytest.raises(SubmitError, match="--signal-delay 120: the time limit is 36 s"):
        call(["--cluster", "local", "--timeout-hours", 0.01, *words, "OUTPUT_DIR", str(tmp_path)])
    with pytest.raises(UserError, match="one process per GPU"):
        call(["--tasks-per-node", 2, "--gpus-per-node", 4, *words])


# ------------------------------------------------------------------------------------------------------------- the code


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the code to submit from, which tests may change."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "videovit", folder / "videovit", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(slurm, "PACKAGE", folder / "videovit")
    return folder


def change(checkout: Path) -> None:
    with open(checkout / "videovit/engine/launch.py", "a") as file:
        file.write("\nraise SystemExit('the code has changed since submission')\n")


def test_snapshot_runs_after_code_has_changed(
    words: list[str], call: Call, checkout: Path, cluster: Path, tmp_path: Path
) -> None:
    """Even if the job starts in the changed checkout, as it does on a cluster."""
    (job,) = call(["--snapshot", *words, "SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", str(tmp_path / "out")])
    change(checkout)
    done = run_script(cluster, checkout)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/checkpoints/checkpoint_epoch_00001.pyth").exists()
    assert [path.name for path in next(job.paths.folder.glob("code-*")).iterdir()] == ["videovit"]


def test_changed_code_is_refused(words: list[str], call: Call, checkout: Path, cluster: Path, tmp_path: Path) -> None:
    (job,) = call([*words, "OUTPUT_DIR", str(tmp_path / "out")])
    change(checkout)
    done = run_script(cluster, ROOT)
    assert done.returncode == 1
    assert "error: the code in" in done.stderr and "not what it was" in done.stderr
    assert "submitted: engine/launch.py. Submit it again" in done.stderr and "--snapshot" in done.stderr
    assert not (tmp_path / "out/checkpoints").exists()
    assert "engine/launch.py" in str(job.exception())


def test_snapshot_is_taken_once(tmp_path: Path) -> None:
    first = slurm.take_snapshot(tmp_path / "%j")
    (first / "mark").touch()
    assert slurm.take_snapshot(tmp_path / "%j") == first and (first / "mark").exists()
    assert list(tmp_path.iterdir()) == [first]
    assert slurm.fingerprint(first / "videovit") == slurm.fingerprint()
    shipped = sorted(path.relative_to(CONFIGS) for path in CONFIGS.glob("*/*.yaml"))
    copies = first / "videovit/configs"
    assert not copies.is_symlink() and sorted(path.relative_to(copies) for path in copies.glob("*/*.yaml")) == shipped
