"""Runs that read from shards, or from an object store, are the same as from files, also when they are killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.object_stores import SECRET, ObjectStore, serve_store
from tests.helpers.runs import Make, assert_same_bits, exit_codes, num_lines, start_ranks, wait_for
from videovit import cli
from videovit.engine import launch

SHORT = (
    "SOLVER.MAX_EPOCH 2 TRAIN.EVAL_PERIOD 2 TEST.ENABLE False TRAIN.TRACE True DATA_LOADER.NUM_WORKERS 1 "
    "TRAIN.CHECKPOINT_MINUTES 0.000001"
)


@pytest.fixture(scope="module")
def from_files(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("files")
    launch.run(make(out, f"{SHORT} DATA.PATH_PREFIX {data_folder(make)}"))
    return out


def data_folder(make: Make) -> str:
    return make(Path("nowhere"), "").DATA.PATH_TO_DATA_DIR


def train_with_a_kill(make: Make, out: Path, opts: str) -> None:
    """Kill a run after two steps and start it again; its videos are not where the lists are."""
    cfg = make(out, f"{SHORT} {opts}")
    (child,) = start_ranks(cfg)
    wait_for(lambda: num_lines(out / "stats.jsonl") >= 2)
    child.kill()
    assert exit_codes([child]) == [-signal.SIGKILL]
    launch.run(cfg)


def trace(folder: Path) -> list[dict[str, Any]]:
    """What was trained on; repeated steps, which must be the same, count once."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for line in map(json.loads, (folder / "trace_rank0.jsonl").read_text().splitlines()):
        line["paths"] = [os.path.basename(path) for path in line["paths"]]
        assert found.setdefault((line["epoch"], line["step"]), line) == line
    return list(found.values())


def assert_same_training(first: Path, second: Path) -> None:
    one, two = (
        torch.load(folder / "checkpoints/checkpoint_epoch_00002.pyth", weights_only=True) for folder in (first, second)
    )
    for key in ("model_state", "optimizer_state", "train_list"):
        assert_same_bits(one[key], two[key])
    assert trace(first) == trace(second) and len(trace(first)) == 6


@pytest.fixture(scope="module")
def shards(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, folder = data_folder(make), tmp_path_factory.mktemp("shards")
    lists = [f"{data}/{split}.csv" for split in ("train", "val")]
    assert cli.main(["pack", *lists, "--prefix", data, "--output", str(folder), "--size", "20kB"]) == 0
    return folder


def test_run_from_shards_killed_same_bits(from_files: Path, shards: Path, make: Make, tmp_path: Path) -> None:
    train_with_a_kill(make, tmp_path, f"DATA.PATH_PREFIX shards:{shards}")
    assert_same_training(from_files, tmp_path)


@pytest.fixture(params=("s3", "gs", "hf"))
def store(
    request: pytest.FixtureRequest, make: Make, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStore]:
    """An object store on the loopback that holds the videos, their lists and the shards; an empty cache."""
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path / "cache"))
    with serve_store(request.param, tmp_path, monkeypatch) as running:
        running.put_folder(Path(data_folder(make)), "videos")
        running.put_folder(shards, "shards")
        yield running


def test_run_from_object_store_killed_same_bits(
    from_files: Path, store: ObjectStore, make: Make, tmp_path: Path
) -> None:
    # The lists come from the store, too.
    here = f"{store.url}/videos"
    train_with_a_kill(make, tmp_path / "out", f"DATA.PATH_PREFIX {here} DATA.PATH_TO_DATA_DIR {here}")
    assert_same_training(from_files, tmp_path / "out")
    everything = "".join(
        path.read_text() for path in (tmp_path / "out").glob("*.*") if path.suffix in (".log", ".jsonl", ".yaml")
    )
    assert SECRET not in everything and "Signature" not in everything and here in everything


# Not of the Hub, which test_object_stores.py reads shards from: a run takes seconds.
@pytest.mark.parametrize("store", ["s3", "gs"], indirect=True)
def test_run_from_shards_of_object_store_killed_same_bits(
    from_files: Path, store: ObjectStore, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.failures[:] = ["503", "cut off"]
    train_with_a_kill(make, tmp_path / "packed", f"DATA.PATH_PREFIX shards:{store.url}/shards")
    assert_same_training(from_files, tmp_path / "packed")
    # Once everything is in the cache, no store is needed.
    for name in ("AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    num_requests = len(store.server.requests)
    launch.run(make(tmp_path / "again", f"{SHORT} DATA.PATH_PREFIX shards:{store.url}/shards"))
    assert_same_training(from_files, tmp_path / "again")
    assert len(store.server.requests) == num_requests
