"""Runs on GPUs: results equal to a CPU's, exact resume after a kill, several processes through nccl.

Skipped without a GPU. VIDEOVIT_GPU_TESTS=cpu runs them on the CPU (with gloo) instead, to check the tests themselves.
Every run is a process of its own, since a process that has used a GPU cannot be forked.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.helpers.ava_data import write_ava
from tests.helpers.runs import ROOT, assert_same_bits, num_lines, stats, wait_for, write_config, write_data

GPUS = torch.cuda.device_count()
ON_CPU = not GPUS and os.environ.get("VIDEOVIT_GPU_TESTS") == "cpu"
DEVICE = "NUM_GPUS 0" if ON_CPU else "NUM_GPUS 1"
pytestmark = pytest.mark.skipif(not (GPUS or ON_CPU), reason="needs a GPU")

PLAIN = "MVIT.DROPPATH_RATE 0 MODEL.DROPOUT_RATE 0 TEST.ENABLE False"
RICH = (
    "SOLVER.MAX_EPOCH 4 TRAIN.EVAL_PERIOD 4 TEST.ENABLE False TRAIN.EMA_DECAY 0.9 TEST.USE_EMA True MVIT.DEPTH 3 "
    "TRAIN.GRAD_ACCUM_STEPS 2 AUG.ENABLE True AUG.NUM_SAMPLE 2 MIXUP.ENABLE True MODEL.LOSS_FUNC soft_cross_entropy "
    "TRAIN.CHECKPOINT_MINUTES 0.000001 DATA_LOADER.NUM_WORKERS 2"
)
PRECISIONS = {
    "fp32": "",
    "bf16": "TRAIN.MIXED_PRECISION True",
    "fp16": "TRAIN.MIXED_PRECISION True TRAIN.MIXED_PRECISION_DTYPE fp16",
}
MVITV2 = "MVIT.REL_POS_SPATIAL True MVIT.REL_POS_TEMPORAL True MVIT.RESIDUAL_POOLING True MVIT.DIM_MUL_IN_ATT True"
MODELS = {
    "MViT v2": f"{MVITV2} MVIT.USE_ABS_POS False MVIT.SEP_POS_EMBED False MVIT.SEPARATE_QKV False",
    "MViT max": "MVIT.MODE max MVIT.POOL_Q_STRIDE [[1,2,2,2]]",
    "MViT avg": "MVIT.MODE avg",
    "ViT": "MODEL.MODEL_NAME ViT VIT.PATCH_SIZE [2,8,8] VIT.EMBED_DIM 16 VIT.DEPTH 2 VIT.NUM_HEADS 2",
    "PiT": "MODEL.MODEL_NAME PiT PIT.PATCH_KERNEL [3,8,8] PIT.PATCH_STRIDE [2,4,4] PIT.EMBED_DIMS [8,16] "
    "PIT.NUM_HEADS [1,2] PIT.DEPTHS [1,1] PIT.POOL_KERNEL [3,3,3]",
    "PS-ViT": "MODEL.MODEL_NAME PS_ViT PS_VIT.EMBED_DIM 16 PS_VIT.NUM_HEADS 2 PS_VIT.ITERATIONS 2 PS_VIT.DEPTH 1 "
    "PS_VIT.POINTS [3,3] PS_VIT.STEM_WIDTH 4 PS_VIT.STEM_DIM 8",
}


EXACT = {"NVIDIA_TF32_OVERRIDE": "0"}  # otherwise convolutions round to 10 bits


class Runner:
    """Starts `tools/run_net.py` with one config; every process gets a GPU of its own if there are enough."""

    def __init__(self, config: Path, *common: object) -> None:
        self.command = [sys.executable, str(ROOT / "tools/run_net.py"), "--cfg", str(config), *map(str, common)]

    def start(self, out: Path, opts: str, world_size: int = 1) -> list[subprocess.Popen[str]]:
        """Start the processes of a run with the environment that a launcher would set."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        ranks = []
        out.mkdir(parents=True, exist_ok=True)
        for rank in range(world_size):
            words = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": 0, "MASTER_PORT": port}
            env = {**os.environ, **{name: str(value) for name, value in words.items()}, "MASTER_ADDR": "127.0.0.1"}
            # On one GPU: newer versions of nccl let several processes share it if this is set.
            env |= {"NCCL_DEBUG": "VERSION", "NCCL_MULTI_RANK_GPU_ENABLE": "1", **EXACT}
            if GPUS:
                visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(GPUS)))
                env["CUDA_VISIBLE_DEVICES"] = visible.split(",")[rank % GPUS]
            command = [*self.command, "OUTPUT_DIR", str(out), *DEVICE.split(), *opts.split()]
            with (out / f"output{rank}.txt").open("a") as output:
                ranks.append(subprocess.Popen(command, stdout=output, stderr=output, env=env, text=True))
        return ranks

    def run(self, out: Path, opts: str, world_size: int = 1) -> Path:
        """Start a run, and check that all processes end well; returns `out`."""
        codes = exit_codes(self.start(out, opts, world_size))
        output = "\n".join((out / f"output{rank}.txt").read_text() for rank in range(world_size))
        if world_size > 1 and any(text in output for text in ("Duplicate GPU", "are using the same GPU")):
            pytest.skip("this version of nccl does not share one GPU among processes")
        assert codes == [0] * world_size, output
        return out


def exit_codes(ranks: Sequence[subprocess.Popen[str]], seconds: float = 200.0) -> list[int]:
    try:
        return [process.wait(seconds) for process in ranks]
    finally:
        for process in ranks:
            process.kill()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    home = tmp_path_factory.mktemp("home")
    return Runner(write_config(home), "DATA.PATH_TO_DATA_DIR", write_data(home / "data"))


def steps(out: Path) -> list[float]:
    """Losses and gradient norms of all steps."""
    return [value for record in stats(out, "train_iter") for value in (record["loss"], record["grad_norm"])]


def assert_same_training(one: Path, two: Path, name: str = "checkpoint_epoch_00004.pyth") -> None:
    """Weights, moving average, moments and gradient scale, bit for bit."""
    first, second = (torch.load(out / "checkpoints" / name, weights_only=True) for out in (one, two))
    for key in ("model_state", "ema_state", "optimizer_state", "scaler_state"):
        assert_same_bits(first[key], second[key])


def kill_and_resume(tiny: Runner, out: Path, opts: str, world_size: int = 1) -> None:
    """Kill the last process in the second epoch (of three steps), then start the same command again."""
    ranks = tiny.start(out, opts, world_size)
    wait_for(lambda: num_lines(out / "stats.jsonl") >= 6, 100)
    ranks[-1].kill()
    assert 0 not in exit_codes(ranks)
    tiny.run(out, opts, world_size)


# ------------------------------------------------------------------------------------------------- one process


def test_gpu_trains_and_tests_like_cpu(tiny: Runner, tmp_path: Path) -> None:
    opts = f"{PLAIN} SOLVER.OPTIMIZING_METHOD sgd SOLVER.BASE_LR 0.01 TEST.ENABLE True TEST.SAVE_RESULTS_PATH scores.pt"
    here, there = tiny.run(tmp_path / "device", opts), tiny.run(tmp_path / "cpu", f"{opts} NUM_GPUS 0")
    assert steps(here) == pytest.approx(steps(there), rel=1e-3)
    one, two = (torch.load(out / "scores.pt", weights_only=True)["scores"] for out in (here, there))
    torch.testing.assert_close(one, two, atol=1e-3, rtol=0)
    log = (here / "stdout.log").read_text()
    assert ON_CPU or ("device cuda:0 (" in log and all(r["gpu_mem_gb"] > 0 for r in stats(here, "train_iter")))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_killed_run_resumes_with_the_same_bits(precision: str, tiny: Runner, tmp_path: Path) -> None:
    if ON_CPU and precision == "fp16":
        pytest.skip("fp16 needs a GPU")
    opts = f"{RICH} {PRECISIONS[precision]}"
    whole = tiny.run(tmp_path / "whole", opts)
    kill_and_resume(tiny, tmp_path / "killed", opts)
    assert_same_training(whole, tmp_path / "killed")
    records = stats(whole, "train_iter")
    assert len(records) == 12
    assert all(record["loss"] < 10 for record in records)


@pytest.mark.parametrize("name", MODELS)
def test_models_train_deterministically(name: str, tiny: Runner, tmp_path: Path) -> None:
    """`TRAIN.DETERMINISTIC` supports every operation of the models; results equal those of a CPU."""
    opts = f"{PLAIN} {MODELS[name]} SOLVER.OPTIMIZING_METHOD sgd SOLVER.BASE_LR 0.01 TRAIN.EVAL_PERIOD 2"
    one, two = (tiny.run(tmp_path / folder, opts) for folder in ("one", "two"))
    assert_same_training(one, two, "checkpoint_epoch_00002.pyth")
    cpu = tiny.run(tmp_path / "cpu", f"{opts} NUM_GPUS 0")
    assert steps(one) == pytest.approx(steps(cpu), rel=1e-2)


def test_detection_trains_deterministically(tmp_path: Path) -> None:
    runner = Runner(write_ava(tmp_path / "ava"))
    one, two = (runner.run(tmp_path / folder, "") for folder in ("one", "two"))
    assert_same_training(one, two, "checkpoint_epoch_00005.pyth")
    (tested,) = stats(one, "test_final")
    assert tested["num_boxes"] == 36 and tested["map"] > 80


def test_pytorchvideo_models_warn_that_they_are_not_deterministic(tiny: Runner, tmp_path: Path) -> None:
    out = tiny.run(tmp_path, f"{PLAIN} MODEL.MODEL_NAME ptv_slow_r50 TRAIN.MAX_STEPS 1 TRAIN.BATCH_SIZE 2")
    assert ON_CPU or "cannot be trained to the same bits twice" in (out / "stdout.log").read_text()
    assert len(stats(out, "train_iter")) == 1


@pytest.mark.parametrize("what", ["model", "train"])
def test_benchmarks_report_all_precisions(what: str, tiny: Runner, tmp_path: Path) -> None:
    opts = f"TRAIN.ENABLE False TEST.ENABLE False BENCHMARK.ENABLE True BENCHMARK.WHAT {what} BENCHMARK.BATCH_SIZE 2"
    rows = stats(tiny.run(tmp_path, opts + " BENCHMARK.NUM_STEPS 5"), "benchmark")
    compiled = [] if ON_CPU or "no compiled row" in (tmp_path / "stdout.log").read_text() else ["bf16 compiled"]
    assert [row["row"] for row in rows] == ["fp32", "bf16", *compiled]
    assert all(row["clips_per_s"] > 0 and row["share_of_peak_%"] > 0 for row in rows)


def test_prediction_on_gpu_equals_cpu(tiny: Runner, tmp_path: Path) -> None:
    out = tiny.run(tmp_path / "run", f"{PLAIN} TRAIN.MAX_STEPS 1")
    video = next(Path(tiny.command[-1]).glob("test*.mp4"))
    outputs = []
    for device in (DEVICE, "NUM_GPUS 0"):
        command = [sys.executable, str(ROOT / "tools/predict.py"), "--cfg", str(out / "config.yaml"), "--checkpoint"]
        done = subprocess.run(
            [*command, str(out), str(video), "--opts", *device.split()],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **EXACT},
        )
        outputs.append(done.stdout)
    first, second = ([line.split()[:1] for line in output.splitlines()] for output in outputs)
    assert first == second


PYTHON_API = """
import sys, torch, videovit
from concurrent.futures import ThreadPoolExecutor
run, *videos = sys.argv[1:]
expected = torch.stack([one.scores for one in videovit.load(run, device="cpu").predict(videos)])
model = videovit.load(run)
found = model.predict(videos)
torch.testing.assert_close(torch.stack([one.scores for one in found]), expected, rtol=1e-4, atol=1e-4)
with ThreadPoolExecutor(4) as pool:
    for one, two in zip(pool.map(lambda video: model.predict([video])[0], 3 * videos), 3 * found, strict=True):
        torch.testing.assert_close(one.scores, two.scores, rtol=1e-4, atol=1e-4)
half = torch.stack([one.scores for one in videovit.load(run, dtype="bf16").predict(videos)])
torch.testing.assert_close(half, expected, rtol=0.1, atol=0.02)
assert model.features(videos[0]).device.type == "cpu"
model.torch.to("cpu")
torch.testing.assert_close(model.predict(videos[0]).scores, expected[0])
"""


def test_python_model_on_gpu_equals_cpu(tiny: Runner, tmp_path: Path) -> None:
    out = tiny.run(tmp_path / "run", f"{PLAIN} TRAIN.MAX_STEPS 1")
    videos = sorted(map(str, Path(tiny.command[-1]).glob("test*.mp4")))
    command = [sys.executable, "-c", PYTHON_API, str(out), *videos]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **EXACT})
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------------------- several processes


@pytest.fixture(scope="module")
def alone(tiny: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with the whole batch, which two processes share below."""
    return tiny.run(tmp_path_factory.mktemp("alone"), f"{TWO} TEST.ENABLE True")


TWO = f"{PLAIN} SOLVER.OPTIMIZING_METHOD sgd SOLVER.BASE_LR 0.01 MVIT.DEPTH 3"


@pytest.fixture(scope="module")
def two(tiny: Runner, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Starts two processes, each on its own GPU or both on the only one; skips the test if that is impossible."""
    tiny.run(tmp_path_factory.mktemp("two"), f"{TWO} TRAIN.MAX_STEPS 1", 2)
    return tiny


@pytest.mark.parametrize(
    ("opts", "rel"),
    [("", 1e-3), ("TRAIN.SHARD_MODEL True MODEL.ACT_CHECKPOINT True", 1e-3), ("TRAIN.GRAD_COMPRESSION bf16", 2e-2)],
)
def test_two_processes_train_like_one(opts: str, rel: float, alone: Path, two: Runner, tmp_path: Path) -> None:
    out = two.run(tmp_path, f"{TWO} TEST.ENABLE True {opts}", 2)
    assert steps(out) == pytest.approx(steps(alone), rel=rel)
    (ours,), (theirs,) = stats(out, "test_final"), stats(alone, "test_final")
    assert (ours["num_videos"], ours["num_views"]) == (theirs["num_videos"], theirs["num_views"]) == (7, 42)
    assert ON_CPU or "NCCL version" in (out / "output0.txt").read_text()


@pytest.mark.parametrize("opts", ["", "TRAIN.SHARD_MODEL True", "TRAIN.GRAD_COMPRESSION bf16"])
def test_two_killed_processes_resume_with_the_same_bits(opts: str, two: Runner, tmp_path: Path) -> None:
    """One of them is killed, and the other one ends by itself."""
    whole = two.run(tmp_path / "whole", f"{RICH} {opts}", 2)
    kill_and_resume(two, tmp_path / "killed", f"{RICH} {opts}", 2)
    assert_same_training(whole, tmp_path / "killed")


def test_killed_process_is_named_by_the_other(two: Runner, tmp_path: Path) -> None:
    ranks = two.start(tmp_path, f"{PLAIN} SOLVER.MAX_EPOCH 500", 2)
    wait_for(lambda: num_lines(tmp_path / "stats.jsonl") >= 3, 100)
    ranks[1].kill()
    assert exit_codes(ranks, 60)[0] == 1
    assert "rank 1: killed, or hangs" in (tmp_path / "output0.txt").read_text()


def test_signal_to_one_of_two_stops_both_at_the_same_step(two: Runner, tmp_path: Path) -> None:
    ranks = two.start(tmp_path, f"{PLAIN} SOLVER.MAX_EPOCH 500 TRAIN.TRACE True", 2)
    wait_for(lambda: num_lines(tmp_path / "stats.jsonl") >= 2, 100)
    ranks[1].send_signal(signal.SIGUSR2)
    assert exit_codes(ranks) == [75, 75]
    (newest,) = (tmp_path / "checkpoints").iterdir()
    content = torch.load(newest, weights_only=True)
    done = [num_lines(tmp_path / f"trace_rank{rank}.jsonl") for rank in (0, 1)]
    assert done == [3 * (content["epoch"] + 1) + content["step"]] * 2


@pytest.mark.skipif(not ON_CPU and GPUS < 2, reason="needs two GPUs")
def test_one_process_is_spawned_per_gpu(alone: Path, tiny: Runner, tmp_path: Path) -> None:
    how = "NUM_CPU_PROCS 2" if ON_CPU else "NUM_GPUS 2"
    env = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")} | EXACT
    subprocess.run([*tiny.command, "OUTPUT_DIR", str(tmp_path), *f"{DEVICE} {TWO} {how}".split()], env=env, check=True)
    assert steps(tmp_path) == pytest.approx(steps(alone), rel=1e-3)
