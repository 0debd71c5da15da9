"""Networks of pytorchvideo through whole runs: train, then test the checkpoint."""

from pathlib import Path

import pytest

from tests.helpers.runs import run_tool, stats, write_config, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", ["ptv_x3d_m", "ptv_slowfast_r50"])
def test_train_and_test(name: str, data: Path, tmp_path: Path) -> None:
    opts = f"DATA.PATH_TO_DATA_DIR {data} OUTPUT_DIR {tmp_path} MODEL.MODEL_NAME {name} DATA.NUM_FRAMES 8 "
    opts += "TRAIN.MAX_STEPS 2 TEST.NUM_ENSEMBLE_VIEWS 1 SOLVER.BASE_LR 0.0001"
    run_tool("run_net.py", "--cfg", write_config(tmp_path), *opts.split())
    first, second = stats(tmp_path, "train_iter")
    assert first["grad_norm"] > 0 and second["loss"] != first["loss"]
    (result,) = stats(tmp_path, "test_final")
    assert (result["num_videos"], result["num_views"]) == (7, 21)
    assert result["checkpoint"].endswith("checkpoint_epoch_00000_step_000002.pyth")
