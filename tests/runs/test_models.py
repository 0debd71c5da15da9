"""Models other than plain MViT through whole runs on clips: train, test, shuffle."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.runs import stats, write_config, write_data
from tests.helpers.tiny_transformers import HF_SETTINGS, need_transformers, tiny_settings
from videovit.config import load_config
from videovit.engine.launch import run

# name: options
MODELS = {
    "ViT": "VIT.PATCH_SIZE [2,8,8] VIT.EMBED_DIM 16 VIT.DEPTH 2 VIT.NUM_HEADS 2",
    "PiT": "PIT.PATCH_KERNEL [3,8,8] PIT.PATCH_STRIDE [2,4,4] PIT.EMBED_DIMS [8,16] PIT.NUM_HEADS [1,2] "
    "PIT.DEPTHS [1,1] PIT.POOL_KERNEL [3,3,3]",
    "PS_ViT": "PS_VIT.EMBED_DIM 16 PS_VIT.NUM_HEADS 2 PS_VIT.ITERATIONS 2 PS_VIT.DEPTH 1 PS_VIT.POINTS [3,3] "
    "PS_VIT.STEM_WIDTH 4 PS_VIT.STEM_DIM 8",
    "MViT": "MVIT.DEPTH 4 MVIT.SHARE_ATTENTION [3]",
    **{name: tiny_settings(name) for name in HF_SETTINGS},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def trained(data: Path, folder: Path, name: str, options: str) -> dict[str, float]:
    """Train for a few epochs, which must lower the loss; returns top-1 by the order of frames."""
    options += f" MODEL.MODEL_NAME {name} DATA.PATH_TO_DATA_DIR {data} OUTPUT_DIR {folder} SOLVER.MAX_EPOCH 8"
    options += " TRAIN.EVAL_PERIOD 8 TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 1 SHUFFLE_EVAL.ENABLE True"
    run(load_config(write_config(folder), [*options.split(), "MODEL.DROPOUT_RATE", "0.0"]))
    losses = [record["loss"] for record in stats(folder, "train_iter")]
    assert len(losses) == 8 * 3 and sum(losses[-6:]) < sum(losses[:6])
    orders = json.loads((folder / "shuffle_eval.json").read_text())["orders"]
    assert stats(folder, "test_final")[0]["top1_acc"] == pytest.approx(orders["ordered"]["top1_acc"])
    return {order: result["top1_acc"] for order, result in orders.items()}


@pytest.mark.parametrize("name", MODELS)
def test_train_and_shuffle(name: str, data: Path, tmp_path: Path) -> None:
    if name.startswith("hf_"):
        need_transformers()
    top1 = trained(data, tmp_path, name, MODELS[name])
    assert top1.keys() == {"ordered", "reversed", "shuffled", "static"}


def test_frame_by_frame_model_ignores_the_order(data: Path, tmp_path: Path) -> None:
    top1 = trained(data, tmp_path, "PS_ViT", f"{MODELS['PS_ViT']} PS_VIT.TIME frames")
    assert top1["ordered"] == top1["reversed"] == top1["shuffled"]


def test_gray_clips_train_and_test(data: Path, tmp_path: Path) -> None:
    options = "DATA.INPUT_CHANNEL_NUM [1] LOG_MODEL_INFO True MVIT.DROPPATH_RATE 0.0"
    assert trained(data, tmp_path, "MViT", options).keys() == {"ordered", "reversed", "shuffled", "static"}
    checkpoint = tmp_path / "checkpoints/checkpoint_epoch_00008.pyth"
    assert torch.load(checkpoint, weights_only=True)["model_state"]["patch_embed.proj.weight"].shape[1] == 1
