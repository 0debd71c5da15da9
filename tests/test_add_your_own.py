"""A model and an objective are added by the steps of docs/architecture.md, "Add your own", and by nothing else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.helpers.runs import assert_same_bits, stats, write_config, write_data
from videovit import models
from videovit.config import Config, load_config
from videovit.engine import objectives
from videovit.engine.launch import run
from videovit.errors import UserError
from videovit.models import MODELS, build_model, count_macs, load_pretrained, optimize_for_inference
from videovit.models.layers.transformer import Attention

MODEL = '''
"""Attention over the tokens of all frames, then a mean."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from videovit.config import Config
from videovit.models.contract import Features, VideoModel
from videovit.models.layers.heads import ClassifierHead
from videovit.models.layers.transformer import Block


class Throwaway(VideoModel):
    def __init__(self, *, in_channels: int, dim: int, depth: int, num_classes: int) -> None:
        super().__init__()
        self.in_channels, self.grid = in_channels, None
        self.conv_proj = nn.Conv3d(in_channels, dim, (2, 8, 8), (2, 8, 8))
        self.stages = nn.ModuleList([nn.ModuleDict({"blocks": Block(dim, 2, drop_path=0.1)}) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = ClassifierHead(dim, num_classes)

    def layers(self) -> Sequence[Sequence[nn.Module]]:
        return [[stage] for stage in self.stages]

    def head_modules(self) -> Sequence[nn.Module]:
        return [self.norm, self.head]

    def _logits(self, x_BCTHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.head(self._features(x_BCTHW).tokens_BNC.mean(1))
        return logits_BK

    def _features(self, x_BCTHW: Tensor) -> Features:
        x_BCTHW = self._map(x_BCTHW)
        T, H, W = x_BCTHW.shape[2:]
        return Features(self.norm(x_BCTHW.flatten(2).transpose(1, 2)), (T, H, W), None)

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        return [self._map(x_BCTHW)]

    def _map(self, x_BCTHW: Tensor) -> Tensor:
        x_BCTHW = self.conv_proj(x_BCTHW)
        x_BNC = x_BCTHW.flatten(2).transpose(1, 2)
        for stage in self.stages:
            x_BNC = stage["blocks"](x_BNC)
        return x_BNC.transpose(1, 2).reshape(x_BCTHW.shape)


def throwaway_from_config(cfg: Config) -> Throwaway:
    return Throwaway(
        in_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
        dim=cfg.VIT.EMBED_DIM,
        depth=cfg.VIT.DEPTH,
        num_classes=cfg.MODEL.NUM_CLASSES,
    )
'''

OBJECTIVE = '''
"""The right logit should be 1, the others 0, in clips of which half of the frames are hidden."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videovit.config import Config
from videovit.engine.objectives.objective import Example, Losses, Objective, StepKey
from videovit.models.contract import LayeredModel


@dataclass(frozen=True)
class Hidden(Example):
    hidden_T: Tensor | None = None


class Squares(Objective):
    def prepare(self, example: Example, key: StepKey) -> Example:
        hidden_T = torch.from_numpy(key.rng().random(example.x_BCTHW.shape[2]) < 0.5)
        x_BCTHW = example.x_BCTHW.masked_fill(hidden_T[:, None, None], 0.0)
        return Hidden(x_BCTHW, example.targets, example.boxes_R5, hidden_T)

    def __call__(self, model: nn.Module, example: Example) -> Losses:
        assert isinstance(example, Hidden) and example.hidden_T is not None
        logits_BK = model(example.x_BCTHW)
        squares = F.mse_loss(logits_BK, F.one_hot(example.targets, logits_BK.shape[1]).float())
        size = logits_BK.square().mean()
        return Losses(squares + 0.01 * size, {"squares": squares, "size": size})


def build_squares(cfg: Config, model: LayeredModel, device: torch.device) -> Squares:
    return Squares()
'''

KEYS = "MODEL.MODEL_NAME Throwaway TRAIN.OBJECTIVE squares VIT.EMBED_DIM 16 VIT.DEPTH 2 TRAIN.GRAD_ACCUM_STEPS 2"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def add_file(package: ModuleType, name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A new file of a package, which lies in another folder for the time of a test."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.invalidate_caches()
    module = importlib.import_module(f"{package.__name__}.{name}")
    monkeypatch.delattr(package, name)
    monkeypatch.delitem(sys.modules, module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The documented steps: one file and one row each."""
    model = add_file(models, "throwaway", MODEL, tmp_path, monkeypatch)
    monkeypatch.setitem(MODELS, "Throwaway", model.throwaway_from_config)
    objective = add_file(objectives, "squares", OBJECTIVE, tmp_path, monkeypatch)
    monkeypatch.setitem(objectives.OBJECTIVES, "squares", objective.build_squares)
    yield


def config(folder: Path, data: Path, *opts: object) -> Config:
    folder.mkdir(exist_ok=True)
    words = [*KEYS.split(), "DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", folder, "TEST.NUM_ENSEMBLE_VIEWS", 1, *opts]
    return load_config(write_config(folder), words)


def checkpoint(folder: Path, epoch: int) -> Path:
    return folder / "checkpoints" / f"checkpoint_epoch_{epoch:05d}.pyth"


@pytest.mark.usefixtures("added")
def test_added_model_and_objective_train_test_and_resume(data: Path, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    results = run(config(whole, data, "SOLVER.MAX_EPOCH", 6, "SHUFFLE_EVAL.ENABLE", True))
    assert results["test"]["top1_acc"] >= 0 and "shuffle_eval" in results
    records = stats(whole, "train_iter")
    assert len(records) == 18 and all({"loss_squares", "loss_size"} <= record.keys() for record in records)
    assert sum(record["loss"] for record in records[-6:]) < sum(record["loss"] for record in records[:6])
    run(config(resumed, data, "SOLVER.MAX_EPOCH", 6, "TRAIN.MAX_STEPS", 7, "TEST.ENABLE", False))
    run(config(resumed, data, "SOLVER.MAX_EPOCH", 6))
    first, second = (torch.load(checkpoint(folder, 6), weights_only=True) for folder in (whole, resumed))
    assert_same_bits(first["model_state"], second["model_state"])


@pytest.mark.usefixtures("added")
def test_added_model_loads_counts_and_is_optimized(data: Path, tmp_path: Path) -> None:
    cfg = config(tmp_path / "run", data, "SOLVER.MAX_EPOCH", 1, "TEST.ENABLE", False)
    run(cfg)
    model = build_model(cfg)
    report = load_pretrained(model, checkpoint(tmp_path / "run", 1))
    saved = torch.load(checkpoint(tmp_path / "run", 1), weights_only=True)["model_state"]
    assert not (report.missing or report.skipped or report.resized) and report.loaded
    assert_same_bits(dict(model.state_dict()), saved)
    x_BCTHW = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    fast = optimize_for_inference(model.eval())
    assert any(type(module) is not Attention and isinstance(module, Attention) for module in fast.modules())
    with torch.no_grad():
        torch.testing.assert_close(fast(x_BCTHW), model(x_BCTHW), rtol=1e-4, atol=1e-5)
    tokens, dim = 2 * 4 * 4, 16
    block = 12 * tokens * dim**2 + 2 * tokens**2 * dim
    assert count_macs(model, (1, 3, 4, 32, 32)) == tokens * dim * 3 * 2 * 8 * 8 + 2 * block + dim * 3
    assert model.layer_of("conv_proj.weight") == 0 and model.layer_of("head.projection.bias") == 3


def test_unknown_names_of_model_and_objective_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MODEL.MODEL_NAME: found 'Throwaway'"):
        run(config(tmp_path / "a", data))
    with pytest.raises(UserError, match="TRAIN.OBJECTIVE: found 'squares', expected one of auto, classification"):
        run(config(tmp_path / "b", data, "MODEL.MODEL_NAME", "ViT", "VIT.NUM_HEADS", 2, "VIT.PATCH_SIZE", "[2,8,8]"))
