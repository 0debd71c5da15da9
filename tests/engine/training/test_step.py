"""The training step and the inference loop, on real small models."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from videovit.data.records import Batch, Failure
from videovit.engine.reporting.log import Progress
from videovit.engine.training.guards import NonFiniteLossError
from videovit.engine.training.losses import build_loss
from videovit.engine.training.step import (
    Inference,
    Pass,
    Training,
    UnreadableVideosError,
    evaluate,
    train_epoch,
    train_step,
)

CPU = torch.device("cpu")


def batch(n: int = 8, seed: int = 0, failures: list[Failure] | None = None) -> Batch:
    g = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (n, 2, 4, 4, 3), generator=g, dtype=torch.uint8)
    labels = frames.float().mean(dim=(1, 2, 3, 4)).gt(127).long()
    index = torch.arange(n)
    return Batch(frames, labels, index, index * 0, index, failures or [])


def prepare(frames_BTHWC: Tensor, seeds: Tensor | None) -> Tensor:
    return frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 255


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(96, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def training(dropout: float = 0.0, **changes: object) -> Training:
    torch.manual_seed(3)
    model = Net(dropout)
    parts = Training(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        schedule=lambda epoch: 0.1 / (1 + epoch),
        loss=build_loss("cross_entropy"),
        prepare=prepare,
        device=CPU,
    )
    return replace(parts, **changes)


def weights(parts: Training) -> Tensor:
    return torch.cat([p.detach().flatten() for p in parts.model.parameters()])


def test_one_step_is_what_it_says() -> None:
    parts = training()
    before, b = weights(parts), batch()
    loss = nn.functional.cross_entropy(parts.model(prepare(b.frames_BTHWC, None)), b.labels)
    grad = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parts.model.parameters()))])
    result = train_step(parts, b, epoch=1, step=5, num_steps=10)
    assert result.lr == pytest.approx(0.1 / 2.5)
    assert result.loss.item() == pytest.approx(loss.item())
    assert result.grad_norm.item() == pytest.approx(grad.norm().item(), rel=1e-5)
    torch.testing.assert_close(weights(parts), before - result.lr * grad)


@pytest.mark.parametrize("pieces", [2, 3, 8])
def test_accumulation_does_not_change_the_step(pieces: int) -> None:
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


def test_nan_stops_before_the_weights_are_touched() -> None:
    def broken(frames: Tensor, seeds: Tensor | None) -> Tensor:
        return prepare(frames, seeds) * float("nan")

    parts = training(prepare=broken)
    before = weights(parts)
    with pytest.raises(NonFiniteLossError, match="epoch 1, step 3: loss nan.*videos 0, 1"):
        train_step(parts, batch(), epoch=0, step=2, num_steps=4)
    assert torch.equal(weights(parts), before)


def test_bfloat16_training_lowers_the_loss() -> None:
    parts = training(dtype=torch.bfloat16)
    losses = [train_step(parts, batch(), epoch=0, step=s, num_steps=100).loss.item() for s in range(30)]
    assert losses[-1] < 0.8 * losses[0]


def test_an_epoch_can_be_left_and_says_where_it_is() -> None:
    parts = training()
    progress = Progress("epoch", 9, first=4, quiet=True)
    steps = []
    for step, _, _ in train_epoch(parts, [batch()] * 5, epoch=0, num_steps=9, progress=progress):
        steps.append(step)
        if step == 6:
            break
    assert steps == [4, 5, 6]


class Collect:
    def __init__(self) -> None:
        self.logits: list[Tensor] = []
        self.videos: list[int] = []

    def update(self, b: Batch, logits: Tensor) -> None:
        self.logits.append(logits)
        self.videos += b.videos_B.tolist()


def infer(
    batches: list[Batch] | Iterator[Batch], *changes: object, **settings: object
) -> tuple[list[Collect], Inference]:
    torch.manual_seed(0)
    model = Net(0.5).train()
    parts = Inference(model=model, prepare=prepare, device=CPU, clips_per_step=3, **settings)
    sinks = [Collect() for _ in changes or [None]]
    passes = [Pass(s, c) for s, c in zip(sinks, changes or [None], strict=True)]
    evaluate(parts, batches, passes, Progress("test", 2, quiet=True))
    assert model.training  # the mode is restored
    return sinks, parts


def test_small_steps_give_the_same_logits_without_dropout() -> None:
    (sink,), parts = infer([batch(8), batch(5, seed=1)])
    assert sink.videos == [*range(8), *range(5)]
    whole = parts.model.eval()(prepare(batch(8).frames_BTHWC, None))
    torch.testing.assert_close(torch.cat(sink.logits)[:8], whole)


def test_passes_see_the_same_batch_changed() -> None:
    (plain, flipped), _ = infer([batch(8)], None, lambda x, b: x.flip(2))
    assert plain.videos == flipped.videos
    assert not torch.equal(torch.cat(plain.logits), torch.cat(flipped.logits))


def test_unreadable_videos_stop_the_run_and_are_all_named() -> None:
    def batches() -> Iterator[Batch]:
        yield batch(2)
        yield batch(2, failures=[Failure("a.mp4", "empty file", "decord")])
        yield batch(2, failures=[Failure("b.mp4", "no video stream", "decord")])

    with pytest.raises(UnreadableVideosError, match=r"(?s)2 video\(s\).*a.mp4: empty file.*b.mp4: no video stream"):
        infer(batches())


def test_the_look_for_other_unreadable_videos_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videovit.engine.training.step.LOOK_ON_S", 0.2)
    failures = [Failure("a.mp4", "empty file", "decord")]

    def forever() -> Iterator[Batch]:
        yield batch(2, failures=failures)
        while True:
            time.sleep(0.01)
            yield batch(2)

    with pytest.raises(UnreadableVideosError):
        infer(forever())


def test_unreadable_videos_are_left_out_when_asked() -> None:
    failure = Failure("a.mp4", "empty file", "decord")
    (sink,), parts = infer([batch(2, failures=[failure]), batch(3)], skip_unreadable=True)
    assert len(sink.videos) == 5
    assert parts.unreadable == [failure]
