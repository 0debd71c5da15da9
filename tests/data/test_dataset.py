"""The data set: each video is opened once, clips are reproducible, and unreadable videos are replaced."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.videos import read_barcodes
from videovit.data.dataset import ClipDataset, FixedCrops, RepeatedCrops
from videovit.data.decode import BACKENDS, DecodeError, DecodeOptions, Video, open_video
from videovit.data.records import Batch, Clip, Failure, Item, Sample, collate
from videovit.data.sampling import EvenSpans, RandomSpans

Numbered = Callable[..., Path]


def keep(frames: Tensor, rng: np.random.Generator) -> Tensor:
    rng.integers(0, 20)  # as a random crop does
    return frames


def darken(frames: Tensor, rng: np.random.Generator) -> Tensor:
    return frames - frames // 200 * int(rng.integers(0, 64))


def two_crops(frames: Tensor) -> list[Tensor]:
    return [frames, frames.flip(-1)]


@dataclass
class Opened:
    """Calls of the counting decoder."""

    paths: list[str]
    requests: list[list[int]]


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """A backend named "counting" that records its calls and decodes with PyAV."""
    seen = Opened([], [])

    def open_counting(path: str, options: DecodeOptions) -> Video:
        seen.paths.append(path)
        video = open_video(path, "pyav", options)
        decode = video.frames
        monkeypatch.setattr(video, "frames", lambda indices: seen.requests.append(indices.tolist()) or decode(indices))
        return video

    monkeypatch.setitem(BACKENDS, "counting", open_counting)
    yield seen


@pytest.fixture
def samples(numbered: Numbered) -> list[Sample]:
    return [Sample(str(numbered(f"length_{n}.mp4", num_frames=n)), label) for label, n in enumerate((70, 40, 3, 55))]


def training(samples: list[Sample], **arguments: Any) -> ClipDataset:
    arguments.setdefault("plan", RandomSpans(4, 4, 30.0))
    return ClipDataset(samples, crops=RepeatedCrops(keep), seed=5, replace_unreadable=True, **arguments)


def test_all_views_from_one_decode(samples: list[Sample], counting: Opened) -> None:
    plan = EvenSpans(4, 4, 30.0, num_clips=5)
    dataset = ClipDataset(samples, plan=plan, crops=FixedCrops(two_crops), num_crops=2, backend="counting")
    assert dataset.num_views == 10
    item = dataset[0, 0]
    assert counting.paths == [samples[0].path]
    expected = plan(70, 30.0, np.random.default_rng(0))
    union = sorted({int(index) for indices in expected for index in indices})
    assert counting.requests == [union]
    assert [clip.view for clip in item.clips] == list(range(10))
    for clip in item.clips:
        frames = clip.frames_THWC if clip.view % 2 == 0 else clip.frames_THWC.flip(-1)
        assert read_barcodes(frames) == expected[clip.view // 2].tolist()
        assert (clip.label, clip.video) == (0, 0)


def test_repeated_augmentation_same_span(samples: list[Sample], counting: Opened) -> None:
    dataset = ClipDataset(
        samples,
        plan=RandomSpans(4, 4, 30.0),
        crops=RepeatedCrops(darken, times=4),
        num_crops=4,
        backend="counting",
    )
    clips = dataset[0, 1].clips
    assert len(counting.paths) == 1 and len(clips) == dataset.num_views == 4
    numbers = {tuple(read_barcodes(clip.frames_THWC)) for clip in clips}
    assert len(numbers) == 1
    assert len({clip.erase_seed for clip in clips}) == 4
    assert len({int(clip.frames_THWC.max()) for clip in clips}) > 1


def test_video_shorter_than_clip(samples: list[Sample]) -> None:
    assert read_barcodes(training(samples)[0, 2].clips[0].frames_THWC)[-1] == 2


def test_clip_depends_on_seed_epoch_index(samples: list[Sample]) -> None:
    def numbers(seed: int, epoch: int, index: int, warm_up: int = 0) -> list[int]:
        dataset = ClipDataset(
            samples, plan=RandomSpans(4, 4, 30.0), crops=RepeatedCrops(keep), seed=seed, replace_unreadable=True
        )
        for other in range(warm_up):
            dataset[0, other % 4]
            np.random.rand()
            torch.rand(1)
        clip = dataset[epoch, index].clips[0]
        return [*read_barcodes(clip.frames_THWC), clip.erase_seed]

    assert numbers(5, 2, 0) == numbers(5, 2, 0, warm_up=3)
    erase_seeds = {numbers(*key)[-1] for key in [(5, 2, 0), (6, 2, 0), (5, 3, 0), (5, 2, 1)]}
    assert len(erase_seeds) == 4


def test_unreadable_video_replaced(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    bad = [Sample(str(tmp_path / "missing.mp4"), 9), Sample(str(tmp_path / "empty.mp4"), 9)]
    dataset = training(bad + samples)
    found = set()
    for epoch in range(12):
        item = dataset[epoch, 0]
        assert item.failures[0] == Failure(bad[0].path, "file does not exist", "decord")
        assert {failure.path for failure in item.failures} <= {sample.path for sample in bad}
        (clip,) = item.clips
        assert clip.label == dataset.samples[clip.video].label != 9
        found.add(clip.video)
        assert training(bad + samples)[epoch, 0].clips[0].video == clip.video
    assert len(found) > 1


def test_many_failures_in_a_row_raise(tmp_path: Path) -> None:
    dataset = training([Sample(str(tmp_path / f"{number}.mp4"), 0) for number in range(3)])
    with pytest.raises(DecodeError, match=r"does not exist; 9 replacements drawn for it cannot be read either"):
        dataset[0, 1]


def test_nine_failures_replaced_ten_raise(samples: list[Sample], counting: Opened) -> None:
    bad = [Sample(f"/nowhere/{number}.mp4", 0) for number in range(40)]
    most = 0
    for epoch in range(60):
        try:
            most = max(most, len(training(bad + samples, backend="counting")[epoch, 0].failures))
        except DecodeError:
            continue
    assert most == 9


def test_evaluation_unreadable_not_replaced(samples: list[Sample], tmp_path: Path) -> None:
    bad = Sample(str(tmp_path / "missing.mp4"), 1)
    dataset = ClipDataset([bad, *samples], plan=EvenSpans(4, 4, 30.0), crops=FixedCrops(two_crops), num_crops=2)
    assert dataset[0, 0] == Item([], [Failure(bad.path, "file does not exist", "decord")])
    assert len(dataset[0, 1].clips) == 2


def make_batch(num_clips: int) -> Batch:
    dataset_items = [
        Item([], [Failure("bad.mp4", "why", "pyav")]),
        *(Item([_clip(number)], []) for number in range(num_clips)),
    ]
    return collate(dataset_items)


def _clip(number: int) -> Clip:
    return Clip(torch.full((2, 4, 4, 3), number, dtype=torch.uint8), number, 10 + number, number % 3, 2**62 + number)


def test_collate() -> None:
    batch = make_batch(5)
    assert len(batch) == 5 and batch.frames_BTHWC.shape == (5, 2, 4, 4, 3)
    assert batch.labels.tolist() == [0, 1, 2, 3, 4] and batch.videos_B.tolist() == [10, 11, 12, 13, 14]
    assert batch.views_B.tolist() == [0, 1, 2, 0, 1] and batch.erase_seeds_B[4] == 2**62 + 4
    assert batch.failures == [Failure("bad.mp4", "why", "pyav")]
    assert torch.equal(batch.to("cpu").frames_BTHWC, batch.frames_BTHWC)
    assert torch.equal(pickle.loads(pickle.dumps(batch)).labels, batch.labels)


@pytest.mark.parametrize(("size", "lengths"), [(2, [2, 2, 1]), (5, [5]), (9, [5]), (1, [1] * 5)])
def test_batch_split(size: int, lengths: list[int]) -> None:
    batch = make_batch(5)
    pieces = list(batch.split(size))
    assert [len(piece) for piece in pieces] == lengths
    assert torch.equal(torch.cat([piece.frames_BTHWC for piece in pieces]), batch.frames_BTHWC)
    assert torch.equal(torch.cat([piece.erase_seeds_B for piece in pieces]), batch.erase_seeds_B)
    assert [failure for piece in pieces for failure in piece.failures] == batch.failures
    assert pieces[0].failures == batch.failures


def test_collate_no_clips() -> None:
    batch = make_batch(0)
    assert len(batch) == 0 and batch.frames_BTHWC.shape[0] == 0 and batch.labels.dtype == torch.int64
    assert [piece.failures for piece in batch.split(3)] == [batch.failures]
    with pytest.raises(ValueError, match="at least 1"):
        list(batch.split(0))
