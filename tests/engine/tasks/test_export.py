"""Export of weights: the moving average, layouts of other projects, and loading again."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from tests.helpers.runs import ROOT, TINY, run_tool, write_config
from videovit.config import load_config
from videovit.engine.checkpoints.folder import Position, checkpoint_path
from videovit.engine.checkpoints.saving import snapshot, write_checkpoint
from videovit.engine.tasks.export import export_weights
from videovit.engine.training.optim import build_ema
from videovit.models import build_model, load_pretrained
from videovit.models.convert import CheckpointError

EMA = ["TRAIN.EMA_DECAY", 0.5, "TEST.USE_EMA", True]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config, and a checkpoint whose average has twice the weights of its model."""
    folder = tmp_path_factory.mktemp("run")
    cfg = load_config(write_config(folder, TINY))
    torch.manual_seed(0)
    model = build_model(cfg)
    ema = build_ema(model, 0.5)
    assert ema is not None
    with torch.no_grad():
        for parameter in ema.module.parameters():
            parameter.mul_(2)
    position = Position(epoch=2)
    write_checkpoint(checkpoint_path(folder, position), snapshot(model, position=position, cfg_text="", ema=ema))
    return folder


def loaded(run: Path, path: Path) -> dict[str, torch.Tensor]:
    """The weights of a model after loading the file."""
    model = build_model(load_config(run / "tiny.yaml"))
    assert not load_pretrained(model, path).missing
    return model.state_dict()


def test_exported_average_can_be_loaded(run: Path, tmp_path: Path) -> None:
    args = ["--cfg", run / "tiny.yaml", "--checkpoint", run, "--output"]
    output = run_tool("export_weights.py", *args, tmp_path / "deep" / "ema.pyth", *EMA).stdout
    assert "moving average" in output and "checkpoint_epoch_00002.pyth" in output
    run_tool("export_weights.py", *args, tmp_path / "plain.safetensors", "--layout", "pyslowfast")
    average, plain = loaded(run, tmp_path / "deep" / "ema.pyth"), loaded(run, tmp_path / "plain.safetensors")
    for name, tensor in plain.items():
        assert torch.equal(average[name], 2 * tensor), name
    held = torch.load(tmp_path / "deep" / "ema.pyth", weights_only=True)
    assert set(held) == {"model_state", "cfg", "pool_norm_eps"} and "EMBED_DIM: 16" in held["cfg"]


@pytest.mark.parametrize("layout", ["torchvision", "pytorchvideo", "pyslowfast"])
def test_layouts_of_other_projects_can_be_loaded(layout: str, run: Path, tmp_path: Path) -> None:
    cfg = load_config(run / "tiny.yaml")
    export_weights(cfg, str(run), tmp_path / "w.pth", layout=layout)
    held = torch.load(tmp_path / "w.pth", weights_only=True)
    assert ("model_state" in held) == (layout != "torchvision")
    mine = torch.load(checkpoint_path(run, Position(epoch=2)), weights_only=True)["model_state"]
    for name, tensor in loaded(run, tmp_path / "w.pth").items():
        assert torch.equal(mine[name], tensor), name


def test_timm_loads_its_layout(tmp_path: Path) -> None:
    cfg = load_config(ROOT / "configs/ImageNet/PIT_TI.yaml")
    model = build_model(cfg).eval()
    torch.save({"model_state": model.state_dict()}, tmp_path / "ours.pyth")
    export_weights(cfg, str(tmp_path / "ours.pyth"), tmp_path / "theirs.pth", layout="timm_pit")
    theirs = timm.create_model("pit_ti_224", checkpoint_path=str(tmp_path / "theirs.pth")).eval()
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(theirs(x), model(x.unsqueeze(2)), atol=1e-5, rtol=1e-5)


def test_missing_average_is_an_error(run: Path, tmp_path: Path) -> None:
    cfg = load_config(run / "tiny.yaml", ["TEST.USE_EMA", True, "TRAIN.ENABLE", False])
    model = build_model(cfg)
    position = Position(epoch=1)
    write_checkpoint(checkpoint_path(tmp_path, position), snapshot(model, position=position, cfg_text=""))
    with pytest.raises(CheckpointError, match="no moving average of weights, but TEST.USE_EMA is True"):
        export_weights(cfg, str(tmp_path), tmp_path / "w.pth")
    assert not (tmp_path / "w.pth").exists()
