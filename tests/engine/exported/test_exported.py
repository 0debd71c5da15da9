"""Exported networks: every format and family against PyTorch, what is refused, and engines in place of PyTorch."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.mvit_variants import perturb
from tests.helpers.runs import TINY, write_config, write_data
from tests.helpers.tiny_transformers import need_transformers
from tests.models.test_contract import CASES, CLASSES, FRAMES, MVIT, SIDE
from videovit.config import Config, load_config
from videovit.data.transforms.pipeline import build_preparation
from videovit.engine import launch
from videovit.engine.exported import kept_graphs
from videovit.engine.exported.engines import ENGINES
from videovit.engine.exported.formats import BF16, FORMATS, Job, Runner
from videovit.engine.exported.kept_graphs import graph_key, kept_graph
from videovit.engine.tasks.export import check, write_network
from videovit.errors import UserError
from videovit.model import Model
from videovit.models import build_model
from videovit.models.contract import VideoModel

COMMON = f"MODEL.NUM_CLASSES {CLASSES} DATA.NUM_FRAMES {FRAMES} DATA.TRAIN_CROP_SIZE {SIDE} DATA.TEST_CROP_SIZE {SIDE} "
COMMON += "MODEL.DROPOUT_RATE 0.0 DATA.INPUT_CHANNEL_NUM [3] TEST.NUM_SPATIAL_CROPS 1 "
CLASS_NAMES = [f"class {i}, größer" for i in range(CLASSES)]
DETECTOR = "MODEL.MODEL_NAME MViT MODEL.LOSS_FUNC bce MODEL.HEAD_ACT sigmoid DETECTION.ENABLE True "
DETECTOR += f"TEST.DATASET ava TRAIN.DATASET ava {MVIT} MVIT.DEPTH 2 "
SMALL = f"MODEL.MODEL_NAME ViT {CASES['ViT']} "


def tiny(options: str) -> tuple[Config, VideoModel]:
    """A small model and its config."""
    cfg = load_config(opts=(COMMON + options).split())
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    perturb(model)
    return cfg, model


def write(options: str, path: Path, name: str, **arguments: object) -> tuple[float, Config, VideoModel]:
    cfg, model = tiny(options)
    done = write_network(cfg, model, CLASS_NAMES, path, name, **{"batch": 0, "half": False, **arguments})
    assert (
        done.paths[0] == path and all(p.is_file() for p in done.paths) and set(path.parent.iterdir()) == {*done.paths}
    )
    return done.difference, cfg, model


@pytest.mark.parametrize(
    ("options", "half"), [(SMALL, False), (SMALL, True), (DETECTOR, False)], ids=["fp32", "bf16", "boxes"]
)
def test_program_equals_pytorch(options: str, half: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    difference, cfg, model = write(options, path, "pt2", half=half)
    assert 1e-3 < difference < 0.15 if half else difference < 1e-5
    held = {"videovit.json": ""}
    program = torch.export.load(path, extra_files=held)
    metadata = json.loads(held["videovit.json"])
    assert json.loads(metadata["class_names"]) == CLASS_NAMES and metadata["precision"] == ("bf16" if half else "fp32")
    assert json.loads(metadata["preprocessing"])["num_frames"] == FRAMES
    assert json.loads(metadata["versions"])["torch"] == torch.__version__
    again = load_config_text(metadata["config"], tmp_path)
    assert again.MODEL == cfg.MODEL
    assert not any(name.endswith((".pkl", ".pickle")) for name in zipfile.ZipFile(path).namelist())
    if not half:
        x = torch.full((5, FRAMES, SIDE, SIDE, 3), 70, dtype=torch.uint8)
        boxes = [torch.tensor([[4.0, 0.0, 0.0, 9.0, 20.0]])] if model.takes_boxes else []
        clips = (x.permute(0, 4, 1, 2, 3) / 255 - torch.tensor(cfg.DATA.MEAN).view(-1, 1, 1, 1)) / torch.tensor(
            cfg.DATA.STD
        ).view(-1, 1, 1, 1)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x, *boxes), model(clips, *boxes), atol=1e-5, rtol=1e-4)


def load_config_text(text: str, folder: Path) -> Config:
    path = folder / "again.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_weights_bring_config_and_names(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "net.safetensors"
    difference, _, _ = write(SMALL, path, "safetensors", half=True)
    assert 0 < difference < 0.15
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["videovit"])
        assert file.get_tensor("head.projection.weight").dtype == BF16
    assert json.loads(metadata["class_names"]) == CLASS_NAMES and "VIT" in metadata["config"]


class Shifted:
    """An engine whose answers are wrong for one number of clips alone."""

    def __init__(self, engine: Runner) -> None:
        self._engine = engine

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        (logits,) = self._engine(*inputs)
        return [logits + (len(logits) == 2) * 0.01]


def test_wrong_answers_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = FORMATS["safetensors"]
    opened = type(row)(row.suffix, row.write, lambda path, job: Shifted(row.open(path, job)))
    monkeypatch.setitem(FORMATS, "safetensors", opened)
    with pytest.raises(UserError, match=r"answers differ from PyTorch's by .* at most 1e-03 is allowed"):
        write(SMALL, tmp_path / "net.safetensors", "safetensors")
    assert not list(tmp_path.iterdir())


def test_check_wants_the_fixed_number_of_clips() -> None:
    cfg, model = tiny(SMALL)
    seen = []

    def engine(*inputs: Tensor) -> list[Tensor]:
        seen.append(inputs[0].shape)
        with torch.no_grad():
            return [model(job.preparation(inputs[0]))]

    job = Job(cfg, model, build_preparation(cfg, train=False), CLASS_NAMES, batch=4)
    assert check(job, engine)[2] == (4,)
    assert seen == [(4, FRAMES, SIDE, SIDE, 3)] * 2


def test_wrong_requests_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"onnx.*no bf16.*expected pt2, openvino, safetensors"):
        write(SMALL, tmp_path / "net.onnx", "onnx", half=True)
    with pytest.raises(UserError, match=r"--output.*net\.pth.*ends in \.pt2"):
        write(SMALL, tmp_path / "net.pth", "pt2")
    cfg, model = tiny(SMALL)
    with pytest.raises(UserError, match="engine.*tensorrt.*torch, onnxruntime, openvino"):
        Model(cfg, model, CLASS_NAMES, engine="tensorrt")  # type: ignore[arg-type]
    for opts, message in {
        "TEST.ENGINE onnxruntime NUM_GPUS 0 TEST.MIXED_PRECISION True": "no half precision on a CPU",
        "TEST.ENGINE openvino NUM_GPUS 2": "computes on the CPU here",
        "TEST.ENGINE openvino NUM_GPUS 0 DETECTOR.NAME RetinaNet TEST.DATASET coco": "cannot run a detector of objects",
    }.items():
        with pytest.raises(UserError, match=message):
            load_config(opts=opts.split())


# ------------------------------------------------------------------------------- with the extras [onnx] and [openvino]

FAMILIES = {
    **{name: f"MODEL.MODEL_NAME {name.split()[0]} {options}" for name, options in CASES.items()},
    "detector": DETECTOR,
}
SLOW_TO_BUILD = [name for name in FAMILIES if name.startswith("ptv_")]


@pytest.mark.parametrize("name", FAMILIES)
def test_engines_equal_pytorch_for_every_family(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    openvino, onnx = pytest.importorskip("openvino"), pytest.importorskip("onnx")
    if name in SLOW_TO_BUILD[1:]:
        pytest.skip("one network of pytorchvideo stands for all")
    if name.startswith("hf_"):
        need_transformers()
    difference, _, _ = write(FAMILIES[name], tmp_path / "net.xml", "openvino")
    assert difference < 1e-4
    model = openvino.Core().read_model(str(tmp_path / "net.xml"))
    assert json.loads(model.get_rt_info(["videovit", "class_names"]).value) == CLASS_NAMES
    for file in tmp_path.iterdir():
        file.unlink()
    difference, _, _ = write(FAMILIES[name], tmp_path / "net.onnx", "onnx")
    assert difference < 1e-4
    held = onnx.load(tmp_path / "net.onnx")
    metadata = {one.key: one.value for one in held.metadata_props}
    assert json.loads(metadata["class_names"]) == CLASS_NAMES and metadata["opset"] == "20"
    assert held.opset_import[0].version == 20 and onnx.__version__ in metadata["versions"]


@pytest.mark.parametrize(("engine", "name"), [("onnxruntime", "OnnxRuntime"), ("openvino", "OpenVino")])
def test_model_in_another_engine_gives_the_same(
    engine: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="videovit")
    pytest.importorskip("onnxscript")
    pytest.importorskip(engine)
    cfg = load_config(write_config(tmp_path, TINY), ["MODEL.NUM_CLASSES", 3])
    torch.manual_seed(0)
    module = build_model(cfg).eval()
    perturb(module)
    names = ["a", "b", "c"]
    plain, other = Model(cfg, module, names), Model(cfg, module, names, engine=engine)  # type: ignore[arg-type]
    frames = torch.randint(0, 256, (30, 40, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for batch_size in (1, 2):
        expected = plain.predict(frames, fps=10, batch_size=batch_size)
        found = other.predict(frames, fps=10, batch_size=batch_size)
        assert len(found.windows) == len(expected.windows) > 2
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-6, rtol=0)
    assert [record.args[0] for record in caplog.records if "making the graph" in record.msg] == [name]
    if engine == "openvino":
        narrow = Model(cfg, module, names, engine="openvino", dtype="bf16").predict(frames, fps=10)
        torch.testing.assert_close(narrow.scores, expected.scores, atol=0.02, rtol=0)
    torch.testing.assert_close(other.features(frames, fps=10), plain.features(frames, fps=10), atol=1e-5, rtol=1e-4)


def test_test_task_in_another_engine_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    data, config = write_data(tmp_path / "data", num_train=1, num_test=3), write_config(tmp_path)
    torch.manual_seed(0)
    model = build_model(load_config(config))
    perturb(model)
    torch.save({"model_state": model.state_dict()}, tmp_path / "w.pth")
    opts = f"DATA.PATH_TO_DATA_DIR {data} TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH {tmp_path}/w.pth NUM_GPUS 0 "
    opts += "TEST.SAVE_RESULTS_PATH scores.pt SHUFFLE_EVAL.ENABLE True SHUFFLE_EVAL.ORDERS ['ordered','reversed'] "
    results = {}
    for engine in ("torch", "openvino"):
        own = f"OUTPUT_DIR {tmp_path / engine} TEST.ENGINE {engine}"
        results[engine] = launch.run(load_config(config, (opts + own).split()))
    assert results["openvino"] == results["torch"] and results["torch"]["test"]["num_videos"] == 3
    found, expected = (torch.load(tmp_path / e / "scores.pt") for e in ("openvino", "torch"))
    key = next(name for name, value in expected.items() if torch.is_tensor(value) and value.is_floating_point())
    torch.testing.assert_close(found[key], expected[key], atol=1e-5, rtol=0)
    assert "OpenVino: making the graph for clips of 4 x 32 x 32" in (tmp_path / "openvino/stdout.log").read_text()


# -------------------------------------------------------------------------------------------------- graphs on the disk


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VIDEOVIT_CACHE", str(folder))
    return folder


def graph_of(model: VideoModel, x: Tensor, caplog: pytest.LogCaptureFixture) -> tuple[Tensor, list[str]]:
    """The answer of a network that starts anew, and the messages about its graph."""
    caplog.clear()
    with torch.no_grad():
        y: Tensor = ENGINES["openvino"](model, None)(x)
    return y, [record.getMessage() for record in caplog.records]


def test_graph_is_kept_for_the_next_process(own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("openvino")
    caplog.set_level(logging.INFO, logger="videovit")
    _, model = tiny(SMALL)
    x = torch.randn(1, 3, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    first, messages = graph_of(model, x, caplog)
    assert len(messages) == 1 and "making the graph" in messages[0]
    _, equal = tiny(SMALL)
    again, messages = graph_of(equal, x, caplog)
    assert not messages and torch.equal(again, first)
    features = ENGINES["openvino"](equal, None).forward_features(x)  # type: ignore[operator]
    read = ENGINES["openvino"](equal, None).forward_features(x)  # type: ignore[operator]
    assert read.grid == features.grid and torch.equal(read.tokens_BNC, features.tokens_BNC)
    # Another weight, and another setting of a module, are other graphs.
    with torch.no_grad():
        equal.head.projection.weight[0, 0] += 1.0  # type: ignore[union-attr]
    changed, messages = graph_of(equal, x, caplog)
    assert "making the graph" in messages[0] and not torch.equal(changed, first)
    _, other = tiny(SMALL)
    other.norm.eps = 0.5  # type: ignore[union-attr]
    changed, messages = graph_of(other, x, caplog)
    assert "making the graph" in messages[0] and not torch.equal(changed, first)


@pytest.mark.parametrize("name", ["graph.bin", "graph.xml", "about.json"])
def test_damaged_graph_is_made_again(name: str, own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("openvino")
    caplog.set_level(logging.INFO, logger="videovit")
    _, model = tiny(SMALL)
    x = torch.zeros(1, 3, FRAMES, SIDE, SIDE)
    first, _ = graph_of(model, x, caplog)
    (file,) = own_cache.glob(f"graphs/*/{name}")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again, messages = graph_of(model, x, caplog)
    assert "damaged" in messages[0] and "making the graph" in messages[1] and torch.equal(again, first)
    assert not graph_of(model, x, caplog)[1]


def test_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path / "file"))
    _, model = tiny(SMALL)
    y, messages = graph_of(model, torch.zeros(1, 3, FRAMES, SIDE, SIDE), caplog)
    assert y.shape == (1, CLASSES) and "the graph is not kept for the next process" in messages[0]


def test_oldest_graphs_make_room(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_graphs, "MOST_BYTES", 2500)
    for time, key in enumerate("abac"):
        with kept_graph(key, ".onnx", lambda path: path.write_bytes(bytes(1000)) and None) as (path, _):
            os.utime(path.parent, (time, time))
    assert {path.parent.name for path in own_cache.glob("graphs/*/about.json")} == {"a", "c"}


def test_key_is_the_same_in_every_process() -> None:
    code = "from tests.engine.exported.test_exported import *; print(graph_key(tiny(DETECTOR)[1], 'a', (1, 2)))"
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout.strip())
    assert len(found) == 1 and found == {graph_key(tiny(DETECTOR)[1], "a", (1, 2))}


def test_processes_that_start_at_once_make_one_graph(own_cache: Path) -> None:
    code = "import sys, time; from pathlib import Path; from videovit.engine.exported.kept_graphs import kept_graph\n"
    code += "def make(path): time.sleep(1); path.write_text('graph'); print('made')\n"
    code += "with kept_graph('key', '.onnx', make) as (path, _): assert path.read_text() == 'graph'"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sorted(process.communicate()[0] for process in started) == ["", "", "made\n"]
    assert not any(process.returncode for process in started)
