"""A loss that is not finite: all ranks decide the same, before the weights change."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.runs import exit_codes, start_ranks
from videovit.config import Config, load_config
from videovit.data.records import Batch
from videovit.engine import distributed
from videovit.engine.objectives import Classification, build_loss
from videovit.engine.training.non_finite import SMALLEST_SCALE, NonFiniteGuard
from videovit.engine.training.step import Training, train_step
from videovit.errors import UserError

POISON = 255  # a clip of white frames has a loss of NaN


def clips(poisoned: bool = False) -> Batch:
    frames = torch.randint(0, POISON, (4, 2, 4, 4, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    if poisoned:
        frames[2] = POISON
    index = torch.arange(4)
    return Batch(frames, index % 2, index, index * 0, index, [])


def prepare(frames_BTHWC: Tensor, seeds: Tensor | None) -> Tensor:
    x_BCTHW = frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 255
    x_BCTHW[(frames_BTHWC == POISON).flatten(1).all(1)] = float("nan")
    return x_BCTHW


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(96, 2)

    def forward(self, x: Tensor, boxes_R5: Tensor | None = None) -> Tensor:
        return self.layer(x.flatten(1))


def training(guard: NonFiniteGuard, *, half: bool = False, scale: float = 2.0**16, wrap: bool = False) -> Training:
    torch.manual_seed(0)
    model: nn.Module = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return Training(
        model=nn.parallel.DistributedDataParallel(model) if wrap else model,
        optimizer=optimizer,
        schedule=lambda epoch: 0.1,
        objective=Classification(build_loss("cross_entropy")),
        preparation=prepare,
        device=torch.device("cpu"),
        guard=guard,
        dtype=torch.float16 if half else None,
        scaler=torch.amp.GradScaler("cpu", init_scale=scale) if half else None,
        rank=distributed.rank(),
    )


def weights(parts: Training) -> Tensor:
    return torch.cat([p.detach().flatten() for p in parts.model.parameters()])


def on_two_ranks(call: Callable[[Path], None], folder: Path) -> list[int | None]:
    def run(cfg: Config) -> None:
        with distributed.process_group(use_gpu=False, timeout_s=60):
            call(folder)

    return exit_codes(start_ranks(load_config(None), 2, run))


PATHS = [f"clip{i}.mp4" for i in range(4)]


def raise_on_both(folder: Path) -> None:
    parts = training(NonFiniteGuard(output_dir=folder, paths=PATHS), wrap=True)
    before = weights(parts)
    with pytest.raises(UserError) as error:
        train_step(parts, clips(poisoned=distributed.rank() == 1), epoch=0, step=2, num_steps=5)
    assert torch.equal(weights(parts), before)
    (folder / f"message{distributed.rank()}").write_text(str(error.value))


def test_nan_on_one_rank_stops_both(tmp_path: Path) -> None:
    assert on_two_ranks(raise_on_both, tmp_path) == [0, 0]
    messages = [(tmp_path / f"message{rank}").read_text() for rank in (0, 1)]
    assert "rank 1, epoch 1, step 3: loss nan" in messages[0] and "rank 1, epoch 1, step 3: loss nan" in messages[1]
    assert "2 (clip2.mp4)" in messages[0]
    dump = torch.load(tmp_path / "nan_dump_rank1.pt", weights_only=True)
    assert dump["paths"] == PATHS and dump["step"] == 2 and dump["lr"] == 0.1 and dump["loss"] != dump["loss"]
    assert {"grad_norm", "seed", "torch_rng_state", "labels", "epoch"} <= dump.keys()
    assert torch.load(tmp_path / "nan_dump_rank0.pt", weights_only=True)["loss"] > 0  # its own was good


def skip_on_both(folder: Path) -> None:
    guard = NonFiniteGuard("skip", most_in_a_row=2)
    parts = training(guard, wrap=True)
    before = weights(parts)
    poisoned = clips(poisoned=distributed.rank() == 1)
    for batch in (poisoned, poisoned, clips(), poisoned, poisoned):
        train_step(parts, batch, epoch=0, step=0, num_steps=5)
    assert guard.num_skipped == 4
    assert not torch.equal(weights(parts), before) and torch.isfinite(weights(parts)).all()
    with pytest.raises(UserError, match="3 steps in a row"):
        train_step(parts, poisoned, epoch=0, step=0, num_steps=5)
    torch.save(weights(parts), folder / f"weights{distributed.rank()}.pt")


def test_skip_applies_to_both_ranks(tmp_path: Path) -> None:
    assert on_two_ranks(skip_on_both, tmp_path) == [0, 0]
    one, two = (torch.load(tmp_path / f"weights{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(one, two)


def test_fp16_lowers_the_loss() -> None:
    parts = training(NonFiniteGuard(), half=True)
    losses = [float(train_step(parts, clips(), epoch=0, step=0, num_steps=5).loss) for _ in range(10)]
    assert losses[-1] < losses[0]


def test_fp16_overflow_lowers_the_scale() -> None:
    parts = training(NonFiniteGuard(), half=True, scale=2.0**40)
    before = weights(parts)
    result = train_step(parts, clips(), epoch=0, step=0, num_steps=5)
    assert not torch.isfinite(result.grad_norm) and torch.equal(weights(parts), before)
    assert parts.scaler is not None and parts.scaler.get_scale() == 2.0**39


def test_fp16_nan_is_no_overflow() -> None:
    """It stops the run, or is skipped and leaves the scaler ready for the next step."""
    parts = training(NonFiniteGuard("skip", most_in_a_row=1), half=True)
    before = weights(parts)
    train_step(parts, clips(poisoned=True), epoch=0, step=0, num_steps=5)
    assert torch.equal(weights(parts), before)
    train_step(parts, clips(), epoch=0, step=1, num_steps=5)
    assert not torch.equal(weights(parts), before)
    with pytest.raises(UserError, match="loss nan"):
        train_step(training(NonFiniteGuard(), half=True), clips(poisoned=True), epoch=0, step=0, num_steps=5)


def test_vanishing_scale_is_an_error() -> None:
    guard = NonFiniteGuard()
    guard.check_scale(SMALLEST_SCALE)
    with pytest.raises(UserError, match="overflow at every scale"):
        guard.check_scale(SMALLEST_SCALE / 2)


def test_failed_dump_does_not_hide_the_error(tmp_path: Path) -> None:
    parts = training(NonFiniteGuard(output_dir=tmp_path / "absent" / str(os.getpid())))
    with pytest.raises(UserError, match="loss nan"):
        train_step(parts, clips(poisoned=True), epoch=0, step=0, num_steps=5)
