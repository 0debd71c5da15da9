"""Balanced drawing of training videos, and weights by frequency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from tests.helpers.videos import write_list
from videovit.config import load_config
from videovit.data.build import build_loader, describe_train_list
from videovit.data.class_frequency import count_classes, inverse_frequency
from videovit.data.dataset import Key, Stream, random_stream
from videovit.data.order import EpochSampler, balanced_draws
from videovit.data.records import Action, Box, KeyFrame, Sample

CLASSES = [0] * 20 + [2] * 6 + [1] * 2 + [4]  # no video of class 3


def keys(epoch: int = 0, *, first_step: int = 0, rank: int = 0, world_size: int = 1, batch: int = 4) -> list[Key]:
    sampler = EpochSampler(29, batch_size=batch, rank=rank, world_size=world_size, seed=5, classes=CLASSES)
    sampler.set_epoch(epoch, first_step)
    return list(sampler)


@pytest.mark.parametrize("epoch", range(3))
def test_every_class_is_drawn_equally_often(epoch: int) -> None:
    draws = balanced_draws(np.array(CLASSES), random_stream(Stream.ORDER_OF_VIDEOS, 5, epoch))
    by_class = Counter(CLASSES[video] for video, _ in draws.tolist())
    assert sorted(by_class.values()) == [7, 7, 7, 8] and by_class.keys() == {0, 1, 2, 4}
    for label in by_class:
        times = Counter(video for video, _ in draws.tolist() if CLASSES[video] == label)
        all_times = [times[video] for video in range(29) if CLASSES[video] == label]
        assert max(all_times) - min(all_times) <= 1  # within a class, every video is drawn equally often
    for video, number in Counter(video for video, _ in draws.tolist()).items():
        assert sorted(time for other, time in draws.tolist() if other == video) == list(range(number))


def test_draws_follow_from_seed_and_epoch() -> None:
    assert keys(0) == keys(0) != keys(1)
    left_out = [set(range(20)) - {key[1] for key in keys(epoch)} for epoch in range(20)]
    assert not set.intersection(*left_out)  # a common class is seen in full over the epochs


@pytest.mark.parametrize("world_size", [2, 4])
def test_global_batches_are_the_same_for_any_ranks(world_size: int) -> None:
    ranks = [keys(rank=rank, world_size=world_size, batch=4 // world_size) for rank in range(world_size)]
    size = 4 // world_size
    together = [key for at in range(0, len(ranks[0]), size) for one in ranks for key in one[at : at + size]]
    assert together == keys() and len(together) == 28


def test_an_epoch_resumes_where_it_stopped() -> None:
    assert keys(3, first_step=2) == keys(3)[8:]


def test_a_video_that_comes_again_is_another_clip(numbered: Callable[..., Path], tmp_path: Path) -> None:
    rows = [(numbered("length_61.mp4", num_frames=61), 0), *((numbered("length_45.mp4", num_frames=45), 1),) * 5]
    write_list(tmp_path / "train.csv", rows)
    opts = f"""DATA.PATH_TO_DATA_DIR {tmp_path} NUM_GPUS 0 TRAIN.BATCH_SIZE 6 MODEL.NUM_CLASSES 2 DATA.SAMPLER balanced
        DATA.NUM_FRAMES 2 DATA.TRAIN_CROP_SIZE 32 DATA_LOADER.NUM_WORKERS 0 DATA.TRAIN_JITTER_SCALES [36,44]"""
    loader = build_loader(load_config(None, opts.split()), "train")
    (batch,) = loader
    assert batch.labels.sum() == 3
    rare = batch.frames_BTHWC[batch.labels == 0]
    assert len(rare) == 3 and not any(torch.equal(rare[i], rare[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    seeds = batch.erase_seeds_B.tolist()
    assert len(set(seeds)) == 6
    (again,) = loader
    assert torch.equal(again.frames_BTHWC, batch.frames_BTHWC)
    epoch = describe_train_list(loader.dataset.samples, num_classes=2, videos_per_step=6, balanced=True)
    assert "balanced: 3.0 draws of each class, 3 to 0.6 of each of its videos" in epoch


def test_weights_are_scikit_learns_balanced_ones() -> None:
    samples = [Sample("a.mp4", label) for label in CLASSES]
    counts_K = count_classes(samples, 5)
    assert counts_K.tolist() == [20, 2, 6, 0, 1]
    weights_K = inverse_frequency(counts_K)
    occurring = [0, 1, 2, 4]
    expected = compute_class_weight("balanced", classes=np.array(occurring), y=np.array(CLASSES))
    np.testing.assert_allclose(weights_K[occurring], expected)
    assert weights_K[3] == 1.0
    assert (weights_K * counts_K).sum() / counts_K.sum() == pytest.approx(1.0)


def test_several_classes_per_video_and_per_box_are_counted() -> None:
    shown = (Action(0, 0.0, 1.0), Action(2, 0.0, 1.0), Action(2, 5.0, 6.0))
    assert count_classes([Sample("a.mp4", actions=shown), Sample("b.mp4", actions=())], 3).tolist() == [1, 0, 1]
    boxes = tuple(Box(0, 0, 1, 1, class_ids) for class_ids in ((1, 3), (3,), ()))
    assert count_classes([Sample("a.mp4", key=KeyFrame("a", 1.0, boxes))], 3).tolist() == [1, 0, 2]
