"""Initial weights and weights to test: new heads, the report, and no silent gaps."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers.runs import TINY, write_config
from videovit.config import Config, load_config
from videovit.engine.checkpoints.folder import Position, checkpoint_path
from videovit.engine.checkpoints.saving import snapshot, write_checkpoint
from videovit.engine.checkpoints.weights import load_initial_weights, load_weights_to_test
from videovit.engine.reporting.log import logger
from videovit.models import build_model
from videovit.models.convert import CheckpointError

BOXES = "DETECTION.ENABLE True TRAIN.DATASET ava TEST.DATASET ava MODEL.LOSS_FUNC bce MODEL.HEAD_ACT sigmoid".split()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a classifier with three classes."""
    folder = tmp_path_factory.mktemp("source")
    torch.manual_seed(1)
    model = build_model(load_config(write_config(folder, TINY)))
    position = Position(epoch=1)
    path = checkpoint_path(folder, position)
    write_checkpoint(path, snapshot(model, position=position, cfg_text=""))
    return path


def config(source: Path, *opts: object) -> Config:
    return load_config(source.parents[1] / "tiny.yaml", [*map(str, opts), "TRAIN.CHECKPOINT_FILE_PATH", str(source)])


@pytest.mark.parametrize(
    "opts",
    [["MODEL.NUM_CLASSES", 5], [*BOXES, "MODEL.NUM_CLASSES", 5], [*BOXES]],
    ids=["clips", "boxes", "same number"],
)
def test_initial_weights_replace_all_but_another_head(
    opts: list[object], source: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(source, *opts)
    model = build_model(cfg)
    held = torch.load(source, weights_only=True)["model_state"]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.INFO):
        load_initial_weights(cfg, model)
    for name, tensor in model.state_dict().items():
        kept = before if name.startswith("head.") and cfg.MODEL.NUM_CLASSES != 3 else held
        assert torch.equal(tensor, kept[name]), name
    for word in ("loaded", "resized", "skipped", "missing"):
        assert word in caplog.text
    assert ("head.projection.weight" in caplog.text) == (cfg.MODEL.NUM_CLASSES != 3)


def test_folder_of_a_run_means_its_newest_checkpoint(source: Path, tmp_path: Path) -> None:
    cfg = config(source, "MODEL.NUM_CLASSES", 3)
    folder = replace(cfg, TRAIN=replace(cfg.TRAIN, CHECKPOINT_FILE_PATH=str(source.parents[1])))
    model = build_model(cfg)
    load_initial_weights(folder, model)
    held = torch.load(source, weights_only=True)["model_state"]
    assert all(torch.equal(tensor, held[name]) for name, tensor in model.state_dict().items())
    empty = replace(cfg, TRAIN=replace(cfg.TRAIN, CHECKPOINT_FILE_PATH=str(tmp_path)))
    with pytest.raises(CheckpointError, match="a folder without checkpoints"):
        load_initial_weights(empty, model)


def test_gap_outside_the_head_is_an_error(source: Path) -> None:
    cfg = config(source, "MVIT.DEPTH", 3)
    with pytest.raises(CheckpointError, match=r"does not fit the model(.|\n)*blocks\.2"):
        load_initial_weights(cfg, build_model(cfg))


def test_initial_weights_are_tested_only_if_complete(source: Path, tmp_path: Path) -> None:
    """A run without checkpoints tests its initial weights, but no untrained head and no other kind of weights."""
    opts = ["OUTPUT_DIR", tmp_path, "TRAIN.ENABLE", False]
    cfg = config(source, *opts)
    assert load_weights_to_test(cfg, build_model(cfg)) == str(source)
    cfg = config(source, *opts, "MODEL.NUM_CLASSES", 5)
    with pytest.raises(CheckpointError, match="is MODEL.NUM_CLASSES right"):
        load_weights_to_test(cfg, build_model(cfg))
    cfg = config(source, *opts, "TEST.USE_EMA", True)
    with pytest.raises(CheckpointError, match="holds no moving average"):
        load_weights_to_test(cfg, build_model(cfg))


def test_own_checkpoint_at_other_size_names_the_key_that_stretches(source: Path) -> None:
    opts = ["OUTPUT_DIR", source.parents[1], "MODEL.NUM_CLASSES", 3]
    larger = config(source, *opts, "DATA.NUM_FRAMES", 8)
    with pytest.raises(CheckpointError, match=r"does not fit the model(.|\n)*pos_embed_temporal") as caught:
        load_weights_to_test(larger, build_model(larger))
    advice = re.search(r"set (TEST\.CHECKPOINT_FILE_PATH) (\S+)$", str(caught.value))
    assert advice
    followed = config(source, *opts, "DATA.NUM_FRAMES", 8, *advice.groups())
    assert load_weights_to_test(followed, build_model(followed)) == str(source)
    for others in (["MODEL.NUM_CLASSES", 5, "DATA.NUM_FRAMES", 8], ["MVIT.DEPTH", 3]):
        cfg = config(source, *opts, *others)
        with pytest.raises(CheckpointError, match="does not fit the model") as caught:
            load_weights_to_test(cfg, build_model(cfg))
        assert "TEST.CHECKPOINT_FILE_PATH" not in str(caught.value)
