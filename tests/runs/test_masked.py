"""Masked pre-training: from lists without labels to fine-tuning, killed and resumed on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.helpers.runs import assert_same_bits, stats, write_config, write_data
from videovit.config import Config, load_config
from videovit.engine.launch import run
from videovit.engine.reporting.history import describe_epoch_end, read_history

MASKED = "MASK.ENABLE True TEST.ENABLE False MASK.NUM_PICTURES 2 SOLVER.MAX_EPOCH 2 TRAIN.EVAL_PERIOD 1 "
MASKED += "TRAIN.GRAD_ACCUM_STEPS 2 MVIT.DROPPATH_RATE 0.1 DATA.TRAIN_CROP_NUM_TEMPORAL 2 "
VIT = "MODEL.MODEL_NAME ViT VIT.EMBED_DIM 16 VIT.DEPTH 2 VIT.NUM_HEADS 2 VIT.PATCH_SIZE [2,8,8] VIT.DROPPATH_RATE 0.1 "
METHODS = {
    "mae": VIT
    + "MASK.MAE_ON True MASK.MAE_RND_MASK True AUG.MASK_TUBE True AUG.MASK_RATIO 0.75 MASK.PRETRAIN_DEPTH [1] "
    "MASK.HEAD_TYPE separate_xformer MASK.DECODER_DEPTH 1 MASK.DECODER_EMBED_DIM 16 MASK.TIME_STRIDE_LOSS False",
    "maskfeat": "MASK.PRED_HOG True AUG.MASK_RATIO 0.4 AUG.MASK_WINDOW_SIZE [2,4,4] MASK.PRETRAIN_DEPTH [1]",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, and beside them lists of their paths alone."""
    folder = write_data(tmp_path_factory.mktemp("data"), num_test=3)
    unlabeled = folder / "unlabeled"
    unlabeled.mkdir()
    for name in ("train.csv", "val.csv"):
        paths = [line.rpartition(" ")[0] for line in (folder / name).read_text().splitlines()]
        (unlabeled / name).write_text("".join(f"{folder / path}\n" for path in paths))
    return folder


def config(folder: Path, data: Path, words: str, *opts: object) -> Config:
    folder.mkdir(exist_ok=True)
    return load_config(
        write_config(folder), [*words.split(), "DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", folder, *opts]
    )


def checkpoint(folder: Path) -> dict[str, object]:
    found: dict[str, object] = torch.load(folder / "checkpoints" / "checkpoint_epoch_00002.pyth", weights_only=True)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_pre_training_resumes_bit_for_bit_and_is_fine_tuned(method: str, data: Path, tmp_path: Path) -> None:
    words, whole, resumed = MASKED + METHODS[method], tmp_path / "whole", tmp_path / "resumed"
    result = run(config(whole, data / "unlabeled", words))["train"]
    validated = stats(whole, "val_epoch")
    losses = [record["loss"] for record in validated]
    assert len(losses) == 2 and losses[1] == result["loss"] and "top1_err" not in validated[0]
    best = 1 + losses.index(min(losses))
    assert validated[1]["best_epoch"] == best and (whole / "checkpoints" / "checkpoint_best.pyth").is_file()
    line = describe_epoch_end(read_history(whole), 2)
    assert f"val loss {losses[1]:.4g} (best {min(losses):.4g}, epoch {best})" in line and "top-1" not in line
    assert (whole / "curves.png").is_file()
    pictures = sorted((whole / "reconstructions").iterdir())
    assert [path.name for path in pictures] == ["00000.png", "00001.png"]
    rows = 3 if method == "mae" else 4
    with Image.open(pictures[0]) as picture:
        assert picture.height == rows * 128 + (rows - 1) * 4  # frames of 32 pixels, four times as large

    run(config(resumed, data / "unlabeled", words, "TRAIN.MAX_STEPS", 4, "TRAIN.EVAL_PERIOD", 0))
    again = run(config(resumed, data / "unlabeled", words))["train"]
    assert again == result
    assert_same_bits(checkpoint(whole)["model_state"], checkpoint(resumed)["model_state"])
    assert_same_bits(checkpoint(whole)["optimizer_state"], checkpoint(resumed)["optimizer_state"])

    tuned = tmp_path / "tuned"
    classifier = (VIT if method == "mae" else "") + "SOLVER.MAX_EPOCH 1 TEST.NUM_ENSEMBLE_VIEWS 1"
    cfg = config(tuned, data, classifier, "TRAIN.CHECKPOINT_FILE_PATH", whole)
    assert "top1_acc" in run(cfg)["test"]
    log = (tuned / "stdout.log").read_text()
    assert "belongs to pretraining" in log and "missing  head.projection.weight" in log


@pytest.mark.parametrize("method", METHODS)
def test_pre_training_with_other_means_gives_the_same_losses(method: str, data: Path, tmp_path: Path) -> None:
    """Masks follow from the rank, so that two processes hide other patches than one."""
    opts = {
        "plain": "",
        "recomputed": "MODEL.ACT_CHECKPOINT True",
        "bf16": "TRAIN.MIXED_PRECISION True TRAIN.MIXED_PRECISION_DTYPE bf16",
        "two": "NUM_CPU_PROCS 2",
        "sharded": "NUM_CPU_PROCS 2 TRAIN.SHARD_MODEL True",
    }
    losses = {}
    for name, more in opts.items():
        run(config(tmp_path / name, data, MASKED + METHODS[method], *more.split()))
        losses[name] = [record["loss"] for record in stats(tmp_path / name, "val_epoch")]
    assert losses["recomputed"] == losses["plain"]
    assert losses["bf16"] == pytest.approx(losses["plain"], rel=0.02)
    assert losses["sharded"] == pytest.approx(losses["two"], rel=1e-4)
