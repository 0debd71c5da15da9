"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal

from tests.helpers.project import ROOT as PROJECT

# Small tensors are fastest on one thread, and tests run side by side; set before torch starts, for subprocesses too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Runs that are forked from here need not import these again, which takes seconds: training imports most of them late.
import matplotlib.figure  # noqa: F401
import pytest
import torch
import torch._dynamo
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp
import torch.utils.checkpoint

from tests.helpers.runs import Make, write_config, write_data
from tests.helpers.videos import write_video
from videovit.config import Config, load_config

# Whole runs take longest: they come first, so that at the end no process waits for the last of them.
FIRST = tuple(str(PROJECT / "tests" / name) for name in ("runs", "tools", "test_readme.py", "test_examples.py"))


def pytest_configure() -> None:
    """Take signals that `nohup`, or a shell that starts tests in the background, left ignored for all processes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not str(item.path).startswith(FIRST))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Compute on one thread, whatever the environment says."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """Folder of real clips: VIDEOVIT_CLIPS, or shared/clips next to the project. Skips the test if there is none."""
    folder = Path(os.environ.get("VIDEOVIT_CLIPS") or PROJECT.parent / "shared" / "clips")
    if not folder.is_dir():
        pytest.skip(f"no real clips in {folder}; set VIDEOVIT_CLIPS to another folder")
    return folder


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`numbered("a.mp4", **arguments of write_video)`: a video whose frame i shows the number i; written once."""
    folder = tmp_path_factory.mktemp("numbered")

    def write(name: str, **arguments: Any) -> Path:
        path = folder / name
        return path if path.exists() else write_video(path, **arguments)

    return write


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make(output_dir, "KEY VALUE ...")`: config of a tiny run; all runs share the data, which must not be changed."""
    home = tmp_path_factory.mktemp("home")
    data, file = write_data(home / "data"), write_config(home)

    def config(output_dir: Path, opts: str) -> Config:
        common = ["DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(output_dir)]
        return load_config(file, [*common, *opts.split()])

    return config
