"""The inference loop, on a real small model."""

import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from videovit.data.records import Batch, Failure
from videovit.engine.evaluation import inference
from videovit.engine.evaluation.inference import Inference, Pass, evaluate
from videovit.engine.reporting.progress import Progress
from videovit.errors import UserError
from videovit.models.contract import Features, VideoModel

CPU = torch.device("cpu")


def batch(n: int = 8, seed: int = 0, failures: list[Failure] | None = None) -> Batch:
    g = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (n, 2, 4, 4, 3), generator=g, dtype=torch.uint8)
    index = torch.arange(n)
    return Batch(frames, index % 2, index, index * 0, index, failures or [])


def prepare(frames_BTHWC: Tensor, seeds: Tensor | None) -> Tensor:
    return frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 255


class Net(VideoModel):
    """One layer, with dropout."""

    in_channels, grid = 3, None

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(96, 2))

    def layers(self) -> list[list[nn.Module]]:
        return []

    def head_modules(self) -> list[nn.Module]:
        return [self.head]

    def _logits(self, x_BCTHW: Tensor) -> Tensor:
        logits: Tensor = self.head(x_BCTHW)
        return logits

    def _features(self, x_BCTHW: Tensor) -> Features:
        raise NotImplementedError

    def _stages(self, x_BCTHW: Tensor) -> list[Tensor]:
        raise NotImplementedError


class Collect:
    def __init__(self) -> None:
        self.logits: list[Tensor] = []
        self.videos: list[int] = []

    def update(self, b: Batch, logits: Tensor) -> None:
        self.logits.append(logits)
        self.videos += b.videos_B.tolist()


def infer(
    batches: list[Batch] | Iterator[Batch], *changes: object, skip_unreadable: bool = False
) -> tuple[list[Collect], Inference]:
    torch.manual_seed(0)
    model = Net(0.5).train()
    parts = Inference(model, prepare, CPU, clips_per_step=3, skip_unreadable=skip_unreadable)
    sinks = [Collect() for _ in changes or [None]]
    passes = [Pass([s], c) for s, c in zip(sinks, changes or [None], strict=True)]
    evaluate(parts, batches, passes, Progress("test", 2, quiet=True))
    assert model.training and not parts.model.training  # the given model is left alone
    return sinks, parts


def test_clips_per_step_does_not_change_the_logits() -> None:
    (sink,), parts = infer([batch(8), batch(5, seed=1)])
    assert sink.videos == [*range(8), *range(5)]
    whole = parts.model(prepare(batch(8).frames_BTHWC, None))
    torch.testing.assert_close(torch.cat(sink.logits)[:8], whole)


def test_passes_get_the_same_batch_changed() -> None:
    (plain, flipped), _ = infer([batch(8)], None, lambda x, b: x.flip(2))
    assert plain.videos == flipped.videos
    assert not torch.equal(torch.cat(plain.logits), torch.cat(flipped.logits))


def test_unreadable_videos_stop_with_all_named() -> None:
    def batches() -> Iterator[Batch]:
        yield batch(2)
        yield batch(2, failures=[Failure("a.mp4", "empty file", "decord")])
        yield batch(2, failures=[Failure("b.mp4", "no video stream", "decord")])

    with pytest.raises(UserError, match=r"(?s)2 videos of.*a.mp4: empty file.*b.mp4: no video stream"):
        infer(batches())


def test_scan_for_unreadable_videos_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "SCAN_S", 0.2)
    failures = [Failure("a.mp4", "empty file", "decord")]

    def forever() -> Iterator[Batch]:
        yield batch(2, failures=failures)
        while True:
            time.sleep(0.01)
            yield batch(2)

    with pytest.raises(UserError, match="1 video of the evaluation list cannot be read"):
        infer(forever())


def test_unreadable_videos_can_be_skipped() -> None:
    failure = Failure("a.mp4", "empty file", "decord")
    (sink,), parts = infer([batch(2, failures=[failure]), batch(3)], skip_unreadable=True)
    assert len(sink.videos) == 5
    assert parts.unreadable == [failure]


def test_unreadable_videos_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    one, two = (Failure(name, "empty file", "decord") for name in ("a.mp4", "b.mp4"))
    parts = Inference(Net(0.0), prepare, CPU, skip_unreadable=True)
    for failures in ([one, one], [one], [one, two]):  # as another pass over the same list finds them again
        evaluate(parts, [batch(2, failures=failures)], [Pass([Collect()])], Progress("test", 1, quiet=True))
    assert parts.unreadable == [one, two]
    assert [record.getMessage() for record in caplog.records] == [f"left out: {n}.mp4: empty file" for n in "ab"]
