"""A model of transformers from the Hub: fine-tuned, tested in several orders of frames, analyzed, predicted with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import videovit
from tests.helpers.hub_server import Hub, serve_hub
from tests.helpers.runs import write_data
from tests.helpers.tiny_transformers import HF_SETTINGS, need_transformers
from videovit.config import load_config
from videovit.finetuning import trial


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on the loopback with two models of transformers, and an empty cache."""
    transformers = need_transformers()
    from huggingface_hub import constants

    with serve_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        url = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        sizes = {"num_frames": 4, "image_size": 32, "num_labels": 5}
        torch.manual_seed(0)
        config = transformers.TimesformerConfig(**HF_SETTINGS["hf_timesformer"], **sizes)
        network = transformers.TimesformerForVideoClassification(config)
        network.save_pretrained(tmp_path / "model")
        files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
        spec = {"image_mean": [0.45] * 3, "image_std": [0.225] * 3, "size": {"shortest_edge": 36}, "crop_size": 32}
        files |= {"preprocessor_config.json": json.dumps(spec).encode(), "evil.py": b"raise SystemExit"}
        server.repos["me/timesformer"] = files
        torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
        old = {name: content for name, content in files.items() if not name.endswith(".safetensors")}
        server.repos["me/old"] = old | {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()}
        yield server


def test_hub_to_fine_tuned_and_analyzed_model(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_S", 0.2)
    data = write_data(tmp_path / "data", num_train=9, num_test=3)
    table = tmp_path / "videos.csv"
    rows = ["video,label,split"]
    for split in ("train", "val", "test"):
        for line in (data / f"{split}.csv").read_text().splitlines():
            video, label = line.split()
            rows.append(f"{data / video},class {label},{split}")
    table.write_text("\n".join(rows))
    folder = tmp_path / "run"
    opts = ["DATA_LOADER.NUM_WORKERS", 0, "SHUFFLE_EVAL.ENABLE", True, "ANALYSIS.ENABLE", True]
    opts += ["TEST.NUM_ENSEMBLE_VIEWS", 1, "DATA.SAMPLING_RATE", 1]
    source = "hf://me/timesformer"
    arguments = {"table": table, "split_column": "split", "output": folder, "epochs": 1, "batch_size": 4}
    videovit.finetune(model=source, opts=opts, **arguments)
    cfg = load_config(folder / "config.yaml")
    assert cfg.MODEL.MODEL_NAME == "hf_timesformer" and source == cfg.TRAIN.CHECKPOINT_FILE_PATH
    assert pytest.approx((0.45,) * 3) == cfg.DATA.MEAN and cfg.DATA.TEST_SHORT_SIDE == 36
    log = (folder / "stdout.log").read_text()
    assert "classifier for other classes" in log and "evil" not in log
    assert json.loads((folder / "shuffle_eval.json").read_text())["orders"].keys() >= {"ordered", "reversed"}
    layers = json.loads((folder / "analysis/analysis.json").read_text())["attention"]["layers"]
    # Time and space in both blocks; of the last layer only the class token is read.
    assert [row["distance"]["time"] > 0 for row in layers] == [True, False, True]
    # The same weights, in the form of before: only tensors are read.
    x = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(videovit.load("hf://me/old").torch(x), videovit.load(source).torch(x))
    assert not list((tmp_path / "cache").rglob("evil.py"))
    model = videovit.load(folder)
    prediction = model.predict(data / "test0.mp4")
    assert {name for name, _ in prediction.top} == {"class 0", "class 1", "class 2"}
    assert model.features(data / "test0.mp4").shape[-1] == 24
