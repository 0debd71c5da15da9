"""Runs with BN.NORM_TYPE sub_batchnorm: what is saved, what is resumed, and what a plain batch norm makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.runs import Make, assert_same_bits
from videovit.data.build import build_loader
from videovit.data.transforms.pipeline import build_preparation
from videovit.engine.checkpoints.resume import load_model
from videovit.engine.launch import run
from videovit.models import build_model

NETWORK = (
    "MODEL.MODEL_NAME ResNet MODEL.ARCH slow RESNET.DEPTH 18 RESNET.TRANS_FUNC basic_transform "
    "RESNET.WIDTH_PER_GROUP 8 MODEL.DROPOUT_RATE 0 TEST.ENABLE False DATA.DECODE_TIMEOUT_S 0 SOLVER.WARMUP_EPOCHS 0 "
    "SOLVER.OPTIMIZING_METHOD sgd TRAIN.EVAL_PERIOD 0 "
)
SPLIT = f"{NETWORK} BN.NORM_TYPE sub_batchnorm BN.NUM_SPLITS 2 "
STEM = "s1.pathway0_stem.bn"


def checkpoint(folder: Path, epoch: int = 1) -> dict[str, Any]:
    path = folder / "checkpoints" / f"checkpoint_epoch_{epoch:05d}.pyth"
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def part_averages(batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(2, C): running means and variances of every second clip, as two batch norms of PyTorch would have them."""
    C = batches[0].shape[1]
    means, variances = torch.zeros(2, C), torch.ones(2, C)
    for batch in batches:
        for part in range(2):
            values = batch[part::2].transpose(0, 1).flatten(1)
            means[part] = 0.9 * means[part] + 0.1 * values.mean(dim=1)
            variances[part] = 0.9 * variances[part] + 0.1 * values.var(dim=1)
    return means, variances


def test_statistics_of_parts_are_put_together_for_evaluation(make: Make, tmp_path: Path) -> None:
    """The rate is 0, so initial and final weights are equal."""
    cfg = make(tmp_path, f"{SPLIT} SOLVER.BASE_LR 0.0 SOLVER.MAX_EPOCH 1")
    run(cfg)
    saved = checkpoint(tmp_path)
    state = saved["model_state"]
    model = build_model(cfg).train()
    model.load_state_dict(state)
    seen: list[Tensor] = []
    model.get_submodule(STEM).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    loader, prepare = build_loader(cfg, "train"), build_preparation(cfg, train=True)
    with torch.no_grad():
        for batch in loader:
            model(prepare(batch.frames_BTHWC, batch.erase_seeds_B))
    means, variances = part_averages(seen)
    assert len(seen) == 3 and not torch.equal(means[0], means[1])
    for part, expected in (("mean", means), ("var", variances)):
        torch.testing.assert_close(saved["norm_parts"][f"{STEM}.part_{part}"], expected)
    torch.testing.assert_close(state[f"{STEM}.running_mean"], means.mean(dim=0))
    spread = means.var(dim=0, unbiased=False)
    torch.testing.assert_close(state[f"{STEM}.running_var"], variances.mean(dim=0) + spread)

    split, plain = build_model(cfg), build_model(make(tmp_path / "plain", NETWORK))
    for network in (split, plain):
        load_model(network, tmp_path / "checkpoints" / "checkpoint_epoch_00001.pyth")
    x = torch.randn(3, 3, 4, 32, 32)
    assert torch.equal(split.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("precise", ["False", "True"])
def test_resumes_bit_for_bit(precise: str, make: Make, tmp_path: Path) -> None:
    options = f"{SPLIT} SOLVER.BASE_LR 0.01 SOLVER.MAX_EPOCH 2 TRAIN.CHECKPOINT_PERIOD 1 BN.USE_PRECISE_STATS {precise}"
    run(make(tmp_path / "whole", options))
    run(make(tmp_path / "resumed", f"{options} TRAIN.MAX_STEPS 3"))
    run(make(tmp_path / "resumed", options))
    whole, resumed = (checkpoint(tmp_path / name, 2) for name in ("whole", "resumed"))
    for key in ("model_state", "optimizer_state", "norm_parts"):
        assert_same_bits(whole[key], resumed[key])
    parts = whole["norm_parts"][f"{STEM}.part_mean"]
    assert torch.equal(parts[0], parts[1]) == (precise == "True")  # measured over whole batches


def test_another_number_of_parts_begins_with_the_common_statistics(make: Make, tmp_path: Path) -> None:
    options = f"{SPLIT} SOLVER.BASE_LR 0.01 TRAIN.CHECKPOINT_PERIOD 1"
    run(make(tmp_path, f"{options} SOLVER.MAX_EPOCH 1"))
    run(make(tmp_path, f"{options} SOLVER.MAX_EPOCH 2 BN.NUM_SPLITS 4"))
    assert checkpoint(tmp_path, 2)["norm_parts"][f"{STEM}.part_mean"].shape == (4, 8)
