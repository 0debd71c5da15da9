"""`zoo:NAME` and URLs in place of weight files: in runs, as teachers, in prediction and export, and `videovit zoo`."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import simplejson
import torch

from tests.helpers.runs import Make, exit_codes, start_ranks, stats
from tests.helpers.weights_server import WeightsServer, serving
from videovit.cli import main
from videovit.config import Config, dump_config, load_config
from videovit.engine import launch
from videovit.engine.objectives.distillation import build_teacher
from videovit.engine.tasks.verify import _check_layout
from videovit.errors import UserError
from videovit.models import build_model, load_pretrained
from videovit.models.convert import LoadReport
from videovit.models.download import cached_path
from videovit.models.zoo import ENCODER, ZOO, load_zoo_config

Shown = pytest.CaptureFixture[str]
MIRRORED = "/download.pytorch.org/models/mvit_v2_s-ae3be167.pth"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path / "cache"))
    with serving({}) as running:
        monkeypatch.setenv("VIDEOVIT_MIRROR", running.url(""))
        yield running


def weights_of(cfg: Config) -> bytes:
    """A file with random weights for a config."""
    torch.manual_seed(3)
    file = io.BytesIO()
    torch.save({"model_state": build_model(cfg).state_dict()}, file)
    return file.getvalue()


def add_row(monkeypatch: pytest.MonkeyPatch, server: WeightsServer, cfg: Config, path: Path) -> None:
    """Put a model as small as a test's into the zoo, as `tiny`."""
    path.write_text(dump_config(cfg), encoding="utf-8")
    server.files["/weights.invalid/tiny.pyth"] = weights_of(cfg)
    row = replace(ZOO["x3d_m_k400"], name="tiny", config=str(path), urls=("https://weights.invalid/tiny.pyth",))
    monkeypatch.setitem(ZOO, "tiny", replace(row, classes="", overrides=()))


def test_run_starts_from_the_zoo_and_resumes_without_network(
    make: Make, server: WeightsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    start = "TRAIN.CHECKPOINT_FILE_PATH zoo:tiny SOLVER.MAX_EPOCH 2 TRAIN.EVAL_PERIOD 2 TEST.ENABLE False"
    cfg = make(out, start)
    assert server.requests == []  # nothing is fetched while a config is checked
    add_row(monkeypatch, server, make(tmp_path, ""), tmp_path / "tiny_of_zoo.yaml")
    # Two ranks want the same file at the same time.
    assert exit_codes(start_ranks(replace(cfg, TRAIN=replace(cfg.TRAIN, MAX_STEPS=3)), 2), 120) == [0, 0]
    assert len(server.requests) == 1
    assert "weights of" in (out / "stdout.log").read_text() and "tiny.pyth" in (out / "stdout.log").read_text()
    shutil.rmtree(tmp_path / "cache")
    server.files.clear()
    assert exit_codes(start_ranks(cfg), 120) == [0]
    assert len(server.requests) == 1
    assert "resumed from" in (out / "stdout.log").read_text() and stats(out, "val_epoch")[-1]["epoch"] == "2/2"


def test_weights_to_test_are_fetched_before_training(make: Make, server: WeightsServer, tmp_path: Path) -> None:
    cfg = make(tmp_path / "a", f"TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH {server.url('/given.pyth')}")
    server.files["/given.pyth"] = weights_of(cfg)
    launch.run(cfg)
    (result,) = stats(tmp_path / "a", "test_final")
    assert result["checkpoint"] == str(cached_path(server.url("/given.pyth")))
    with pytest.raises(UserError, match="404"):
        launch.run(make(tmp_path / "b", f"TEST.CHECKPOINT_FILE_PATH {server.url('/none.pyth')}"))
    assert not (tmp_path / "b/checkpoints").exists()


def test_teacher_of_the_zoo_brings_its_config(
    make: Make, server: WeightsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_row(monkeypatch, server, make(tmp_path, ""), tmp_path / "tiny_of_zoo.yaml")
    cfg = make(tmp_path, "DISTILL.TYPE soft DISTILL.CHECKPOINT_FILE_PATH zoo:tiny MVIT.EMBED_DIM 8")
    teacher = build_teacher(cfg, torch.device("cpu"))
    model = build_model(make(tmp_path, "")).eval()
    load_pretrained(model, "zoo:tiny")
    x = torch.randn(2, 3, 4, 32, 32)
    torch.testing.assert_close(teacher.logits(x), model(x))


def test_predict_and_export_take_the_zoo(
    make: Make, server: WeightsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Shown
) -> None:
    cfg = make(tmp_path, "")
    add_row(monkeypatch, server, cfg, tmp_path / "tiny_of_zoo.yaml")
    config, video = str(tmp_path / "tiny_of_zoo.yaml"), str(Path(cfg.DATA.PATH_TO_DATA_DIR) / "test0.mp4")
    assert main(["predict", "--cfg", config, "--checkpoint", "zoo:tiny", video]) == 0
    out = tmp_path / "exported.pyth"
    assert main(["export", "--cfg", config, "--checkpoint", "zoo:tiny", "--output", str(out)]) == 0
    assert out.is_file() and "test0.mp4" in capsys.readouterr().out
    assert main(["export", "--cfg", config, "--checkpoint", "zoo:tinny", "--output", str(out)]) == 1
    assert "no model 'tinny' in the zoo; did you mean tiny?" in capsys.readouterr().err


def test_zoo_lists_and_shows(server: WeightsServer, capsys: Shown) -> None:
    assert main(["zoo"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in shown for name in ZOO) and "measured" in shown.splitlines()[0]
    assert main(["zoo", "mvitv2_s_16x4_k400"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "34,537,744",
        "80.8 / 94.7 (top-1 / top-5; 5 clips x 1 crop per video)",
        *ZOO["mvitv2_s_16x4_k400"].urls,
        "BSD-3-Clause",
        "not cached",
    ):
        assert part in shown
    assert "videovit predict video.mp4 --model zoo:mvitv2_s_16x4_k400" in shown
    assert main(["zoo", "mvitv2_s*", "x3d_m_k400", "--json"]) == 0
    rows = simplejson.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows][:3] == ["mvitv2_s_16x4_k400", "mvitv2_s_16x4_ssv2", "x3d_m_k400"]
    assert main(["zoo", "mvit_s"]) == 1
    assert server.requests == []


@pytest.mark.parametrize("name", ["x3d_xs_k400", "deit_b_distilled_384_in1k", "vit_l_16x4_mae_k400"])
def test_commands_that_zoo_shows_have_configs_that_load(name: str) -> None:
    import shlex

    from videovit.cli import split_config_arguments
    from videovit.commands.zoo import commands

    words = shlex.split(commands(ZOO[name])[-1])[3:]
    (config,), opts = split_config_arguments(words, [])
    cfg, expected = load_config(config, opts), load_zoo_config(ZOO[name])
    assert (cfg.MVIT, cfg.VIT, cfg.MODEL) == (expected.MVIT, expected.VIT, expected.MODEL)


def test_zoo_downloads_from_a_mirror(server: WeightsServer, tmp_path: Path, capsys: Shown) -> None:
    name = "x3d_xs_k400"
    place = "/dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/X3D_XS.pyth"
    server.files[place] = b"weights"
    assert main(["zoo", "--download", name, "mvitv2_s_16x4_k400"]) == 1
    shown = capsys.readouterr()
    assert shown.out == f"{name}: {tmp_path}/cache{place}\n"
    assert "1 of 2 files could not be downloaded" in shown.err and f"put it at {tmp_path}/cache{MIRRORED}" in shown.err
    assert main(["zoo", name]) == 0
    assert f"  cached       {tmp_path}/cache{place}" in capsys.readouterr().out


def test_verify_compares_with_the_package_that_published(server: WeightsServer, capsys: Shown) -> None:
    place = "/dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/X3D_XS.pyth"
    server.files[place] = weights_of(load_zoo_config(ZOO["x3d_xs_k400"]))
    server.files[MIRRORED] = b"damaged"
    assert main(["zoo", "--verify", "x3d_xs_k400", "mvitv2_s_16x4_k400", "--json"]) == 1
    shown = capsys.readouterr()
    wrong, right = simplejson.loads(shown.out)
    assert (right["name"], right["error"], right["layout"], right["peer"]) == (
        "x3d_xs_k400", "", "own", "pytorchvideo x3d_xs")  # fmt: skip
    assert right["difference"] < 1e-4 and right["num_bytes"] == len(server.files[place])
    assert "another file than expected" in wrong["error"]
    assert "1 of 2 models failed: mvitv2_s_16x4_k400" in shown.err
    assert main(["zoo", "--verify", "x3d_xs_k400"]) == 0
    assert "good: SHA-256" in capsys.readouterr().out


def test_verify_compares_names_and_shapes_with_the_row() -> None:
    entry = ZOO["deit_ti_in1k"]
    with torch.device("meta"):
        model = build_model(load_zoo_config(entry))
    good = LoadReport("deit", loaded=list(model.state_dict()))
    _check_layout(entry, good, model, is_first=True)
    _check_layout(entry, replace(good, source="timm"), model, is_first=False)  # the file of another URL
    for report, row, message in (
        (replace(good, source="pit"), entry, "another layout; found 'pit', expected deit"),
        (replace(good, resized=["pos_embed"]), entry, "other shapes than those of the model: pos_embed"),
        (replace(good, skipped=["x"]), entry, "unknown to the model: x"),
        (replace(good, missing=["norm.weight"]), entry, "not in the file: norm.weight"),
        (good, replace(entry, params=1), "found 5,717,416 parameters, expected 1"),
    ):
        with pytest.raises(UserError, match=message):
            _check_layout(row, report, model, is_first=True)
    encoder = replace(entry, note=ENCODER)
    _check_layout(encoder, replace(good, skipped=["mask_token"], missing=["norm.weight"]), model, is_first=True)
    with pytest.raises(UserError, match="not in the file: layers.0"):
        _check_layout(encoder, replace(good, missing=["layers.0"]), model, is_first=True)
