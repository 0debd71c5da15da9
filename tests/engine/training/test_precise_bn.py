"""Statistics of batch norms that are measured with fixed weights."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.runs import Make, exit_codes, start_ranks
from videovit.config import ConfigError, load_config
from videovit.data.build import build_loader
from videovit.data.transforms.pipeline import build_preparation
from videovit.engine.distributed.preemption import Preempted
from videovit.engine.launch import run
from videovit.engine.problem import Problem
from videovit.engine.training.optim import build_optimizer, build_schedule
from videovit.engine.training.precise_bn import measure_batch_norms
from videovit.engine.training.step import Training
from videovit.models import build_model

NETWORK = (
    "MODEL.MODEL_NAME ResNet MODEL.ARCH slow RESNET.DEPTH 18 RESNET.TRANS_FUNC basic_transform "
    "RESNET.WIDTH_PER_GROUP 8 TRAIN.EVAL_PERIOD 0 TEST.ENABLE False SOLVER.MAX_EPOCH 1 DATA.DECODE_TIMEOUT_S 0 "
    "SOLVER.OPTIMIZING_METHOD sgd SOLVER.BASE_LR 0.0 SOLVER.WARMUP_EPOCHS 0 BN.USE_PRECISE_STATS True"
)
STEM, LAST = "s1.pathway0_stem.bn", "s5.pathway0_res1.branch2.b_bn"


def state_of(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(folder / "checkpoints/checkpoint_epoch_00001.pyth", weights_only=True)[
        "model_state"
    ]
    return state


def test_statistics_are_those_of_training_batches_with_the_final_weights(make: Make, tmp_path: Path) -> None:
    """The rate is 0, so initial and final weights are equal; batch norms see each batch by itself."""
    cfg = make(tmp_path / "one", NETWORK)
    run(cfg)
    state = state_of(tmp_path / "one")
    model = build_model(cfg).train()
    model.load_state_dict(state)
    inputs: dict[str, list[Tensor]] = {STEM: [], LAST: []}
    for name, seen in inputs.items():
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
    loader, prepare = build_loader(cfg, "train"), build_preparation(cfg, train=True)
    with torch.no_grad():
        for batch in loader:
            model(prepare(batch.frames_BTHWC, batch.erase_seeds_B))
    for name, seen in inputs.items():
        assert len(seen) == 3
        values = torch.cat(seen).transpose(0, 1).flatten(1).double()
        for part, expected in (("mean", values.mean(dim=1)), ("var", values.var(dim=1, unbiased=False))):
            found = state[f"{name}.running_{part}"].double()
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    # Momentum alone would still be close to the initial 0 and 1.
    assert state[f"{STEM}.running_mean"].abs().max() > 0 and model.get_submodule(STEM).momentum == 0.1

    # Two processes see the same videos; the input of the stem does not depend on how they are divided.
    assert exit_codes(start_ranks(make(tmp_path / "two", f"{NETWORK} NUM_CPU_PROCS 2"), 2)) == [0, 0]
    other = state_of(tmp_path / "two")
    for part in ("running_mean", "running_var"):
        torch.testing.assert_close(other[f"{STEM}.{part}"], state[f"{STEM}.{part}"], atol=1e-5, rtol=1e-4)

    # A number of batches; 0 leaves the averages of training.
    run(make(tmp_path / "none", f"{NETWORK} BN.NUM_BATCHES_PRECISE 0"))
    ran = state_of(tmp_path / "none")[f"{STEM}.running_mean"]
    assert ran.abs().max() < 0.5 * state[f"{STEM}.running_mean"].abs().max()


def test_frozen_norms_keep_their_statistics(make: Make, tmp_path: Path) -> None:
    cfg = make(tmp_path, f"{NETWORK} TRAIN.FREEZE backbone")
    run(cfg)
    state = state_of(tmp_path)
    norms = [name for name, module in build_model(cfg).named_modules() if isinstance(module, nn.BatchNorm3d)]
    assert all(torch.equal(state[f"{name}.running_mean"], torch.zeros_like(state[f"{name}.bias"])) for name in norms)


def test_signal_leaves_the_statistics_of_before(make: Make, tmp_path: Path) -> None:
    cfg, device = make(tmp_path, NETWORK), torch.device("cpu")
    problem, model = Problem(cfg), build_model(cfg).train()
    counts = iter(range(10))
    training = Training(
        model=model,
        objective=problem.objective(model, device),
        optimizer=build_optimizer(cfg, model),
        schedule=build_schedule(cfg),
        preparation=problem.train_preparation,
        device=device,
        requests=lambda: (signal.SIGTERM if next(counts) == 2 else 0, False),
    )
    model(torch.randn(4, 3, 4, 32, 32))
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    with pytest.raises(Preempted):
        measure_batch_norms(training, build_loader(cfg, "train"), epoch=0, num_batches=3)
    assert all(torch.equal(dict(model.named_buffers())[name], old) for name, old in before.items())
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm3d)} == {0.1}


def test_detectors_of_objects_are_refused() -> None:
    options = (
        "TRAIN.DATASET coco TEST.DATASET coco TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 1 DATA.NUM_FRAMES 1 "
    )
    options += "DETECTOR.NAME MaskRCNN MVIT.PATCH_KERNEL [1,7,7] BN.USE_PRECISE_STATS True"
    with pytest.raises(ConfigError, match=r"BN\.USE_PRECISE_STATS.*detectors freeze their norms"):
        load_config(opts=options.split())
