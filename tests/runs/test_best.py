"""The best checkpoint, early stopping, frozen layers, and sampling by class, in whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.runs import Make, assert_same_bits, exit_codes, start_ranks, stats
from tests.helpers.videos import write_list
from videovit.config import Config
from videovit.engine import launch
from videovit.engine.checkpoints.weights import build_seeded_model
from videovit.engine.reporting.log import RunLog
from videovit.models.convert import CheckpointError

EVERY = "TRAIN.EVAL_PERIOD 1 TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 1"
CONSTANT = f"{EVERY} SOLVER.BASE_LR 0 TRAIN.EARLY_STOP_EPOCHS 2 SOLVER.MAX_EPOCH 50 TRAIN.CHECKPOINT_PERIOD 50"
FROZEN = "TRAIN.FREEZE 2 DATA.SAMPLER balanced MODEL.CLASS_WEIGHTS [1,2,3] TRAIN.EMA_DECAY 0.5 TEST.ENABLE False"


def load(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "checkpoints" / name, weights_only=True)
    return content


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_best_checkpoint_has_best_weights_and_is_tested(make: Make, tmp_path: Path) -> None:
    launch.run(make(tmp_path, f"{EVERY} SOLVER.MAX_EPOCH 4 TRAIN.CHECKPOINT_KEEP 0 TEST.CHECKPOINT best"))
    best, records = load(tmp_path, "checkpoint_best.pyth"), stats(tmp_path, "val_epoch")
    # The loss decides between epochs of the same accuracy.
    least, loss, epoch = min((record["top1_err"], record["loss"], number) for number, record in enumerate(records, 1))
    expected = {"measure": "top1_acc", "value": pytest.approx(100 - least), "epoch": epoch, "loss": pytest.approx(loss)}
    assert best["best"] == expected
    assert [record["best_epoch"] for record in records][-1] == epoch
    assert_same_bits(best["model_state"], load(tmp_path, f"checkpoint_epoch_{epoch:05d}.pyth")["model_state"])
    assert best["optimizer_state"] is None
    (tested,) = stats(tmp_path, "test_final")
    assert tested["checkpoint"] == str(tmp_path / "checkpoints/checkpoint_best.pyth")


def test_better_checkpoint_of_the_run_before_is_kept(make: Make, tmp_path: Path) -> None:
    opts = f"{EVERY} TRAIN.CHECKPOINT_KEEP 1 TEST.ENABLE False"
    launch.run(make(tmp_path, f"{opts} SOLVER.MAX_EPOCH 2"))
    assert names(tmp_path) == ["checkpoint_best.pyth", "checkpoint_epoch_00002.pyth"]
    path = tmp_path / "checkpoints/checkpoint_best.pyth"
    torch.save({**load(tmp_path, path.name), "best": {"measure": "top1_acc", "value": 100.5, "epoch": 1}}, path)
    before = path.read_bytes()
    launch.run(make(tmp_path, f"{opts} SOLVER.MAX_EPOCH 3"))
    assert path.read_bytes() == before
    assert stats(tmp_path, "val_epoch")[-1]["best_epoch"] == 1


def test_killed_between_best_checkpoint_and_report(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start repeats the validation, and the checkpoint stays that of the same epoch."""
    cfg = make(tmp_path, f"{EVERY} SOLVER.MAX_EPOCH 1 TEST.ENABLE False")
    report = RunLog.stats

    def die(self: RunLog, kind: str, *args: Any, **kwargs: Any) -> None:
        if kind == "val_epoch":
            raise KeyboardInterrupt
        report(self, kind, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunLog, "stats", die)
        launch.run(cfg)
    before = (tmp_path / "checkpoints/checkpoint_best.pyth").read_bytes()
    launch.run(cfg)
    assert [record["best_epoch"] for record in stats(tmp_path, "val_epoch")] == [1]
    assert (tmp_path / "checkpoints/checkpoint_best.pyth").read_bytes() == before


def test_no_best_checkpoint_to_test_is_an_error(make: Make, tmp_path: Path) -> None:
    launch.run(make(tmp_path, "SOLVER.MAX_EPOCH 1 TRAIN.EVAL_PERIOD 0 TEST.ENABLE False"))
    assert names(tmp_path) == ["checkpoint_epoch_00001.pyth"]
    with pytest.raises(CheckpointError, match=r"checkpoint_best.pyth: does not exist, but TEST.CHECKPOINT is best"):
        launch.run(make(tmp_path, "TRAIN.ENABLE False TEST.CHECKPOINT best"))


@pytest.mark.parametrize("world_size", [1, 2])
def test_early_stop_tests_and_stays(world_size: int, make: Make, tmp_path: Path) -> None:
    """The learning rate is 0, so that the first validation is the best."""

    def run(opts: str) -> None:
        cfg: Config = make(tmp_path, f"{CONSTANT} {opts}")
        assert exit_codes(start_ranks(cfg, world_size)) == [0] * world_size

    run("TRAIN.MAX_STEPS 5 TEST.ENABLE False")  # in the middle of epoch 2
    for _ in range(2):
        run("")
        assert [record["epoch"] for record in stats(tmp_path, "train_epoch")][-2:] == ["2/50", "3/50"]
        assert [record["best_epoch"] for record in stats(tmp_path, "val_epoch")] == [1, 1, 1, 1]
    assert "checkpoint_epoch_00003.pyth" in names(tmp_path) and "checkpoint_best.pyth" in names(tmp_path)
    assert len(stats(tmp_path, "test_final")) == 2
    log = (tmp_path / "stdout.log").read_text()
    assert log.count("stopped early after epoch 3: the best validation is that of epoch 1, top1_acc") == 2


def test_without_validation_its_list_is_not_needed(make: Make, tmp_path: Path) -> None:
    data = Path(make(tmp_path, "").DATA.PATH_TO_DATA_DIR)
    rows = [line.rsplit(" ", 1) for line in (data / "train.csv").read_text().splitlines()]
    write_list(tmp_path / "train.csv", [(data / path, int(label)) for path, label in rows])
    opts = f"DATA.PATH_TO_DATA_DIR {tmp_path} TRAIN.EVAL_PERIOD 0 SOLVER.MAX_EPOCH 1 TEST.ENABLE False"
    assert launch.run(make(tmp_path / "out", opts)) == {"train": {}}
    assert not stats(tmp_path / "out", "val_epoch")


@pytest.mark.parametrize("layers", ["backbone", "2"])
def test_frozen_parameters_keep_their_bits_on_two_ranks(layers: str, make: Make, tmp_path: Path) -> None:
    opts = f"TRAIN.FREEZE {layers} TRAIN.FIND_UNUSED_PARAMETERS True TRAIN.EMA_DECAY 0.5 SOLVER.MAX_EPOCH 1"
    cfg = make(tmp_path, f"{opts} SOLVER.WEIGHT_DECAY 0.5 TEST.ENABLE False TRAIN.EVAL_PERIOD 0")
    assert exit_codes(start_ranks(cfg, 2)) == [0, 0]
    model = build_seeded_model(cfg, torch.device("cpu"))
    numbers, limit = model.layers_of_parameters(), 3 if layers == "backbone" else 2
    assert model.num_layers == 2
    trained = load(tmp_path, "checkpoint_epoch_00001.pyth")
    for name, parameter in model.named_parameters():
        for state in ("model_state", "ema_state"):
            assert torch.equal(trained[state][name], parameter) == (numbers[name] < limit), (state, name)
    assert ("freezes random weights" in (tmp_path / "stdout.log").read_text()) == (layers == "backbone")


def test_balanced_frozen_weighted_run_resumes_with_the_same_bits(make: Make, tmp_path: Path) -> None:
    opts = f"{FROZEN} TRAIN.TRACE True TRAIN.EVAL_PERIOD 0"
    for folder, steps in (("whole", ["0"]), ("parts", ["4", "0"])):
        for number in steps:
            launch.run(make(tmp_path / folder, f"{opts} TRAIN.MAX_STEPS {number}"))
    whole, parts = (load(tmp_path / folder, "checkpoint_epoch_00002.pyth") for folder in ("whole", "parts"))
    for key in ("model_state", "ema_state", "optimizer_state"):
        assert_same_bits(whole[key], parts[key])
    lines = [(tmp_path / folder / "trace_rank0.jsonl").read_text() for folder in ("whole", "parts")]
    assert lines[0] == lines[1]
    with pytest.raises(CheckpointError, match=r"other parameter groups .*TRAIN.FREEZE"):
        launch.run(make(tmp_path / "parts", f"{opts.replace('FREEZE 2', 'FREEZE 1')} SOLVER.MAX_EPOCH 3"))


def several_lists(make: Make, folder: Path) -> Path:
    """Lists of the shared videos, in which a bar on the right also is class 0."""
    data = Path(make(folder, "").DATA.PATH_TO_DATA_DIR)
    for split in ("train", "val", "test"):
        rows = [line.rsplit(" ", 1) for line in (data / f"{split}.csv").read_text().splitlines()]
        lines = [f"{data / path} {'0;2' if label == '2' else '-' if label == '1' else label}\n" for path, label in rows]
        (folder / f"{split}.csv").write_text("".join(lines))
    return folder


def test_lists_of_several_classes_are_trained_on_and_tested(make: Make, tmp_path: Path) -> None:
    opts = f"""DATA.PATH_TO_DATA_DIR {several_lists(make, tmp_path)} TRAIN.DATASET multilabel TEST.DATASET multilabel
        DATA.MULTI_LABEL True MODEL.LOSS_FUNC bce_logit MODEL.HEAD_ACT sigmoid MODEL.CLASS_WEIGHTS auto
        TEST.SAVE_RESULTS_PATH scores.pt TEST.CHECKPOINT best TRAIN.EVAL_PERIOD 1"""
    results = launch.run(make(tmp_path / "out", " ".join(opts.split())))
    assert results["test"]["num_classes"] == 2 and 0 < results["test"]["map"] <= 100
    saved = torch.load(tmp_path / "out/scores.pt", weights_only=True)
    assert saved["labels"].tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 1]] * 2 + [[1, 0, 0]]
    best = load(tmp_path / "out", "checkpoint_best.pyth")["best"]
    assert best["measure"] == "map" and best["value"] == max(r["map"] for r in stats(tmp_path / "out", "val_epoch"))
    # 4 videos of class 2 and 8 of class 0: 12 labels of 2 classes; class 1 does not occur
    log = (tmp_path / "out/stdout.log").read_text()
    assert "class weights: 0.75 (class 0) to 1.5 (class 2), by frequency in the training list" in log
    assert json.loads((tmp_path / "out/stats.jsonl").read_text().splitlines()[-1])["_type"] == "test_final"
