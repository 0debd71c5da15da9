"""Images with objects: ids and masks of any kind, augmentation of all together, order of batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.coco_data import coco_config, renderer, write_coco
from videovit.config import ConfigError
from videovit.data.build import build_loader
from videovit.data.coco import read_coco, read_coco_names
from videovit.data.masks import draw_masks
from videovit.data.objects import pack_masks, unpack_masks
from videovit.data.order import EpochSampler
from videovit.data.records import AnnotationError, Batch


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"), train=30, val=4)


def test_rendered_images_have_ids_with_gaps_crowds_and_masks_of_both_kinds(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "annotations/instances_train.json").read_text())
    kinds = {type(row["segmentation"]) for row in content["annotations"]}
    assert kinds == {list, dict} and sum(row["iscrowd"] for row in content["annotations"]) == 2
    cfg = coco_config(tmp_path, data)
    samples = read_coco(cfg, "train")
    assert len(samples) == 29  # one image is empty
    assert read_coco_names(cfg) == ["disc", "square", "triangle", "stripes", "ring", "cross"]
    rows = {row["id"]: row for row in content["annotations"]}
    for sample in samples:
        shown = sample.image
        assert shown is not None
        own = [row for row in rows.values() if row["image_id"] == shown.image_id]
        assert [list(renderer().CATEGORIES).index(row["category_id"]) + 1 for row in own] == shown.labels_R.tolist()
        masks_RHW = draw_masks(shown.masks, shown.height, shown.width)
        assert masks_RHW.sum(axis=(1, 2)).tolist() == [row["area"] for row in own]
        for mask_HW, box_4 in zip(masks_RHW, shown.boxes_R4, strict=True):
            y, x = np.nonzero(mask_HW)
            assert box_4.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_masks_survive_packing() -> None:
    masks_RHW = (torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(1)) < 0.5).to(torch.uint8)
    assert torch.equal(unpack_masks(pack_masks(masks_RHW), (5, 7)), masks_RHW)
    assert unpack_masks(pack_masks(masks_RHW[:0]), (5, 7)).shape == (0, 5, 7)


def batches(cfg: Any, number: int = 3) -> list[Batch]:
    loader = build_loader(cfg, "train")
    loader.sampler.set_epoch(2)
    return [batch for batch, _ in zip(loader, range(number), strict=False)]


@pytest.mark.parametrize("augmentation", ["multiscale", "detr", "lsj"])
def test_augmentation_moves_images_boxes_and_masks_together(augmentation: str, data: Path, tmp_path: Path) -> None:
    cfg = coco_config(tmp_path, data, "COCO.AUGMENTATION", augmentation)
    seen = 0
    for batch in batches(cfg, 7):
        for frames_1HWC, shown in zip(batch.frames_BTHWC, batch.objects, strict=True):
            height, width = shown.size
            outside = frames_1HWC.clone()
            outside[:, :height, :width] = 0
            assert not outside.any()  # padding
            target = shown.target()
            for box_4, mask_HW in zip(target["boxes"], target["masks"], strict=True):
                y, x = torch.nonzero(mask_HW, as_tuple=True)
                found = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1])
                # A corner that a crop cut off may leave a smaller mask, but never a larger one.
                assert (found[:2] >= box_4[:2] - 1.5).all() and (found[2:] <= box_4[2:] + 1.5).all()
                inside = frames_1HWC[0, :height, :width][mask_HW.bool()].float().mean()
                around = frames_1HWC[0, :height, :width][~mask_HW.bool()].float().mean()
                seen += int(inside > around)  # shapes are brighter than the ground, on the whole
        assert {"area", "image_id", "iscrowd", "labels"} <= batch.objects[0].target().keys()
    assert seen > 25
    if augmentation == "multiscale":
        assert {min(shown.size) for batch in batches(cfg, 7) for shown in batch.objects} == {48, 56, 64}


def test_batches_do_not_depend_on_workers_and_hold_one_aspect(data: Path, tmp_path: Path) -> None:
    one = batches(coco_config(tmp_path, data, "COCO.AUGMENTATION", "detr"))
    two = batches(coco_config(tmp_path, data, "COCO.AUGMENTATION", "detr", "DATA_LOADER.NUM_WORKERS", 2))
    for first, second in zip(one, two, strict=True):
        assert torch.equal(first.frames_BTHWC, second.frames_BTHWC)
        for shown, other in zip(first.objects, second.objects, strict=True):
            assert torch.equal(shown.boxes_R4, other.boxes_R4) and torch.equal(shown.bits_RN, other.bits_RN)
            assert (shown.image_id, shown.full_size) == (other.image_id, other.full_size)
    groups = [i % 3 == 0 for i in range(40)]
    ranks = [EpochSampler(40, batch_size=2, rank=rank, world_size=2, seed=1, groups=groups) for rank in (0, 1)]
    pairs = [np.array([key[1] for key in sampler]).reshape(-1, 2) for sampler in ranks]
    global_batches = np.concatenate(pairs, axis=1)
    assert sorted(global_batches.flatten().tolist()) == list(range(40))
    assert sum(len({groups[i] for i in batch}) > 1 for batch in global_batches) <= 1


def test_objects_that_cannot_be_learned_are_counted(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads((data / "annotations/instances_train.json").read_text())
    single = [row for row in content["annotations"] if not row["iscrowd"]]
    read_coco(coco_config(tmp_path, data), "train")
    assert not caplog.records
    single[0]["bbox"][2], single[1]["segmentation"], single[2]["bbox"][:2] = 0, [[1, 1, 2, 2]], [500, 500]
    (data / "annotations/some.json").write_text(json.dumps(content))
    own = ("COCO.TRAIN_ANNOTATIONS", "annotations/some.json")
    read_coco(coco_config(tmp_path, data, *own), "train")
    assert f"some.json: 3 of {len(single)} objects without a box in the image, or a mask left out" in caplog.text
    caplog.clear()
    read_coco(coco_config(tmp_path, data, *own, "COCO.MASKS", False, "DETECTOR.NAME", "FasterRCNN"), "train")
    assert f"some.json: 2 of {len(single)} objects without a box in the image left out" in caplog.text


def test_image_of_another_size_is_replaced_and_named(data: Path, tmp_path: Path) -> None:
    cfg = coco_config(tmp_path, data)
    dataset = build_loader(cfg, "train").dataset
    sample = dataset.samples[0]
    before = Path(sample.path).read_bytes()
    try:
        Image.new("RGB", (20, 30)).save(sample.path)
        item = dataset[0, 0]
        assert len(item.clips) == 1 and "20 x 30 pixels, annotated as" in item.failures[0].reason
    finally:
        Path(sample.path).write_bytes(before)


def loader_of_one_image(tmp_path: Path, size: tuple[int, int], split: str, *opts: object) -> Any:
    """Of an image of (width, height) pixels which is one object."""
    width, height = size
    (tmp_path / split).mkdir()
    Image.new("RGB", size, "red").save(tmp_path / split / "long.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, width, height], "area": width * height}
    corners = [0, 0, width, 0, width, height, 0, height]
    content = {
        "images": [{"id": 1, "file_name": "long.png", "width": width, "height": height}],
        "annotations": [{**box, "segmentation": [corners]}],
        "categories": [{"id": 1, "name": "line"}],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    names = ("COCO.TRAIN_ANNOTATIONS", "all.json", "COCO.VAL_ANNOTATIONS", "all.json", "MODEL.NUM_CLASSES", 1)
    return build_loader(coco_config(tmp_path, tmp_path, *names, "TRAIN.BATCH_SIZE", 1, *opts), split)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("augmentation", ["multiscale", "lsj", "detr"])
@pytest.mark.parametrize("size", [(1, 400), (400, 1), (1, 1)])
def test_image_of_one_pixel_is_scaled_to_at_least_one(
    augmentation: str, size: tuple[int, int], split: str, tmp_path: Path
) -> None:
    loader = loader_of_one_image(tmp_path, size, split, "COCO.AUGMENTATION", augmentation)
    (clip,) = loader.dataset[0, 0].clips
    assert min(clip.frames_THWC.shape[1:3]) >= 1 and max(clip.frames_THWC.shape[1:3]) <= 100


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that an operator has made."""

    num_bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.num_bytes = max(self.num_bytes, out.numel() * out.element_size())
        return out


@pytest.mark.parametrize("augmentation", ["multiscale", "lsj", "detr"])
def test_very_long_image_fills_no_memory(augmentation: str, tmp_path: Path) -> None:
    loader = loader_of_one_image(tmp_path, (10_000, 1), "train", "COCO.AUGMENTATION", augmentation)
    with LargestTensor() as largest:
        for epoch in range(12):  # detr cuts half of them
            assert loader.dataset[epoch, 0].clips
    assert 0 < largest.num_bytes <= 3 * 16 * 64 * 64  # colors, and a side of 16 times COCO.CROP_SHORT_SIDES


def test_configs_and_annotations_that_do_not_fit_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="have 6 categories, but MODEL.NUM_CLASSES is 80"):
        read_coco(coco_config(tmp_path, data, "MODEL.NUM_CLASSES", 80), "train")
    for opts, message in (
        (("DETECTOR.NAME", ""), "the images of coco have objects to find"),
        (("DETECTOR.NAME", "FasterRCNN"), "COCO.MASKS"),
        (("MIXUP.ENABLE", True), "objects cannot be mixed"),
        (("TRAIN.BEST", "top1_acc"), "box_ap"),
        (("COCO.CROP_SIZES", "[600,384]"), "must be increasing"),
    ):
        with pytest.raises(ConfigError, match=message):
            coco_config(tmp_path, data, *opts)
    other = json.loads((data / "annotations/instances_val.json").read_text())
    other["categories"][0]["name"] = "ball"
    path = data / "annotations/other.json"
    path.write_text(json.dumps(other))
    with pytest.raises(AnnotationError, match="classes would be confused"):
        read_coco(coco_config(tmp_path, data, "COCO.TRAIN_ANNOTATIONS", "annotations/other.json"), "train")
