"""The loader: the same batches for any number of workers and ranks, and after resuming."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.videos import write_list
from videovit.config import load_config
from videovit.data.build import ClipLoader, build_loader, describe_train_list, train_batch_size
from videovit.data.order import EpochSampler
from videovit.data.records import Action, AnnotationError, Batch, Box, KeyFrame, Sample
from videovit.errors import UserError

LENGTHS = (30, 45, 20, 50, 3, 33, 28, 61, 40, 25, 37)


@pytest.fixture(scope="session")
def lists(numbered: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lists")
    rows = [(numbered(f"length_{length}.mp4", num_frames=length), label) for label, length in enumerate(LENGTHS)]
    for split in ("train", "val", "test"):
        write_list(folder / f"{split}.csv", rows)
    return folder


def loader(lists: Path, split: str, *opts: object, **arguments: object) -> ClipLoader:
    base = f"""DATA.PATH_TO_DATA_DIR {lists} NUM_GPUS 0 TRAIN.BATCH_SIZE 4 TEST.BATCH_SIZE 8 MODEL.NUM_CLASSES 11
        DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 4 DATA.TRAIN_CROP_SIZE 32 DATA.TEST_CROP_SIZE 32 DATA_LOADER.NUM_WORKERS 0
        DATA.TRAIN_JITTER_SCALES [36,44] TEST.NUM_ENSEMBLE_VIEWS 3 TEST.NUM_SPATIAL_CROPS 1"""
    cfg = load_config(None, [*base.split(), *(str(opt) for opt in opts)])
    return build_loader(cfg, split, **arguments)  # type: ignore[arg-type]


def same(left: Batch, right: Batch) -> bool:
    tensors = ("frames_BTHWC", "labels", "videos_B", "views_B", "erase_seeds_B")
    equal = all(torch.equal(getattr(left, name), getattr(right, name)) for name in tensors)
    return equal and left.failures == right.failures


def parts(batch: Batch) -> list[tuple[int, int, int, int]]:
    """Video, view, seed and pixel sum of every clip."""
    sums = batch.frames_BTHWC.long().sum(dim=(1, 2, 3, 4))
    columns = (batch.videos_B, batch.views_B, batch.erase_seeds_B, sums)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("split", ["train", "test"])
def test_batches_same_for_any_workers(lists: Path, split: str) -> None:
    runs = []
    for num_workers in (0, 1, 3):
        made = loader(lists, split, "DATA_LOADER.NUM_WORKERS", num_workers, "AUG.NUM_SAMPLE", 2)
        batches = []
        for epoch in (0, 1):
            made.sampler.set_epoch(epoch)
            epoch_batches = list(made)
            assert len(epoch_batches) == len(made)
            batches += epoch_batches
        runs.append(batches)
    for others in runs[1:]:
        assert all(same(a, b) for a, b in zip(runs[0], others, strict=True))
    assert any(not same(a, b) for a, b in zip(runs[0][: len(runs[0]) // 2], runs[0][len(runs[0]) // 2 :], strict=True))


@pytest.mark.parametrize("world_size", [2, 4])
def test_global_batches_same_for_any_ranks(lists: Path, world_size: int) -> None:
    alone = [parts(batch) for batch in loader(lists, "train")]
    ranks = [
        [parts(batch) for batch in loader(lists, "train", rank=rank, world_size=world_size)]
        for rank in range(world_size)
    ]
    together = [[clip for piece in pieces for clip in piece] for pieces in zip(*ranks, strict=True)]
    assert together == alone
    assert [len(batch) for batch in alone] == [4, 4]


def test_batch_size_times_shards(lists: Path) -> None:
    alone = [parts(batch) for batch in loader(lists, "train", "TRAIN.BATCH_SIZE", 8)]
    ranks = [
        [parts(batch) for batch in loader(lists, "train", "TRAIN.BATCH_SIZE", 4, "NUM_SHARDS", 2, rank=r, world_size=2)]
        for r in (0, 1)
    ]
    assert [left + right for left, right in zip(*ranks, strict=True)] == alone


def test_sampler_epochs_differ_without_repeats(lists: Path) -> None:
    made = loader(lists, "train", "TRAIN.BATCH_SIZE", 1)
    orders = []
    for epoch in range(3):
        made.sampler.set_epoch(epoch)
        orders.append([key[1] for key in made.sampler])
    assert all(sorted(order) == list(range(11)) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_resume_mid_epoch(lists: Path) -> None:
    made = loader(lists, "train", "TRAIN.BATCH_SIZE", 2)
    made.sampler.set_epoch(7)
    whole = list(made)
    assert len(whole) == len(made) == 5
    for first_step in (0, 1, 4, 5):
        made.sampler.set_epoch(7, first_step=first_step)
        rest = list(made)
        assert len(made) == 5
        assert len(rest) == 5 - first_step
        assert all(same(a, b) for a, b in zip(rest, whole[first_step:], strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_every_view_once(lists: Path, split: str, world_size: int) -> None:
    made = [loader(lists, split, rank=rank, world_size=world_size) for rank in range(world_size)]
    seen = Counter(clip[:2] for one in made for batch in one for clip in parts(batch))
    num_views = 3 if split == "test" else 1
    assert made[0].dataset.num_views == num_views
    assert seen == Counter((video, view) for video in range(11) for view in range(num_views))
    assert [len(one) for one in made] == [len(list(one)) for one in made]


def test_evaluation_three_crops(lists: Path) -> None:
    made = loader(lists, "test", "TEST.NUM_SPATIAL_CROPS", 3, "TEST.BATCH_SIZE", 20)
    batches = list(made)
    assert made.dataset.num_views == 9 and len(made) == 6  # 20 // 9 = 2 videos per step
    assert batches[0].views_B.tolist() == [*range(9), *range(9)]
    assert batches[0].labels.tolist() == [0] * 9 + [1] * 9
    left, center, right = batches[0].frames_BTHWC[:3]
    assert not torch.equal(left, center) and not torch.equal(center, right)


def test_batch_shapes(lists: Path) -> None:
    for split, batch_size, crop in (("train", 8, 32), ("val", 4, 32), ("test", 6, 24)):
        batch = next(iter(loader(lists, split, "AUG.NUM_SAMPLE", 2, "DATA.TEST_CROP_SIZE", 24)))
        assert batch.frames_BTHWC.shape == (batch_size, 4, crop, crop, 3)
        assert batch.frames_BTHWC.dtype == torch.uint8 and batch.frames_BTHWC.is_contiguous()


def test_unreadable_videos_recorded(lists: Path, tmp_path: Path) -> None:
    good = [line.rsplit(" ", 1)[0] for line in (lists / "train.csv").read_text().splitlines()]
    rows = [*((path, 0) for path in good[:4]), (tmp_path / "missing.mp4", 1), (good[0], 1)]
    for split in ("train", "val"):
        write_list(tmp_path / f"{split}.csv", rows)
    for num_workers in (0, 2):
        opts = ("TRAIN.BATCH_SIZE", 2, "DATA_LOADER.NUM_WORKERS", num_workers)
        for split, num_clips in (("train", 6), ("val", 5)):
            batches = list(loader(tmp_path, split, *opts))
            assert sum(len(batch) for batch in batches) == num_clips
            failures = {(f.path, f.reason) for batch in batches for f in batch.failures}
            assert failures == {(str(tmp_path / "missing.mp4"), "file does not exist")}


def test_global_random_state_unchanged(lists: Path) -> None:
    def state() -> tuple[object, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    for _ in zip(range(2), loader(lists, "train"), strict=False):
        pass
    assert state() == before


def test_invalid_batch_size_raises(lists: Path) -> None:
    with pytest.raises(UserError, match=r"TRAIN.BATCH_SIZE 4 .* cannot be divided evenly among 3 processes"):
        loader(lists, "train", rank=0, world_size=3)
    with pytest.raises(UserError, match="has 11 videos, fewer than one step takes.*= 12"):
        loader(lists, "train", "TRAIN.BATCH_SIZE", 12)
    with pytest.raises(ValueError, match="rank 2 is not in 0..1"):
        EpochSampler(5, batch_size=1, rank=2, world_size=2)


@pytest.mark.parametrize(
    ("opts", "ranks", "hint"),
    [
        ("TRAIN.BATCH_SIZE 12", 1, "Set TRAIN.BATCH_SIZE 11 or less"),
        ("TRAIN.BATCH_SIZE 12", 2, "Set TRAIN.BATCH_SIZE 10 or less"),
        ("TRAIN.BATCH_SIZE 12 TRAIN.GRAD_ACCUM_STEPS 3", 2, "Set TRAIN.BATCH_SIZE 6 or less"),
        ("TRAIN.BATCH_SIZE 12 TRAIN.GRAD_ACCUM_STEPS 3 AUG.NUM_SAMPLE 3", 2, "Set TRAIN.BATCH_SIZE 10 or less"),
        ("TRAIN.BATCH_SIZE 12 NUM_SHARDS 2", 4, "Set TRAIN.BATCH_SIZE 4 or less"),
        ("TRAIN.BATCH_SIZE 12", 12, "Start fewer processes"),
    ],
)
def test_batch_larger_than_list_names_the_largest(opts: str, ranks: int, hint: str) -> None:
    cfg = load_config(None, opts.split())
    with pytest.raises(UserError, match=rf"has 11 videos, fewer than one step takes.*\. {hint}$"):
        train_batch_size(cfg, 11, ranks)
    if hint.startswith("Set"):
        key, value = hint.split()[1:3]
        assert train_batch_size(load_config(None, [*opts.split(), key, value]), 11, ranks) > 0


def test_describe_epoch_states_what_is_left_out() -> None:
    samples = [Sample(f"{i}.mp4", i % 4) for i in range(19)]
    assert describe_train_list(samples[:16], num_classes=4, videos_per_step=8) == "16 videos, 2 steps of 8 per epoch"
    assert describe_train_list(samples, num_classes=12, videos_per_step=8) == (
        "19 videos, 2 steps of 8 per epoch, which leaves out 3 videos (15.8 %, others in each epoch), "
        "no video for 8 of the 12 classes (MODEL.NUM_CLASSES)"
    )
    actions = [Sample("a.mp4", actions=(Action(0, 0, 1), Action(2, 0, 1)))]
    assert "no video for 1 of the 3 classes" in describe_train_list(actions, num_classes=3, videos_per_step=1)
    boxes = [Sample("a.mp4", key=KeyFrame("a", 1.0, (Box(0, 0, 1, 1, (1, 2)), Box(0, 0, 1, 1))))]
    assert "no video for 1 of the 3 classes" in describe_train_list(boxes, num_classes=3, videos_per_step=1)


def test_list_settings_used_by_reader(lists: Path, tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text("video|class\nlength_30.mp4|3\n")
    folder = Path((lists / "val.csv").read_text().split()[0]).parent
    opts = ("DATA.PATH_PREFIX", folder, "DATA.SKIP_ROWS", 1, "DATA.PATH_LABEL_SEPARATOR", "|")
    (batch,) = loader(tmp_path, "val", *opts)
    assert batch.labels.tolist() == [3] and not batch.failures
    with pytest.raises(AnnotationError, match=r"test\.csv' does not exist"):
        loader(tmp_path, "test")
