"""`videovit finetune`, from folders and tables of rendered videos to a tested model."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import videovit
from tests.helpers.runs import exit_codes, start_ranks, stats, wait_for, write_config
from tests.helpers.videos import write_video
from videovit import cli
from videovit.config import load_config
from videovit.engine.distributed.lock import output_lock
from videovit.errors import UserError
from videovit.finetuning import recipes, session, trial
from videovit.models.zoo import find

CLASSES = ("left", "in the middle, or so", '"right" 走')


@pytest.fixture(autouse=True)
def short_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_S", 0.2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos for each of three classes: a bar on the left, in the middle or on the right, in noise."""
    folder = tmp_path_factory.mktemp("videos")
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for number in range(8):
            write_bar(folder / name / f"{number}, a b.mp4", label, seed=number)
    return folder


def write_bar(path: Path, label: int, *, seed: int) -> Path:
    rng = np.random.default_rng([label, seed])

    def draw(_: int) -> Any:
        image = rng.integers(0, 60, (48, 48, 3), dtype=np.uint8)
        image[:, 16 * label : 16 * label + 16] += 150
        return image

    return write_video(path, num_frames=8, size=(48, 48), draw=draw)


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, Any]:
    """Arguments that train a tiny model for a moment."""
    return {
        "from_scratch": True,
        "cfg": str(write_config(tmp_path)),
        "output": tmp_path / "run",
        "opts": ["DATA_LOADER.NUM_WORKERS", 0, "TRAIN.CHECKPOINT_KEEP", 2, "TEST.NUM_ENSEMBLE_VIEWS", 1],
    }


def rows(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def test_folder_to_tested_model(
    videos: Path, tiny: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny["opts"] += ["SOLVER.BASE_LR", 0.003]
    result = videovit.finetune(videos, **tiny, epochs=8, batch_size=4)
    assert result["top1_acc"] == 100.0 and result["num_videos"] == 3
    data = tmp_path / "run/data"
    sizes = {split: len(rows(data / f"{split}.csv")) for split in ("train", "val", "test")}
    assert sizes == {"train": 18, "val": 3, "test": 3}
    assert json.loads((data / "classes.json").read_text()) == sorted(CLASSES)
    cfg = load_config(tmp_path / "run/config.yaml")
    assert (cfg.MODEL.NUM_CLASSES, cfg.SOLVER.MAX_EPOCH, cfg.TEST.CHECKPOINT) == (3, 8, "best")
    assert (tmp_path / "run/checkpoints/checkpoint_best.pyth").exists()
    text = capfd.readouterr().out
    table = [line for line in text.splitlines() if all(word in line for word in ("precision", "recall", "F1"))]
    assert table and all(name in text for name in CLASSES)
    assert f"videovit predict --model {tmp_path / 'run'} VIDEO" in text
    # Its config is an ordinary one.
    assert cli.main(["run", "--cfg", str(tmp_path / "run/config.yaml"), "TRAIN.ENABLE", "False"]) == 0
    assert [record["top1_acc"] for record in stats(tmp_path / "run", "test_final")] == [100.0, 100.0]


def test_killed_run_continues_with_the_same_split(
    videos: Path, tiny: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "videos"
    shutil.copytree(videos, data)
    arguments = {**tiny, "epochs": 8}
    checkpoints = tmp_path / "run/checkpoints"
    child = start_ranks(load_config(), call=lambda _: videovit.finetune(data, **arguments))
    wait_for(lambda: list(checkpoints.glob("checkpoint_epoch_00002*.pyth")))
    assert child[0].pid is not None
    os.kill(child[0].pid, signal.SIGKILL)
    exit_codes(child)
    before = {file.name: file.read_bytes() for file in (tmp_path / "run/data").glob("*.csv")}
    write_bar(data / "left/new.mp4", 0, seed=100)
    (data / "left/0, a b.mp4").rename(data / "left/renamed.mp4")
    write_bar(data / "left/1, a b.mp4", 0, seed=101)
    os.rename(data / "left/renamed.mp4", data / "left/0, a b.mp4")
    videovit.finetune(data, **arguments)
    assert {file.name: file.read_bytes() for file in (tmp_path / "run/data").glob("*.csv")} == before
    text = "".join(capfd.readouterr())
    assert f"1 video new and not used: {data}/left/new.mp4" in text
    assert f"1 video changed: {data}/left/1, a b.mp4" in text
    assert "resumed from" in text
    with pytest.raises(UserError, match=r"other arguments: epochs 9 \(was 8\)"):
        videovit.finetune(data, **{**arguments, "epochs": 9})


def test_minutes_choose_the_epochs(tiny: dict[str, Any]) -> None:
    """The epochs fill the time that preparing and testing leave."""
    cost = trial.Cost(mib=1.0, free_mib=0.0, step_s=1.0, train_s=1.0, read_s=0.1)
    cfg = load_config(tiny["cfg"], ["TEST.NUM_ENSEMBLE_VIEWS", 3, "TEST.NUM_SPATIAL_CROPS", 1])
    sizes = {"train": 21, "val": 6, "test": 10}
    assert trial.epoch_seconds(cfg, cost, sizes=sizes) == trial.EPOCH_S + 20 + 6 / 3
    epochs = trial.choose_epochs(
        cfg, cost, sizes=sizes, least_steps=9, most=200, seconds=trial.START_S + 10 + 5.5 * (trial.EPOCH_S + 22)
    )
    assert epochs == 5
    assert trial.choose_epochs(cfg, cost, sizes=sizes, least_steps=9, most=200, seconds=1.0) == 1
    assert trial.choose_epochs(cfg, cost, sizes=sizes, least_steps=9, most=200, seconds=None) == 2
    assert trial.choose_epochs(cfg, cost, sizes=sizes, least_steps=100, most=200, seconds=None) == 20


def test_batch_that_does_not_fit_is_computed_in_parts(tiny: dict[str, Any]) -> None:
    cfg = load_config(tiny["cfg"], ["TRAIN.BATCH_SIZE", 16, "SOLVER.BASE_LR", 0.001])
    cost = trial.Cost(mib=100.0, free_mib=600.0, step_s=1.0, train_s=1.0, read_s=0.1)
    assert trial.choose_batch(cfg, cost, num_train=1000) == trial.Batches(16, 8, 0.001)  # 3 fit, in equal parts 2
    assert trial.choose_batch(cfg, cost, num_train=33) == trial.Batches(8, 4, 0.0005)
    assert trial.choose_batch(cfg, None, num_train=1000, size=32) == trial.Batches(32, 1, 0.002)
    assert trial.choose_batch(cfg, cost, num_train=1).size == 1


def test_own_run_as_model(videos: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    """Fine-tuning on weights of a run: its model and input, the recipe's training, a new head."""
    two = tmp_path / "two"
    for name in CLASSES[:2]:
        shutil.copytree(videos / name, two / name)
    videovit.finetune(two, **{**tiny, "output": tmp_path / "first"}, epochs=1)
    arguments = {"output": tmp_path / "second", "model": str(tmp_path / "first"), "freeze": "backbone", "epochs": 2}
    videovit.finetune(videos, **arguments, opts=tiny["opts"])
    cfg = load_config(tmp_path / "second/config.yaml")
    recipe = load_config("Finetune/MVITv2_S_16x4")
    assert (cfg.MVIT.EMBED_DIM, cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE) == (16, 4, 32)
    assert cfg.SOLVER.LAYER_DECAY == recipe.SOLVER.LAYER_DECAY and not (cfg.AUG.ENABLE or cfg.MIXUP.ENABLE)
    assert (cfg.TRAIN.FREEZE, cfg.TEST.NUM_ENSEMBLE_VIEWS) == ("backbone", 1)


def test_without_network_offers_training_from_scratch(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VIDEOVIT_MIRROR", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("videovit.models.download.PAUSE_S", 0.0)
    with pytest.raises(UserError) as caught:
        videovit.finetune(videos, output=tmp_path / "my run")
    assert f"videovit finetune {videos} --output '{tmp_path}/my run' --from-scratch" in str(caught.value)
    assert not (tmp_path / "my run").exists()


@pytest.mark.parametrize("images", [False, True])
def test_default_models_exist(images: bool) -> None:
    recipe = recipes.FINE_TUNE[images]
    base, weights = recipes.find_model(recipe.model, "")
    assert weights == recipe.model and base.MODEL == load_config(find(recipe.model).config).MODEL
    assert "_BASE_" not in recipes.recipe_keys(recipe) and "SOLVER.BASE_LR" in recipes.recipe_keys(recipe)


def test_table_on_the_command_line(videos: Path, tiny: dict[str, Any], tmp_path: Path, capfd: Any) -> None:
    table = tmp_path / "my.tsv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["action", "clip", "part"])
        for label, name in enumerate(CLASSES):
            for number, part in enumerate(("train", "train", "val", "test")):
                writer.writerow([label + 5, videos / name / f"{number}, a b.mp4", part])
        writer.writerow([5, "gone.mp4", "train"])
    words = ["--cfg", tiny["cfg"], "--output", tiny["output"], "--epochs", 1, "--from-scratch", "--table", table]
    words += ["--path-column", "clip", "--label-column", "action", "--split-column", "part", "TRAIN.BATCH_SIZE", 2]
    assert cli.main(["finetune", *map(str, words)]) == 0
    data = tmp_path / "run/data"
    assert json.loads((data / "classes.json").read_text()) == ["5", "6", "7"]
    assert [len(rows(data / f"{split}.csv")) for split in ("train", "val", "test")] == [6, 3, 3]
    assert "1 missing" in capfd.readouterr().out and "gone.mp4" in (data / "left_out.csv").read_text()
    assert load_config(tmp_path / "run/config.yaml").TRAIN.BATCH_SIZE == 2


def test_multi_label_table(videos: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    table = tmp_path / "my.csv"
    lines = ["video,label"]
    for number in range(8):
        lines += [
            f'"{videos / name / f"{number}, a b.mp4"}",{labels}'.replace('"right"', '""right""')
            for name, labels in zip(CLASSES, ("edge", "center", "edge|right"), strict=True)
        ]
    lines.append(f'"{write_bar(tmp_path / "none.mp4", 1, seed=50)}",')
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = videovit.finetune(table=table, multi_label=True, **tiny, epochs=1)
    assert 0 < result["map"] <= 100
    assert json.loads((tmp_path / "run/data/classes.json").read_text()) == ["center", "edge", "right"]
    listed = [
        row.rpartition(" ")[2] for split in ("train", "val", "test") for row in rows(tmp_path / f"run/data/{split}.csv")
    ]
    assert sorted(listed) == ["-"] + 8 * ["0"] + 8 * ["1"] + 8 * ["1;2"]


def test_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):
            image = rng.integers(0, 60, (48, 48, 3), dtype=np.uint8)
            image[:, 16 * label : 16 * label + 16] += 150
            Image.fromarray(image).save(tmp_path / "images" / name / f"{number}.png")
    opts = ["DATA_LOADER.NUM_WORKERS", 0]
    result = videovit.finetune(tmp_path / "images", from_scratch=True, epochs=2, output=tmp_path / "run", opts=opts)
    assert result["num_videos"] == 3
    assert load_config(tmp_path / "run/config.yaml").TEST.DATASET == "imagenet"


def test_class_of_one_video(videos: Path, tiny: dict[str, Any], tmp_path: Path, capfd: Any) -> None:
    data = tmp_path / "videos"
    for name in CLASSES[:2]:
        shutil.copytree(videos / name, data / name)
    (data / "one").mkdir()
    write_bar(data / "one/only.mp4", 2, seed=0)
    videovit.finetune(data, **tiny, epochs=1)
    text = capfd.readouterr().out
    assert "no val video of one: has too few videos for every part" in text
    assert "no test video of one: has too few videos for every part" in text


def test_two_videos_per_class_test_the_last_epoch(
    videos: Path, tiny: dict[str, Any], tmp_path: Path, capfd: Any
) -> None:
    for name in CLASSES:
        (tmp_path / "few" / name).mkdir(parents=True)
        for number in range(2):
            shutil.copy(videos / name / f"{number}, a b.mp4", tmp_path / "few" / name)
    videovit.finetune(tmp_path / "few", **tiny, epochs=1)
    cfg = load_config(tmp_path / "run/config.yaml")
    assert (cfg.TRAIN.EVAL_PERIOD, cfg.TRAIN.BEST, cfg.TEST.CHECKPOINT) == (0, "", "last")
    assert "there is no validation" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give a folder of class folders, or a table"),
        ({"data": "x", "table": "y"}, "give a folder or a table, not both"),
        ({"data": "gone"}, "gone: no such folder"),
        ({"data": "one clas"}, "one clas: no such folder; did you mean one class"),
        ({"data": "a.csv"}, "a.csv: a file, not a folder. If it is a table: --table a.csv"),
        ({"table": "one class"}, "one class: a folder, not a table. If it has a folder per class, leave out --table"),
        ({"data": "one class"}, "1 class: left"),
        ({"data": "loose"}, "no videos in class folders"),
        ({"data": "one class", "epochs": 0}, "--epochs: found 0"),
        ({"data": "one class", "epochs": 1, "minutes": 1}, "exclude each other"),
        ({"data": "one class", "multi_label": True}, "--multi-label needs a --table"),
        ({"data": "one class", "from_scratch": False, "model": "nowhere", "cfg": ""}, "--model nowhere: no such file"),
    ],
)
def test_mistakes(
    videos: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(videos / "left", tmp_path / "one class/left")
    shutil.copytree(videos / "left", tmp_path / "loose")
    (tmp_path / "a.csv").touch()
    with pytest.raises(UserError, match=message):
        videovit.finetune(**{**tiny, **arguments})


def test_wrong_arguments_are_named_before_videos_are_opened(
    videos: Path, tiny: dict[str, Any], tmp_path: Path, capfd: Any
) -> None:
    for arguments, message in (
        ({"opts": ["SOLVER.BASE_LRR", 1]}, "did you mean SOLVER.BASE_LR"),
        ({"freeze": "backbon"}, "TRAIN.FREEZE: found 'backbon'.* did you mean backbone"),
    ):
        with pytest.raises(UserError, match=message):
            videovit.finetune(**{**tiny, "data": videos, "output": tmp_path / "out", **arguments})
        assert not (tmp_path / "out").exists()
    (tmp_path / "a.csv").touch()
    assert cli.main(["finetune", str(videos), "--table", str(tmp_path / "a.csv"), "--from-scratch"]) == 1
    assert "give a folder or a table, not both" in capfd.readouterr().err


def test_other_run_in_the_folder_refused(videos: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="not started by finetune"):
        videovit.finetune(videos, **tiny)


def test_second_command_during_preparation_changes_nothing(videos: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    with output_lock(tmp_path / "run"):
        with pytest.raises(UserError, match="is in use by process"):
            videovit.finetune(videos, epochs=1, **tiny)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".videovit.lock"]


def test_folder_prepared_while_waiting_is_not_prepared_again(
    videos: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other command came first, between the look into the folder and the lock."""

    def prepared_by_another(folder: Path) -> Any:
        folder.mkdir()
        (folder / "finetune.json").write_text("{}")
        return output_lock(folder)

    monkeypatch.setattr(session, "output_lock", prepared_by_another)
    with pytest.raises(UserError, match="another command has prepared a run here"):
        videovit.finetune(videos, epochs=1, **tiny)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["finetune.json"]
