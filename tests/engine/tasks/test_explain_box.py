"""Heat maps of a detector for one person: those of the clip and box that the test scores; files, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import videovit
from tests.helpers.ava_data import COLORS, FPS, HEIGHT, SECONDS, WIDTH, scene, write_ava
from videovit import cli
from videovit.analysis.explain import METHODS
from videovit.analysis.heat_video import outline
from videovit.config import Config, dump_config, load_config
from videovit.data.build import build_loader
from videovit.data.transforms.pipeline import build_preparation
from videovit.engine.tasks.explain import SHEET, VALUES, VIDEO
from videovit.errors import UserError
from videovit.models import build_model


@pytest.fixture(scope="module")
def ava(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load_config(write_ava(tmp_path_factory.mktemp("ava"), num_train=1))


@pytest.fixture(scope="module")
def model(ava: Config) -> videovit.Model:
    torch.manual_seed(1)
    module = build_model(ava).eval()
    torch.nn.init.normal_(module.head.get_submodule("projection").weight)
    return videovit.Model(ava, module)


@pytest.mark.parametrize("method", ["grad_cam", "gradient"])
def test_heat_is_that_of_the_scored_clip(ava: Config, model: videovit.Model, method: str) -> None:
    dataset = build_loader(ava, "test").dataset
    number = next(i for i, one in enumerate(dataset.samples) if one.key is not None and one.key.time_s == 9)
    sample, (clip,) = dataset.samples[number], dataset[0, number].clips
    assert sample.key is not None and clip.boxes_R4 is not None
    x = build_preparation(ava, train=False)(clip.frames_THWC[None], None)
    for person, box in enumerate(sample.key.boxes):
        boxes_15 = torch.cat([torch.zeros(1, 1), clip.boxes_R4[person : person + 1]], dim=1)
        with torch.no_grad():
            scores_K = model.torch(x, boxes_15).sigmoid()[0]
        expected = METHODS[method](model.torch, x, torch.tensor([2]), boxes_15)[0].numpy()
        corners = (box.x1, box.y1, box.x2, box.y2)
        found = model.explain(sample.path, box=corners, time_s=9, class_name="blue", method=method)
        assert found.class_name == "blue" and found.score == pytest.approx(float(scores_K[2]), abs=1e-5)
        assert found.box == pytest.approx(clip.boxes_R4[person].tolist())
        np.testing.assert_array_equal(found.frames_FSS3, clip.frames_THWC.numpy())
        np.testing.assert_allclose(found.heat_FSS, expected, atol=1e-4)
        assert found.times_s == pytest.approx([8.6, 8.8, 9.0, 9.2])
        best = model.explain(sample.path, box=corners, time_s=9, method=method)
        assert best.score == pytest.approx(float(scores_K[:4].max()), abs=1e-5)  # two classes have no name


def test_files_show_the_box(ava: Config, model: videovit.Model, tmp_path: Path) -> None:
    torch.save({"model_state": model.torch.state_dict()}, tmp_path / "weights.pyth")
    (tmp_path / "ava.yaml").write_text(dump_config(ava))
    video, color = str(Path(ava.AVA.MOVIE_DIR) / "movie_1.mkv"), COLORS[scene(1, 10)[0][0]]
    x1, y1, x2, y2 = (
        side / whole for side, whole in zip(scene(1, 10)[0][1], (WIDTH, HEIGHT, WIDTH, HEIGHT), strict=True)
    )
    words = ["explain", video, "--model", str(tmp_path / "ava.yaml"), "--checkpoint", str(tmp_path / "weights.pyth")]
    words += ["--box", f"{x1},{y1},{x2},{y2}", "--class", "red"]
    assert cli.main([*words, "--output", str(tmp_path / "why")]) == 0
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == sorted([VIDEO, SHEET, "curve.png", VALUES])
    values = json.loads((tmp_path / "why" / VALUES).read_text())
    assert values["class"] == "red" and len(values["box_in_pixels"]) == 4
    assert [one["time_s"] for one in values["frames"]] == pytest.approx([SECONDS / 2 + i / FPS for i in (-4, -2, 0, 2)])
    with Image.open(tmp_path / "why" / SHEET) as picture:
        assert min(picture.size) > 200
    # The person is inside of the white outline.
    found = model.explain(video, box=(x1, y1, x2, y2), class_name="red")
    assert found.box is not None
    drawn, (left, top, right, bottom) = outline(found.frames_FSS3, found.box), (round(v) for v in found.box)
    assert (drawn[2, top, left:right] == 255).all() and (drawn[2, top:bottom, right - 1] == 255).all()
    inside = drawn[2, top + 2 : bottom - 2, left + 2 : right - 2].reshape(-1, 3)
    assert np.abs(inside.mean(0) - color).max() < 40
    # At the end of the movie frames repeat, and are shown once.
    last = model.explain(video, box=(x1, y1, x2, y2), time_s=19.9)
    assert len(last.times_s) == len(last.heat_FSS) == 3 and last.times_s == sorted(set(last.times_s))


def test_mistakes_are_named(
    ava: Config, model: videovit.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = str(Path(ava.AVA.MOVIE_DIR) / "movie_1.mkv")
    box = (0.3, 0.2, 0.6, 0.8)
    with pytest.raises(UserError, match="box: a detector explains one person: which box"):
        model.explain(video)
    for wrong in ((0.6, 0.2, 0.3, 0.8), (0.0, 0.0, 1.5, 1.0), (0.1, 0.2, 0.3), (0.1, float("nan"), 0.3, 0.4)):
        with pytest.raises(UserError, match="expected x1, y1, x2, y2 as fractions of the frame"):
            model.explain(video, box=wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"the moment is not in the video; found 25, expected 0 to 20 s"):
        model.explain(video, box=box, time_s=25)
    with pytest.raises(UserError, match="outside of the crop that the model sees"):
        model.explain(video, box=(0.0, 0.1, 0.08, 0.9))
    with pytest.raises(UserError, match="no such class; found 'bleu'.*did you mean blue"):
        model.explain(video, box=box, class_name="bleu")
    with pytest.raises(UserError, match="frame rate of frames in memory is missing"):
        model.explain(np.zeros((8, 48, 64, 3), dtype=np.uint8), box=box)
    model.save(tmp_path / "model")
    words = [
        "explain",
        video,
        "--model",
        str(tmp_path / "model"),
        "--output",
        str(tmp_path / "why"),
        "--box",
        "0.1,0.2",
    ]
    assert cli.main(words) == 1
