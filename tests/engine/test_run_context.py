"""The config that a run records."""

import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from videovit.config import load_config
from videovit.engine import launch
from videovit.engine.reporting.log import RunLog
from videovit.engine.run_context import Run, record_config
from videovit.errors import UserError


def test_failed_write_of_config_keeps_the_earlier_one(tmp_path: Path) -> None:
    """As on a full disk: the config that trained the weights in the folder is still known."""
    cfg = load_config(None, ["OUTPUT_DIR", str(tmp_path)])
    run = Run(RunLog(tmp_path, rank=1), torch.device("cpu"))
    record_config(cfg, run, "config.yaml")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(UserError, match=r"config.yaml: could not be written, .* bytes free: File too large"):
            record_config(replace(cfg, RNG_SEED=7), run, "config.yaml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_config(tmp_path / "config.yaml") == cfg
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("address", ["tcp://node1", "tcp://node1:99999", "file:///tmp/a"])
def test_invalid_init_method_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"--init_method: found .*, expected tcp://HOST:PORT"):
        launch.run(replace(load_config(None, []), DIST_INIT_METHOD=address, NUM_GPUS=0, NUM_CPU_PROCS=2))
