"""The pointing game among shapes that look alike: what hits, what does so by chance, and what the script prints."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import videovit
from tests.helpers.project import ROOT
from videovit.config import load_config
from videovit.models import build_model

NAMES = ("pointing_game", "prepare", "shapes")


@pytest.fixture(scope="module")
def game() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "datasets" / "demo")
        yield importlib.import_module("pointing_game")
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def model(game: ModuleType) -> videovit.Model:
    """One that sees the first class in every clip."""
    cfg = load_config(ROOT / "configs/Demo/MVIT_TINY.yaml", ["DATA.TEST_SHORT_SIDE", 64])
    torch.manual_seed(0)
    network = build_model(cfg).eval()
    with torch.no_grad():
        nn.init.zeros_(network.head.get_submodule("projection").bias)
        network.head.get_submodule("projection").bias[0] = 100
    return videovit.Model(cfg, network, list(game.CLASSES))


def movement(model: nn.Module, x_BCTHW: Tensor, classes_B: Tensor) -> Tensor:
    """A map that finds the shape: how much the brightness changes from frame to frame, without noise and texture."""
    bright_BTHW = (x_BCTHW.amax(dim=1) > 0.4).float()
    return nn.functional.avg_pool2d(bright_BTHW.std(dim=1, keepdim=True), 5, 1, 2).expand_as(bright_BTHW)


def brightness(model: nn.Module, x_BCTHW: Tensor, classes_B: Tensor) -> Tensor:
    """A map that shows the picture."""
    return x_BCTHW.mean(dim=1) - x_BCTHW.mean(dim=1).amin()


def test_pointing_game_only_maps_that_know_the_shape_win(game: ModuleType, model: videovit.Model) -> None:
    clips = game.read_clips(model, "test", 96, 0)
    assert clips.corners_BTHW.float().mean().item() == pytest.approx(0.25)
    assert clips.corners_BTHW.any(dim=1).flatten(1).any(dim=0).all()  # all corners take their turn
    hits, heat = game.play(model.torch, movement, clips)
    assert hits > 75 and heat > 75
    hits, heat = game.play(model.torch, brightness, clips)
    assert 10 < hits < 40 and heat == pytest.approx(25, abs=3)


def test_pointing_game_prints_rows(
    game: ModuleType, model: videovit.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save(tmp_path / "model")
    words = [str(tmp_path / "model"), "--method", "hires_cam", "--clips", "24", "--random", "2"]
    assert game.main(words) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["clips"], row["of"], row["method"]) == (2, 24, "hires_cam")  # those of the first class
    assert row["hits_random_lowest"] <= row["hits_random"] <= row["hits_random_highest"]
    with torch.no_grad():
        model.torch.head.get_submodule("projection").bias.fill_(0)
        model.torch.head.get_submodule("projection").weight.fill_(0)
        model.torch.head.get_submodule("projection").bias[1] = 100
    model.save(tmp_path / "other")
    assert game.main([str(tmp_path / "other"), "--clips", "1"]) == 1
    assert "of 1 clip, none is classified correctly" in capsys.readouterr().err
