"""Exported files as models: `videovit.load` and `videovit predict` without the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

import videovit
from tests.helpers.mvit_variants import perturb
from tests.helpers.runs import TINY, write_config
from tests.helpers.videos import write_video
from videovit.commands import features, predict
from videovit.config import load_config
from videovit.engine.tasks.export import write_network
from videovit.errors import UserError
from videovit.model import Model
from videovit.models import build_model
from videovit.models.contract import VideoModel

NAMES = ["a", "größer", "c"]
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "safetensors": ".safetensors", "pt2": ".pt2"}
NEEDED = {"onnx": "onnxscript", "openvino": "openvino", "safetensors": "torch", "pt2": "torch"}


def exported(folder: Path, name: str, *, batch: int = 0, half: bool = False) -> tuple[Model, Path]:
    """A tiny model, and its file."""
    pytest.importorskip(NEEDED[name])
    cfg = load_config(write_config(folder, TINY), ["MODEL.NUM_CLASSES", 3])
    torch.manual_seed(0)
    module = cast(VideoModel, build_model(cfg).eval())
    perturb(module)
    path = folder / f"net{SUFFIXES[name]}"
    write_network(cfg, module, NAMES, path, name, batch=batch, half=half)
    return Model(cfg, module, NAMES), path


def frames() -> Tensor:
    return torch.randint(0, 256, (30, 40, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "batch", "half", "tolerance"),
    [
        ("onnx", 0, False, 1e-6),
        ("onnx", 4, False, 1e-6),
        ("openvino", 0, False, 1e-6),
        ("openvino", 2, True, 0.02),
        ("safetensors", 0, False, 0),
    ],
)
def test_file_predicts_like_its_model(name: str, batch: int, half: bool, tolerance: float, tmp_path: Path) -> None:
    model, path = exported(tmp_path, name, batch=batch, half=half)
    loaded = videovit.load(path, opts=["PREDICT.TOP_K", 2])
    assert loaded.class_names == NAMES and loaded.device.type == "cpu"
    for batch_size in (1, 3):
        found, expected = (one.predict(frames(), fps=10, batch_size=batch_size) for one in (loaded, model))
        assert len(found.windows) == len(expected.windows) > 2 and len(found.top) == 2
        torch.testing.assert_close(found.scores, expected.scores, atol=tolerance, rtol=0)


def test_command_predicts_with_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, path = exported(tmp_path, "onnx")
    video = write_video(tmp_path / "video.mp4", num_frames=60)
    predict.main([str(video), "--model", str(path), "--json", "-"])
    found = capsys.readouterr().out
    (name, _), *_ = model.predict(str(video)).top
    assert json.dumps(name) in found


def test_what_a_file_does_not_have_is_refused(tmp_path: Path) -> None:
    _, path = exported(tmp_path, "onnx")
    model = videovit.load(path)
    scores_alone = r"net\.onnx: an exported network computes scores and nothing else"
    with pytest.raises(UserError, match=scores_alone):
        model.features(frames(), fps=10)
    with pytest.raises(UserError, match=scores_alone):
        model.save(tmp_path / "saved")
    with pytest.raises(UserError, match=scores_alone):
        model.explain(frames(), fps=10)
    assert not (tmp_path / "saved").exists()
    for arguments, name in (
        ({"engine": "openvino"}, "engine"),
        ({"dtype": "bf16"}, "dtype"),
        ({"checkpoint": "w.pyth"}, "checkpoint"),
        ({"opts": ["DATA.MEAN", [0, 0, 0]]}, r"DATA\.MEAN"),
        ({"opts": ["MVIT.DEPTH", 2]}, r"MVIT\.DEPTH"),
    ):
        with pytest.raises(UserError, match=rf"net\.onnx: {name} is fixed in an exported network"):
            videovit.load(path, **arguments)
    with pytest.raises(UserError, match="exported network, with which only `videovit predict`"):
        features.main([str(tmp_path), "--model", str(path), "--output", str(tmp_path / "out")])


def test_weights_give_features(tmp_path: Path) -> None:
    model, path = exported(tmp_path, "safetensors")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/a.mp4", num_frames=60)
    features.main([str(tmp_path / "videos"), "--model", str(path), "--output", str(tmp_path / "out")])
    (rows,) = (tmp_path / "out").glob("videos/*.npy")
    np.testing.assert_allclose(np.load(rows), model.features(tmp_path / "videos/a.mp4"), rtol=1e-5)


def test_program_is_not_read(tmp_path: Path) -> None:
    _, path = exported(tmp_path, "pt2")
    with pytest.raises(UserError, match=r"net\.pt2: a program of torch\.export, which is not read.*can run code"):
        videovit.load(path)


def test_files_of_others_are_named(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "graph", [value], [out])
    other = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"other\.onnx: not exported by videovit: no config in its metadata"):
        videovit.load(tmp_path / "other.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(UserError, match=r"text\.onnx: ONNX Runtime cannot read it"):
        videovit.load(tmp_path / "text.onnx")
    for key, text, message in (
        ("class_names", '["a"]', r"(?s)class names in its metadata.*expected a list of 3 class names"),
        ("class_names", "[", "class names in its metadata are not JSON"),
        ("config", "MODEL: {NO_SUCH: 1}", "(?s)config in its metadata cannot be used.*NO_SUCH"),
        ("config", None, "not exported by videovit: no config"),
    ):
        _, path = exported(tmp_path, "onnx")
        held = onnx.load(path)
        (one,) = (prop for prop in held.metadata_props if prop.key == key)
        if text is None:
            held.metadata_props.remove(one)
        else:
            one.value = text
        onnx.save(held, path)
        with pytest.raises(UserError, match=message):
            videovit.load(path)
