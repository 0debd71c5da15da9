"""The analysis task and its command: reports, pictures, several models, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.runs import TINY, exit_codes, start_ranks, stats, write_config, write_data
from videovit.commands import analyze as command
from videovit.config import Config, dump_config, load_config
from videovit.engine.launch import run
from videovit.engine.tasks.analyze import spread
from videovit.errors import UserError
from videovit.models import build_model

PS_VIT = "PS_VIT.EMBED_DIM 24 PS_VIT.NUM_HEADS 2 PS_VIT.ITERATIONS 2 PS_VIT.DEPTH 1 PS_VIT.POINTS [3,3]"
PIT = "PIT.EMBED_DIMS [8,16] PIT.NUM_HEADS [1,2] PIT.DEPTHS [1,2] PIT.PATCH_KERNEL [1,8,8] PIT.PATCH_STRIDE [1,8,8]"
MODELS = {
    "MViT": "MVIT.DEPTH 3",
    "PiT": PIT,
    "PS_ViT": PS_VIT,
}
HOSTILE = ["$\\bad{", "<script>alert(1)</script>", "a\x1b[2J\u202eb"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_data(tmp_path_factory.mktemp("data"), num_train=4, num_test=5)
    (folder / "names.json").write_text(json.dumps({name: number for number, name in enumerate(HOSTILE)}))
    return folder


def config(name: str, data: Path, output: Path, options: str = "") -> Config:
    """A small untrained model with weights in a file, analyzed alone."""
    output.mkdir(parents=True, exist_ok=True)
    opts = (
        f"MODEL.MODEL_NAME {name} {MODELS[name]} DATA.PATH_TO_DATA_DIR {data} OUTPUT_DIR {output} TRAIN.ENABLE False "
    )
    opts += f"TEST.ENABLE False ANALYSIS.ENABLE True TEST.CHECKPOINT_FILE_PATH {output}/weights.pyth "
    opts += "DATA.CLASS_NAMES_FILE names.json ANALYSIS.BATCH_SIZE 2 " + options
    cfg = load_config(write_config(output, TINY), opts.split())
    torch.manual_seed(0)
    torch.save({"model_state": build_model(cfg).state_dict()}, output / "weights.pyth")
    return cfg


def report(output: Path) -> dict:
    return json.loads((output / "analysis" / "analysis.json").read_text())


def pictures(output: Path) -> dict[str, np.ndarray]:
    found = {path.stem: np.asarray(Image.open(path)) for path in (output / "analysis").glob("*.png")}
    assert all(image.shape[0] > 100 and image.shape[1] > 100 and image.std() > 5 for image in found.values())
    return found


@pytest.mark.parametrize("name", MODELS)
def test_report_and_pictures_of_every_family(name: str, data: Path, tmp_path: Path) -> None:
    result = run(config(name, data, tmp_path))["analysis"]
    found = report(tmp_path)
    assert result["num_clips"] == found["num_clips"] == 5
    layers = found["attention"]["layers"]
    assert [row["layer"] for row in layers] == [1, 2]  # of three blocks; the last one is left out
    for row in layers:
        assert 0 < row["entropy"] <= row["uniform_entropy"] == pytest.approx(np.log(row["keys"]))
        assert row["entropy"] == pytest.approx(np.mean(row["entropy_per_head"])) == result[f"entropy_{row['layer']}"]
        distance = row["distance"]
        assert distance["joint"] == pytest.approx(distance["space"] + distance["time"])
        assert 0 < distance["space"] < 2 and len(row["distance_per_head"]["space"]) == row["heads"]
    assert found["similarity"]["num_layers"] == 3
    expected = {"attention", "similarity"}
    if name == "PS_ViT":
        expected |= {"points_density", *(f"points_{video:05d}" for video in (0, 1, 3, 4))}
        assert np.shape(found["points"]["density"]) == (2, 28, 28)
    assert pictures(tmp_path).keys() == expected
    (record,) = stats(tmp_path, "analysis")
    assert record["num_clips"] == 5 and record["entropy_1"] == layers[0]["entropy"]


def test_two_processes_find_the_same_as_one(data: Path, tmp_path: Path) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    run(config("PS_ViT", data, alone, "ANALYSIS.NUM_PICTURES 1"))
    assert exit_codes(start_ranks(config("PS_ViT", data, both, "ANALYSIS.NUM_PICTURES 1"), 2)) == [0, 0]
    for path, first, second in walk(report(alone), report(both)):
        if "checkpoint" not in path:
            assert first == (pytest.approx(second, abs=1e-5) if isinstance(second, float) else second), path
    assert pictures(alone).keys() == pictures(both).keys()


def walk(first: object, second: object, path: str = "") -> list[tuple[str, object, object]]:
    """All pairs of values at the same place of two reports."""
    if isinstance(first, dict) and isinstance(second, dict):
        assert first.keys() == second.keys()
        return [leaf for key in first for leaf in walk(first[key], second[key], f"{path}.{key}")]
    if isinstance(first, list) and isinstance(second, list):
        assert len(first) == len(second)
        return [leaf for i, pair in enumerate(zip(first, second, strict=True)) for leaf in walk(*pair, f"{path}[{i}]")]
    return [(path, first, second)]


def test_options_of_the_section(data: Path, tmp_path: Path) -> None:
    options = "ANALYSIS.NUM_VIDEOS 2 ANALYSIS.LAST_BLOCK True ANALYSIS.DISTANCE l2 ANALYSIS.WHAT [attention]"
    run(config("PiT", data, tmp_path, options))
    found = report(tmp_path)
    assert found["num_clips"] == 2 and "similarity" not in found and found["attention"]["norm"] == "l2"
    assert len(found["attention"]["layers"]) == 3
    distance = found["attention"]["layers"][0]["distance"]
    assert distance["joint"] < distance["space"] + distance["time"]


def test_a_model_without_attention_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"ANALYSIS\.WHAT: points cannot be analyzed in a PiT; expected one of attention"
    ):
        run(config("PiT", data, tmp_path, "ANALYSIS.WHAT [points]"))


def test_unreadable_videos_stop_the_analysis_or_are_left_out(data: Path, tmp_path: Path) -> None:
    lines = [f"{data}/{line}" for line in (data / "test.csv").read_text().splitlines()]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join([*lines[:2], f"{tmp_path}/broken.mp4 1"]))
    (tmp_path / "names.json").write_text((data / "names.json").read_text())
    with pytest.raises(UserError, match=r"1 video of the evaluation list cannot be read"):
        run(config("PiT", tmp_path, tmp_path / "run"))
    assert not (tmp_path / "run" / "analysis").exists()
    run(config("PiT", tmp_path, tmp_path / "run", "TEST.SKIP_UNREADABLE True"))
    assert report(tmp_path / "run")["num_clips"] == 2


def test_command_draws_several_runs_in_one_picture(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for name in ("PiT", "MViT"):
        folder = tmp_path / "first" / name
        cfg = config(name, data, folder)
        (folder / "config.yaml").write_text(dump_config(cfg))
        folders.append(folder.rename(tmp_path / name))  # as if the run had been moved
        (tmp_path / name / "checkpoints").mkdir()
        (tmp_path / name / "weights.pyth").rename(tmp_path / f"{name}.pyth")
    for folder in folders:
        weights = torch.load(tmp_path / f"{folder.name}.pyth")
        torch.save({**weights, "epoch": 0}, folder / "checkpoints" / "checkpoint_epoch_00001.pyth")
    output = ["--output", str(tmp_path / "out")]
    command.main([*map(str, folders), "--what", "attention", "ANALYSIS.NUM_VIDEOS", "2", *output])
    assert [report(folder)["num_clips"] for folder in folders] == [2, 2]
    assert Image.open(tmp_path / "out" / "attention_compared.png").size[0] > 800
    assert "out/attention_compared.png" in capfd.readouterr().out


def test_command_names_what_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a folder without config\.yaml, .*|expected the OUTPUT_DIR of a run"):
        command.main([str(tmp_path)])
    config = write_config(tmp_path)
    with pytest.raises(UserError, match="two models have one OUTPUT_DIR"):
        command.main([str(config), str(config)])
    with pytest.raises(UserError, match="in the zoo"):
        command.main(["mvitv2_s_16x4_k40"])
    with pytest.raises(UserError, match=f"{tmp_path}/nothing: no such folder or config; expected the OUTPUT_DIR of a"):
        command.main([f"{tmp_path}/nothing"])
    with pytest.raises(UserError, match="no such folder or config; did you mean Demo/MVIT_TINY?"):
        command.main(["Demo/MVIT_TNY"])
    with pytest.raises(
        UserError, match=r"ANALYSIS.WHAT.*: found 'attentoin', expected 'attention' or .*did you mean attention"
    ):
        command.main([str(config), "--what", "attentoin", "NUM_GPUS", "0"])
    with pytest.raises(SystemExit):
        command.main(["NUM_GPUS", "0"])


def test_command_takes_published_models() -> None:
    cfg = command.config_of("zoo:mvitv2_s_16x4_k400", ["ANALYSIS.ENABLE", "True"])
    assert cfg.TEST.CHECKPOINT_FILE_PATH == "zoo:mvitv2_s_16x4_k400" and cfg.ANALYSIS.ENABLE
    assert cfg.OUTPUT_DIR == "output/mvitv2_s_16x4_k400" and cfg.MVIT.DEPTH == 16
    assert command.config_of("zoo:mvitv2_s_16x4_k400", ["OUTPUT_DIR", "x"]).OUTPUT_DIR == "x"


def test_samples_are_spread_over_the_list() -> None:
    samples = list(range(10))
    assert spread(samples, 4) == [0, 3, 6, 9]  # type: ignore[arg-type, comparison-overlap]
    assert spread(samples, 0) == spread(samples, 50) == samples  # type: ignore[arg-type, comparison-overlap]
