"""`Model.explain` and `videovit explain`: the files they write, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import videovit
from tests.helpers.runs import TINY, Make, write_config
from videovit import cli
from videovit.analysis.heat_video import overlay
from videovit.config import Config, load_config
from videovit.engine.tasks.explain import CURVE, SHEET, VALUES, VIDEO
from videovit.errors import UserError
from videovit.models import build_model

IMAGES = "TEST.DATASET imagenet DATA.NUM_FRAMES 1 MVIT.PATCH_KERNEL [1,7,7] MVIT.PATCH_STRIDE [1,4,4] \
    MVIT.PATCH_PADDING [0,3,3]".split()
NAMES = ["le<ft", "$mid$\x1b[31mdle", "right"]


@pytest.fixture(scope="module")
def cfg(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return make(tmp_path_factory.mktemp("explain") / "out", "")


@pytest.fixture(scope="module")
def model(cfg: Config) -> videovit.Model:
    torch.manual_seed(0)
    return videovit.Model(cfg, build_model(cfg), NAMES)


@pytest.fixture(scope="module")
def video(cfg: Config) -> str:
    return str(sorted(Path(cfg.DATA.PATH_TO_DATA_DIR).glob("test*.mp4"))[0])


def test_explanation_is_that_of_the_best_class(model: videovit.Model, video: str) -> None:
    found, prediction = model.explain(video, method="gradient"), model.predict(video)
    assert (found.class_name, found.score) == pytest.approx(prediction.top[0]) or found.class_name == prediction.top[0][
        0
    ]
    assert found.score == pytest.approx(prediction.top[0][1])
    assert len(found.times_s) == len(found.frames_FSS3) == len(found.heat_FSS) == 8  # two windows of four frames
    assert found.frames_FSS3.shape == (8, 32, 32, 3) and found.frames_FSS3.dtype == np.uint8
    assert found.times_s == sorted(found.times_s) and found.times_s[-1] < prediction.windows[-1][1]
    assert found.heat_FSS.min() >= 0 and found.heat_FSS.max() == 1
    assert sum(found.shares) == pytest.approx(1)
    # Another class has another map; windows share one scale.
    other = model.explain(video, class_name=NAMES[(NAMES.index(found.class_name) + 1) % 3], method="gradient")
    assert not np.allclose(other.heat_FSS, found.heat_FSS)
    assert (other.heat_FSS[:4].max() == 1) != (other.heat_FSS[4:].max() == 1)


def test_files_can_be_read(model: videovit.Model, video: str, tmp_path: Path) -> None:
    found = model.explain(video, class_name=NAMES[1])
    paths = found.write(tmp_path / "a" / "why")
    assert [path.name for path in paths] == [VIDEO, SHEET, CURVE, VALUES]
    assert sorted(path.name for path in (tmp_path / "a" / "why").iterdir()) == sorted(path.name for path in paths)
    with av.open(str(paths[0])) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert float(container.streams.video[0].duration * container.streams.video[0].time_base) == pytest.approx(
            found.duration_s, rel=0.02
        )
    assert len(pictures) == 8 and pictures[0].shape == (256, 256, 3)
    expected = overlay(found.frames_FSS3, found.heat_FSS)
    small = [picture.reshape(32, 8, 32, 8, 3).mean((1, 3)) for picture in pictures]
    assert np.abs(np.stack(small) - expected).mean() < 12  # compression
    for path in paths[1:3]:
        with Image.open(path) as picture:
            assert min(picture.size) > 200
    assert [str(path) for path in paths] == list(map(str, found.write(f"{tmp_path}/a/why")))
    values = json.loads(paths[3].read_text())
    assert values["class"] == NAMES[1] and values["method"] == "gradient" and len(values["frames"]) == 8
    best = max(values["frames"], key=lambda frame: frame["share"])
    assert values["peak_s"] == pytest.approx(best["time_s"], abs=1e-3)


def test_image_has_no_curve(tmp_path: Path) -> None:
    cfg = load_config(write_config(tmp_path, TINY), IMAGES)
    model = videovit.Model(cfg, build_model(cfg), [str(k) for k in range(cfg.MODEL.NUM_CLASSES)])
    pixels = np.random.default_rng(0).integers(0, 255, (40, 36, 3), dtype=np.uint8)
    found = model.explain(pixels, method="occlusion")
    assert found.heat_FSS.shape == (1, 32, 32)
    (tmp_path / "why").mkdir()
    (tmp_path / "why" / "curve.png").write_bytes(b"of a video that was explained before")
    assert [path.name for path in found.write(tmp_path / "why")] == [SHEET, VALUES]
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == sorted([SHEET, VALUES])


def test_mistakes_are_named(model: videovit.Model, video: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"the model has no such class; found .*rihgt.*; did you mean right"):
        model.explain(video, class_name="rihgt")
    with pytest.raises(UserError, match=r"no such class; found '3', expected one of 3: le<ft, .*, right$"):
        model.explain(video, class_name="3")
    with pytest.raises(UserError, match=r"no such class; found 1, expected one of 3: le<ft"):
        model.explain(video, class_name=1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="method; found None, expected one of grad_cam, "):
        model.explain(video, method=None)  # type: ignore[arg-type]
    for several in ([], [video, video]):
        with pytest.raises(UserError, match=f"video: found {len(several)}, expected one"):
            model.explain(several)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"method; found .*lime.*, expected one of grad_cam, "):
        model.explain(video, method="lime")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        model.explain(video).write(tmp_path / "file" / "why")
    monkeypatch.setattr("videovit.engine.tasks.explain.MAX_WINDOWS", 1)
    with pytest.raises(UserError, match=r"2 windows are too many to explain; expected at most 1"):
        model.explain(video)


def test_command_writes_what_the_model_finds(
    model: videovit.Model, video: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save(tmp_path / "model")
    words = ["explain", video, "--model", str(tmp_path / "model"), "--method", "rollout", "--class", "right"]
    assert cli.main([*words, "--output", str(tmp_path / "why")]) == 0
    out = capsys.readouterr().out
    expected = model.explain(video, class_name="right", method="rollout")
    assert out.startswith(f"right  score {expected.score:.3f}  most heat at {expected.peak_s:.2f} s")
    values = json.loads((tmp_path / "why" / VALUES).read_text())
    assert [frame["share"] for frame in values["frames"]] == pytest.approx(expected.shares, rel=1e-4)
    assert cli.main([*words[:-1], "rigth", "--output", str(tmp_path / "no")]) == 1
    assert "did you mean right" in capsys.readouterr().err
    # Before anything is computed.
    assert cli.main([*words[:1], "nothing.mp4", *words[2:], "--output", video]) == 1
    assert f"{video}: could not be written" in capsys.readouterr().err
    assert cli.main([*words[:1], "rtsp://me:secret@camera/1", *words[2:], "--output", str(tmp_path / "no")]) == 1
    assert "rtsp://***@camera/1: a stream, not a video" in capsys.readouterr().err


def test_command_warns_of_a_method_with_known_limits(
    model: videovit.Model, video: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save(tmp_path / "model")
    words = ["explain", video, "--model", str(tmp_path / "model"), "--output", str(tmp_path / "why")]
    assert cli.main([*words, "--method", "grad_cam"]) == 0
    assert "warning: the heat of grad_cam often lies beside what decides" in capsys.readouterr().err
    assert cli.main(words) == 0
    assert "warning" not in capsys.readouterr().err
    assert json.loads((tmp_path / "why" / VALUES).read_text())["method"] == "gradient"
