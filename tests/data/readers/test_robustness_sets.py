"""ImageNet-A, -R and the Backgrounds Challenge as their folders are published, and folders that are not like that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from videovit.data.readers.robustness_sets import (
    IN9,
    in9_of_imagenet,
    read_class_ids,
    read_foregrounds,
    read_mask,
    read_subset,
    read_variation,
    variations_in,
)
from videovit.data.records import AnnotationError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_in9_has_370_classes() -> None:
    table = in9_of_imagenet()
    counts = dict(zip(IN9, torch.bincount(table, minlength=10).tolist(), strict=False))
    # Dogs without 172 (a whippet); the sizes are those of the published table.
    assert table.shape == (1000,) and sum(counts.values()) == 370 and int((table == 9).sum()) == 630
    assert table[[151, 172, 207, 33, 389, 407, 889, 365]].tolist() == [0, 9, 0, 3, 8, 2, 6, 7]
    assert counts["insect"] == 27 and counts["bird"] == 52 and counts["fish"] == 16


def test_subset_takes_its_classes_from_the_folders(tmp_path: Path) -> None:
    for name in ("n05/a b.jpg", "n02/x.JPEG", "n05/c.jpg", "README.txt"):
        touch(tmp_path / "a" / name)
    ids = [f"n{i:02d}" for i in range(8)]
    with pytest.warns(UserWarning, match=r"1 file left out"):
        samples, classes = read_subset(str(tmp_path / "a"), ids)
    assert classes == [2, 5]
    assert [(Path(one.path).name, one.label) for one in samples] == [("x.JPEG", 0), ("a b.jpg", 1), ("c.jpg", 1)]
    with pytest.raises(AnnotationError, match=r"folder 'n05' is no class of the model; did you mean"):
        read_subset(str(tmp_path / "a"), ids[:4])
    with pytest.raises(AnnotationError, match="no such folder"):
        read_subset(str(tmp_path / "b"), ids)
    touch(tmp_path / "empty" / "n01" / "notes.txt")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(AnnotationError, match="no images in the class folders n01"),
    ):
        read_subset(str(tmp_path / "empty"), ids)


def test_class_ids_come_from_a_file_or_folders(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("n02 tench\nn01 shark\n")
    assert read_class_ids(str(tmp_path / "ids.txt"), "", 2) == ["n02", "n01"]
    for name in ("val/n03/a.jpg", "val/n01/a.jpg"):
        touch(tmp_path / name)
    assert read_class_ids("", str(tmp_path), 2) == ["n01", "n03"]
    with pytest.raises(AnnotationError, match=r"2 classes \(n01, n03\), expected 3 different|expected 3 different"):
        read_class_ids("", str(tmp_path), 3)
    with pytest.raises(AnnotationError, match="no such file"):
        read_class_ids("absent.txt", "", 2)
    with pytest.raises(AnnotationError, match=r"Set ROBUSTNESS\.CLASS_IDS_FILE"):
        read_class_ids("", str(tmp_path / "val"), 2)


def test_backgrounds_need_nine_classes_and_images_of_masks(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="none of the variations of the Backgrounds Challenge"):
        variations_in(str(tmp_path))
    folders = [f"{number:02d}_{name}" for number, name in enumerate(IN9)]
    for name in folders:
        touch(tmp_path / "original" / "val" / name / "n1_2.JPEG")
        (tmp_path / "fg_mask" / "val" / name).mkdir(parents=True)
    np.save(tmp_path / "fg_mask" / "val" / folders[3] / "n1_2.npy", np.eye(4, dtype=bool))
    assert variations_in(str(tmp_path)) == ["original"]
    assert [one.label for one in read_variation(str(tmp_path), "original")] == list(range(9))
    (one,) = read_foregrounds(str(tmp_path))
    assert one.label == 3 and one.image.endswith(f"original/val/{folders[3]}/n1_2.JPEG")
    assert torch.equal(read_mask(one.mask, 8), torch.eye(4).repeat_interleave(2, 0).repeat_interleave(2, 1).bool())
    np.save(one.mask, np.array([{}]), allow_pickle=True)
    with pytest.raises(AnnotationError, match="not an array"):
        read_mask(one.mask, 8)
    np.save(one.mask, np.zeros((4, 5)))
    with pytest.raises(AnnotationError, match=r"found \(4, 5\), expected a square"):
        read_mask(one.mask, 8)
    Path(one.image).unlink()
    with pytest.raises(AnnotationError, match="the mask has no image"):
        read_foregrounds(str(tmp_path))
    with pytest.raises(AnnotationError, match="8 class folders, expected 9|8 class folders; expected 9"):
        (tmp_path / "original" / "val" / folders[3]).rmdir()
        read_variation(str(tmp_path), "original")
