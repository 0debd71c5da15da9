"""Rows and numbers of the benchmark task."""

import functools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers.runs import exit_codes, start_ranks, stats, write_config, write_data
from videovit.config import load_config
from videovit.engine.launch import run
from videovit.engine.tasks import benchmark
from videovit.engine.tasks.benchmark import time_steps

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def peak_measured_once() -> Iterator[None]:
    """It takes seconds, and is the same in all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "measure_matrix_peak", functools.cache(benchmark.measure_matrix_peak))
        yield


def test_time_and_memory_of_a_known_step() -> None:
    calls = []

    def step() -> None:
        calls.append(torch.ones(40_000_000).sum())  # 153 MiB, freed again
        time.sleep(0.02)

    timing = time_steps(step, CPU, num_steps=4, warmup=2)
    assert len(calls) == 6 and len(timing.seconds) == 4
    assert timing.median_s >= 0.02
    assert 100 < timing.peak_mib < 400


def test_memory_that_the_allocator_keeps_is_counted() -> None:
    later = []

    def step() -> None:
        tensors = [torch.ones(5_000_000) for _ in range(10)]  # 191 MiB
        later.append(torch.ones(1_000_000))  # lies above them, so that they are not given back to the system when freed
        del tensors

    assert 100 < time_steps(step, CPU, num_steps=1, warmup=3).peak_mib < 400


def test_matrix_peak_is_plausible() -> None:
    assert 0.5 < benchmark.measure_matrix_peak(CPU, torch.float32) < 1e6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), num_train=4, num_test=1)


@pytest.mark.parametrize("what", ["model", "engines", "train", "sync", "loader", "decode", "attention"])
def test_each_benchmark_reports_its_rows(what: str, data: Path, tmp_path: Path) -> None:
    opts = f"DATA.PATH_TO_DATA_DIR {data} OUTPUT_DIR {tmp_path} TRAIN.ENABLE False TEST.ENABLE False "
    opts += f"BENCHMARK.ENABLE True BENCHMARK.NUM_STEPS 2 BENCHMARK.WHAT {what}"
    result = run(load_config(write_config(tmp_path), opts.split()))["benchmark"]
    rows = stats(tmp_path, "benchmark")
    assert rows and {f"{row['row']}_clips_per_s" for row in rows} == result.keys()
    assert all(row["clips_per_s"] > 0 and row["what"] == what for row in rows)
    if what == "engines":  # others are listed if they are installed
        assert [row["row"] for row in rows][:2] == ["torch fp32", "torch bf16"]
        assert rows[0]["difference"] == 0 and rows[0]["times_fp32"] == 1
        assert all(0 < row["p50_s"] <= row["p95_s"] and row["cpu_s"] > 0 and row["difference"] < 0.15 for row in rows)
    if what in ("model", "train"):
        assert [row["row"] for row in rows] == ["fp32", "bf16"]
        assert all(row["params"] == 28211 and 0 < row["share_of_peak_%"] < 100 for row in rows)


def test_sync_counts_all_processes(tmp_path: Path) -> None:
    opts = f"OUTPUT_DIR {tmp_path} TRAIN.ENABLE False TEST.ENABLE False BENCHMARK.ENABLE True BENCHMARK.NUM_STEPS 2 "
    opts += "BENCHMARK.WHAT sync BENCHMARK.BATCH_SIZE 2"
    assert exit_codes(start_ranks(load_config(write_config(tmp_path), opts.split()), 2)) == [0, 0]
    (row,) = stats(tmp_path, "benchmark")
    assert row["row"] == "2 processes" and row["gradients_mb"] == pytest.approx(4e-6 * 28211)
    assert row["share_of_step_%"] == pytest.approx(100 * (1 - row["alone_s"] / row["step_s"]))
    assert row["clips_per_s"] == pytest.approx(4 / row["step_s"], rel=1e-4)


def test_loader_counts_all_processes(data: Path, tmp_path: Path) -> None:
    opts = f"DATA.PATH_TO_DATA_DIR {data} OUTPUT_DIR {tmp_path} TRAIN.ENABLE False TEST.ENABLE False "
    opts += "BENCHMARK.ENABLE True BENCHMARK.WHAT loader"
    assert exit_codes(start_ranks(load_config(write_config(tmp_path), opts.split()), 2)) == [0, 0]
    (row,) = stats(tmp_path, "benchmark")
    assert row["row"] == "2 processes x 0 workers" and row["clips"] == 4
    assert row["clips_per_s"] == pytest.approx(4 / row["seconds"])
