"""Several processes train one model: like one process, and with the same bits after a resume."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.runs import exit_codes, run_group, start_ranks, stats, write_config, write_data
from videovit.config import load_config
from videovit.engine.distributed import parallel

CPU = torch.device("cpu")


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Dropout(0.1)) for _ in range(3)]
    return nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ModuleList(layers)[0], *layers[1:], nn.Linear(64, 4))


def train(net: nn.Module, steps: range, rank: int) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in steps:
        torch.manual_seed(1000 * step + rank)
        net(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def resume_in_the_middle(rank: int, folder: Path) -> None:
    """Four steps in a row; and two steps, then two more with new objects, as a new process would have them."""
    whole = parallel.replicate(model(), CPU)
    train(whole, range(4), rank)
    first = parallel.replicate(model(), CPU)
    train(first, range(2), rank)
    second = model()
    second.load_state_dict(first.module.state_dict())
    train(parallel.replicate(second, CPU), range(2, 4), rank)
    torch.save((whole.module.state_dict(), second.state_dict()), folder / f"{rank}.pt")


def average(rank: int, folder: Path) -> None:
    """Gradients of one step with and without compression."""
    for name in ("none", "bf16", "fp16"):
        net = parallel.replicate(nn.Linear(8, 2), CPU, compression=name)
        net.module.load_state_dict({"weight": torch.ones(2, 8), "bias": torch.zeros(2)})
        torch.manual_seed(rank)
        net(torch.randn(4, 8)).square().mean().backward()
        torch.save(net.module.weight.grad, folder / f"{name}{rank}.pt")


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_resumed_run_of_four_processes_equals_uninterrupted_run(tmp_path: Path) -> None:
    """Bit for bit, including dropout and batch statistics."""
    run_group(resume_in_the_middle, 4, tmp_path)
    for rank in range(4):
        whole, resumed = torch.load(tmp_path / f"{rank}.pt")
        assert_equal(whole, resumed)


def test_gradients_are_averaged_with_and_without_compression(tmp_path: Path) -> None:
    run_group(average, 2, tmp_path)
    each = []
    for rank in range(2):
        net = nn.Linear(8, 2)
        net.load_state_dict({"weight": torch.ones(2, 8), "bias": torch.zeros(2)})
        torch.manual_seed(rank)
        net(torch.randn(4, 8)).square().mean().backward()
        assert net.weight.grad is not None
        each.append(net.weight.grad)
    expected = (each[0] + each[1]) / 2
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"none{rank}.pt"), expected)
        for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            rounded = torch.load(tmp_path / f"{name}{rank}.pt")
            torch.testing.assert_close(rounded, expected, rtol=2**-6, atol=2**-8)
            assert not torch.equal(rounded, expected)
            assert torch.equal(rounded, rounded.to(dtype).float())


def test_more_processes_than_videos_give_the_results_of_one(tmp_path: Path) -> None:
    """One of four ranks has nothing to validate; gradients are compressed to bf16."""
    data, file = write_data(tmp_path / "data", num_train=4, num_test=3), write_config(tmp_path)
    opts = f"DATA.PATH_TO_DATA_DIR {data} TEST.ENABLE False SOLVER.BASE_LR 0.0 SOLVER.MAX_EPOCH 1 "
    opts += "TRAIN.GRAD_COMPRESSION bf16 OUTPUT_DIR"
    found = []
    for world_size in (1, 4):
        out = tmp_path / str(world_size)
        assert exit_codes(start_ranks(load_config(file, [*opts.split(), str(out)]), world_size)) == [0] * world_size
        found += [{k: v for k, v in record.items() if k != "time"} for record in stats(out, "val_epoch")]
    assert found[0]["num_videos"] == 3
    assert found[0].pop("loss") == pytest.approx(found[1].pop("loss"), rel=1e-6)
    assert found[0] == found[1]
