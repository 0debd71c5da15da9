"""Checks before training, for the test after it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.runs import TINY, write_config
from videovit.config import load_config
from videovit.engine.problem import Problem
from videovit.engine.tasks.test import check_test
from videovit.errors import UserError


def write_images(folder: Path) -> list[str]:
    """Two classes of images; what a config needs to read them."""
    for name in ("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png"):
        (folder / name).parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), "red").save(folder / name)
    opts = "TRAIN.DATASET imagenet TEST.DATASET imagenet DATA.NUM_FRAMES 1 MODEL.NUM_CLASSES 2 TEST.NUM_SPATIAL_CROPS 1"
    return [*opts.split(), "DATA.PATH_TO_DATA_DIR", str(folder), "OUTPUT_DIR", str(folder / "out")]


def test_check_uses_the_numbers_of_clips_of_the_test(tmp_path: Path) -> None:
    config, opts = write_config(tmp_path, TINY), write_images(tmp_path / "images")
    check_test(Problem(load_config(config, [*opts, "TEST.NUM_ENSEMBLE_VIEWS", "10", "TEST.NUM_TEMPORAL_CLIPS", "[1]"])))
    with pytest.raises(UserError, match="TEST.NUM_ENSEMBLE_VIEWS: found 5, expected 1"):
        check_test(
            Problem(load_config(config, [*opts, "TEST.NUM_ENSEMBLE_VIEWS", "1", "TEST.NUM_TEMPORAL_CLIPS", "[1,5]"]))
        )


def test_weights_of_the_coming_training_may_be_missing(tmp_path: Path) -> None:
    """The first process may not have created OUTPUT_DIR when others check."""
    config, opts = write_config(tmp_path, TINY), write_images(tmp_path / "images")
    opts += ["TEST.NUM_ENSEMBLE_VIEWS", "1", "TEST.CHECKPOINT_FILE_PATH"]
    for place in ("out", "out/checkpoints/checkpoint_epoch_00001.pyth"):
        check_test(Problem(load_config(config, [*opts, str(tmp_path / "images" / place)])))
