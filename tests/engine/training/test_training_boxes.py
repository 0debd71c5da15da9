"""The training step on multi-label clips and on boxes: in micro-batches, and on several ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.runs import exit_codes, start_ranks
from videovit.config import Config, load_config
from videovit.data.records import Batch
from videovit.engine import distributed
from videovit.engine.distributed.parallel import replicate
from videovit.engine.objectives import Classification, build_loss
from videovit.engine.training.step import Training, train_step
from videovit.models import expand
from videovit.models.detection.roi_head import RoIHead
from videovit.models.mvit.model import MViT

SIZES = {"depth": 2, "embed_dim": 8, "num_heads": 1, "pool_q_stride": [[1, 1, 2, 2]]}


def prepare(frames_BTHWC: Tensor, seeds: Tensor | None) -> Tensor:
    return frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 255


def batch(labels: Tensor, boxes_R5: Tensor | None = None, *, num_clips: int = 6, seed: int = 0) -> Batch:
    frames = torch.randint(0, 256, (num_clips, 2, 16, 16, 3), generator=torch.Generator().manual_seed(seed))
    index = torch.arange(num_clips)
    return Batch(frames.to(torch.uint8), labels, index, index * 0, index, [], boxes_R5=boxes_R5)


def multi_hot(rows: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, (rows, 3), generator=torch.Generator().manual_seed(seed)).float()


def boxes(*clips: int) -> Tensor:
    return torch.tensor([[clip, 1.0 + i, 2.0, 12.0, 9.0 + i] for i, clip in enumerate(clips)]).reshape(-1, 5)


def mvit() -> MViT:
    torch.manual_seed(3)
    return MViT(blocks=expand(**SIZES), num_classes=3, clip_size=(2, 16, 16))


def detector() -> MViT:
    model = mvit()
    model.reset_head(RoIHead(8, 3))
    return model


def training(model: nn.Module, accumulate: int = 1) -> Training:
    return Training(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        schedule=lambda epoch: 0.5,
        objective=Classification(build_loss("bce_logit")),
        preparation=prepare,
        device=torch.device("cpu"),
        accumulate=accumulate,
    )


def after(model: nn.Module, data: Batch, accumulate: int = 1) -> Tensor:
    """All weights after a step."""
    train_step(training(model, accumulate), data, epoch=0, step=0, num_steps=4)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("pieces", [2, 3, 6])
def test_accumulation_on_multi_hot_labels_gives_the_same_step(pieces: int) -> None:
    data = batch(multi_hot(6))
    torch.testing.assert_close(after(mvit(), data, pieces), after(mvit(), data), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pieces", [2, 3, 6])
@pytest.mark.parametrize("clips", [(0, 0, 0, 2, 5), (4,), ()])
def test_accumulation_on_boxes_gives_the_same_step(pieces: int, clips: tuple[int, ...]) -> None:
    """The mean is over the boxes of the batch, however unevenly micro-batches share them."""
    data = batch(multi_hot(len(clips)), boxes(*clips))
    cut, whole = (after(detector(), data, n) for n in (pieces, 1))
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=1e-5)
    before = torch.cat([p.detach().flatten() for p in detector().parameters()])
    assert torch.equal(whole, before) == (not clips)


def step_of_a_rank(cfg: Config) -> None:
    """Rank 0 has two boxes, the others have none; each leaves its weights in OUTPUT_DIR."""
    with distributed.process_group(use_gpu=False, timeout_s=60.0) as device:
        rank = distributed.rank()
        clips = (0, 5) if rank == 0 else ()
        model = replicate(detector(), device)
        weights = after(model, batch(multi_hot(len(clips)), boxes(*clips)))
        torch.save(weights, Path(cfg.OUTPUT_DIR) / f"{rank}.pt")


@pytest.mark.parametrize("world_size", [2, 3])
def test_rank_without_boxes_contributes_zero_gradients(world_size: int, tmp_path: Path) -> None:
    cfg = load_config(opts=["OUTPUT_DIR", str(tmp_path)])
    assert exit_codes(start_ranks(cfg, world_size, step_of_a_rank)) == [0] * world_size
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world_size)]
    alone = after(detector(), batch(multi_hot(2), boxes(0, 5)))
    before = torch.cat([p.detach().flatten() for p in detector().parameters()])
    for weights in found:
        assert torch.equal(weights, found[0])
        torch.testing.assert_close(weights, before + (alone - before) / world_size, atol=1e-6, rtol=1e-4)
