"""One training step, on real small models."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from videovit.data.records import Batch
from videovit.engine.objectives import Classification, build_loss
from videovit.engine.training.step import Training, train_step
from videovit.errors import UserError

CPU = torch.device("cpu")


def batch(n: int = 8, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (n, 2, 4, 4, 3), generator=g, dtype=torch.uint8)
    labels = frames.float().mean(dim=(1, 2, 3, 4)).gt(127).long()
    index = torch.arange(n)
    return Batch(frames, labels, index, index * 0, index, [])


def prepare(frames_BTHWC: Tensor, seeds: Tensor | None) -> Tensor:
    return frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 255


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(96, 2))

    def forward(self, x: Tensor, boxes_R5: Tensor | None = None) -> Tensor:
        return self.layer(x)


def training(dropout: float = 0.0, **changes: object) -> Training:
    torch.manual_seed(3)
    model = Net(dropout)
    parts = Training(
        model=model,
        objective=Classification(build_loss("cross_entropy")),
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        schedule=lambda epoch: 0.1 / (1 + epoch),
        preparation=prepare,
        device=CPU,
    )
    return replace(parts, **changes)


def weights(parts: Training) -> Tensor:
    return torch.cat([p.detach().flatten() for p in parts.model.parameters()])


def test_step_is_sgd_on_the_mean_loss() -> None:
    parts = training()
    before, b = weights(parts), batch()
    loss = nn.functional.cross_entropy(parts.model(prepare(b.frames_BTHWC, None)), b.labels)
    grad = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parts.model.parameters()))])
    result = train_step(parts, b, epoch=1, step=5, num_steps=10)
    assert result.lr == pytest.approx(0.1 / 2.5)
    assert result.loss.item() == pytest.approx(loss.item())
    assert result.terms.keys() == {"labels"} and torch.equal(result.terms["labels"], result.loss)
    assert result.grad_norm.item() == pytest.approx(grad.norm().item(), rel=1e-5)
    torch.testing.assert_close(weights(parts), before - result.lr * grad)


@pytest.mark.parametrize("pieces", [2, 3, 8])
def test_accumulation_gives_the_same_step(pieces: int) -> None:
    whole, cut = training(), training(accumulate=pieces)
    for parts in (whole, cut):
        train_step(parts, batch(), epoch=0, step=0, num_steps=4)
    torch.testing.assert_close(weights(cut), weights(whole), atol=1e-6, rtol=1e-5)


def test_dropout_depends_on_seed_epoch_step_and_rank_only() -> None:
    def after(disturb: int, **changes: int) -> Tensor:
        parts = training(0.5, **{k: v for k, v in changes.items() if k in ("seed", "rank")})
        torch.manual_seed(disturb)
        train_step(parts, batch(), epoch=changes.get("epoch", 0), step=changes.get("step", 0), num_steps=10**9)
        return weights(parts)

    base = after(1)
    assert torch.equal(after(2), base)
    for change in ({"seed": 1}, {"rank": 1}, {"step": 1}):
        assert not torch.equal(after(1, **change), base)


def test_nan_stops_before_the_weights_change() -> None:
    def broken(frames: Tensor, seeds: Tensor | None) -> Tensor:
        return prepare(frames, seeds) * float("nan")

    parts = training(preparation=broken)
    before = weights(parts)
    with pytest.raises(UserError, match="epoch 1, step 3: loss nan.*videos 0, 1"):
        train_step(parts, batch(), epoch=0, step=2, num_steps=4)
    assert torch.equal(weights(parts), before)


def test_bfloat16_lowers_the_loss() -> None:
    parts = training(dtype=torch.bfloat16)
    losses = [train_step(parts, batch(), epoch=0, step=s, num_steps=100).loss.item() for s in range(30)]
    assert losses[-1] < 0.8 * losses[0]
