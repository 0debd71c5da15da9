"""Export in int8: what the command prints and writes, which clips it takes, and what it refuses."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import videovit
from tests.helpers.mvit_variants import perturb
from tests.helpers.runs import TINY, write_config, write_data
from tests.helpers.videos import write_list
from tests.models.test_contract import CASES, CLASSES, FRAMES, SIDE
from videovit.commands import export, predict
from videovit.config import load_config
from videovit.data.build import build_dataset
from videovit.engine import launch
from videovit.engine.tasks import int8
from videovit.engine.tasks.int8 import ClipsOfList, divide, read_list, write_int8
from videovit.errors import UserError
from videovit.models import build_model
from videovit.models.contract import VideoModel

NUM_TEST = 24


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OUTPUT_DIR of a run that has learned its three classes; data are beside it."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_data(folder / "data", num_train=24, num_test=NUM_TEST)
    opts = ["DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(folder / "run"), "SOLVER.MAX_EPOCH", 5]
    launch.run(load_config(write_config(folder, TINY), [*opts, "TRAIN.EVAL_PERIOD", 5, "TEST.ENABLE", False]))
    return folder / "run"


def lists(trained: Path) -> Path:
    return trained.with_name("data") / "test.csv"


def run_export(trained: Path, path: Path, source: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    pytest.importorskip("nncf")
    arguments = [str(trained), "--format", "openvino", "--int8", str(source), "--output", str(path), *more]
    export.main(arguments)
    return capsys.readouterr().out


def held(path: Path) -> tuple[dict[str, str], dict[str, object]]:
    """Metadata of a file, and what it records of int8."""
    metadata = int8.OpenVino(path).metadata()
    return metadata, json.loads(metadata["int8"])


@pytest.mark.parametrize(("more", "rest"), [((), "fp32"), (("--half", "bf16", "--batch", "5"), "bf16")])
def test_loss_is_printed_beside_gain(
    more: tuple[str, ...], rest: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.xml"
    out = run_export(trained, path, lists(trained), capsys, *more)
    assert "ranges from 12 clips; compared on 12 others" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith(("fp32", "bf16", "int8"))}
    assert {*rows} == {"fp32", "int8", *(["bf16"] if int8.computes_bf16() else [])}
    for top1, agreement, difference, largest, cpu_s, megabytes in rows.values():
        assert float(top1) > 90 and float(agreement) > 90 and 0 <= float(difference) <= float(largest)
        assert float(cpu_s) > 0 and float(megabytes) > 0
    assert float(rows["fp32"][2]) == 0 < float(rows["int8"][2]) <= int8.TOLERANCE
    assert {*tmp_path.iterdir()} == {path, path.with_suffix(".bin")}

    metadata, record = held(path)
    assert metadata["precision"] == f"int8, {rest}" and "nncf" in json.loads(metadata["versions"])
    assert (record["calibration_clips"], record["compared_clips"], record["held_out"]) == (12, 12, True)
    assert f"{record['networks']['int8']['top1']:.1f}" == rows["int8"][0]
    assert str(trained.parent) not in "".join(metadata.values())

    model, video = videovit.load(path), lists(trained).with_name("test1.mp4")
    assert model.predict(video).top[0][0] == videovit.load(trained).predict(video).top[0][0] == "class 1"
    predict.main([str(video), "--model", str(path)])
    assert "class 1" in capsys.readouterr().out


def test_weights_are_of_8_bits(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ov = pytest.importorskip("openvino")
    path = tmp_path / "net.xml"
    run_export(trained, path, lists(trained), capsys, "--clips", "6")
    ops = ov.Core().read_model(path).get_ops()
    sizes = {"i8": 0, "f32": 0}
    for op in ops:
        if op.get_type_name() == "Constant" and op.get_element_type().get_type_name() in sizes:
            sizes[op.get_element_type().get_type_name()] += len(op.get_vector())
    assert sizes["i8"] > 2 * sizes["f32"]
    assert sum(op.get_type_name() == "FakeQuantize" for op in ops) > 8
    _, record = held(path)
    assert (record["calibration_clips"], record["compared_clips"]) == (6, 6)


@pytest.mark.parametrize("name", ["MViT v2", "ViT", "PS_ViT", "ImageResNet", "X3D"])
def test_family_in_int8(name: str, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    opts = f"MODEL.MODEL_NAME {name.split()[0]} MODEL.NUM_CLASSES {CLASSES} DATA.NUM_FRAMES {FRAMES} "
    opts += f"DATA.TRAIN_CROP_SIZE {SIDE} DATA.TEST_CROP_SIZE {SIDE} DATA.TEST_SHORT_SIDE {SIDE} DATA.SAMPLING_RATE 1 "
    cfg = load_config(opts=(opts + "MODEL.DROPOUT_RATE 0.0 DATA.INPUT_CHANNEL_NUM [3] " + CASES[name]).split())
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    assert isinstance(model, VideoModel)
    perturb(model)
    path, class_names = tmp_path / "net.xml", [f"class {i}" for i in range(CLASSES)]
    done = write_int8(cfg, model, class_names, path, str(lists(trained)), most=8)
    assert 0 < done.networks["int8"].difference < 0.3
    assert videovit.load(path).predict(lists(trained).with_name("test1.mp4")).top[0][0] in class_names


def test_list_without_classes_gives_agreement(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [f"{lists(trained).with_name(f'test{i}.mp4')}\n" for i in range(12)]
    (tmp_path / "videos.txt").write_text("".join(videos))
    out = run_export(trained, tmp_path / "net.xml", tmp_path / "videos.txt", capsys)
    assert "no classes in the list: loss of accuracy unknown" in out
    assert "ranges from 12 clips; compared on 12 the same, as the list is short" in out
    assert next(line for line in out.splitlines() if line.startswith("int8")).split()[1] == "-"
    _, record = held(tmp_path / "net.xml")
    assert record["networks"]["int8"]["top1"] is None and record["held_out"] is False


def test_too_large_difference_leaves_no_file(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setattr(int8, "TOLERANCE", 1e-6)
    model = videovit.load(trained)
    with pytest.raises(UserError, match=r"(?s)logits differ from full precision by 0\.\d\d of .* at most 1e-06"):
        write_int8(model.config, model.torch, model.class_names, tmp_path / "net.xml", str(lists(trained)), most=4)
    assert not list(tmp_path.iterdir())


def test_missing_package_is_named(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    model = videovit.load(trained)
    with pytest.raises(UserError, match=r"(?s)needs the package nncf.*pip install 'videovit\[int8\]'"):
        write_int8(model.config, model.torch, model.class_names, tmp_path / "net.xml", str(lists(trained)))


def test_wrong_options_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["run", "--format", "onnx", "--int8", "test.csv"], "--int8 needs --format openvino"),
        (["run", "--format", "openvino", "--clips", "9"], "--clips needs --int8"),
        (
            ["run", "--format", "openvino", "--int8", "test.csv", "--clips", "0"],
            "invalid value: '0' (a number above 0)",
        ),
    ):
        with pytest.raises(SystemExit):
            export.parse(words)
        assert message in capsys.readouterr().err


def test_lists_that_cannot_be_used_are_named(trained: Path, tmp_path: Path) -> None:
    cfg = videovit.load(trained).config
    write_list(tmp_path / "test.csv", [("a.mp4", 0), ("b.mp4", 3)])
    with pytest.raises(UserError, match=r"(?s)test\.csv.*b\.mp4 3"):
        read_list(cfg, str(tmp_path / "test.csv"))
    (tmp_path / "mixed.csv").write_text("a.mp4 0\nb.mp4\n")
    with pytest.raises(UserError, match=r"(?s)mixed\.csv.*b\.mp4"):
        read_list(cfg, str(tmp_path / "mixed.csv"))
    with pytest.raises(UserError, match=r"--int8: found 'video\.mp4', expected a folder, or a list"):
        read_list(cfg, "video.mp4")


@pytest.mark.filterwarnings("ignore:.*files left out")
def test_folder_has_no_classes(trained: Path) -> None:
    samples, labeled = read_list(videovit.load(trained).config, str(trained.with_name("data")))
    assert len(samples) == 24 + 2 * NUM_TEST and not labeled


def test_clips_are_those_of_the_test(trained: Path) -> None:
    cfg = videovit.load(trained).config
    samples, labeled = read_list(cfg, str(lists(trained)))
    clips = list(ClipsOfList(cfg, samples, [4, 7]))
    assert labeled and [label for _, label in clips] == [1, 1]
    # One clip in place of two; the middle one of three crops.
    opts = ["TEST.NUM_ENSEMBLE_VIEWS", 1]
    expected = build_dataset(videovit.load(trained, opts=opts).config, "test", samples)[(0, 4)].clips
    assert len(expected) == 3 and expected[1].frames_THWC.equal(clips[0][0])


def test_unreadable_video_is_named_or_left_out(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    write_list(tmp_path / "test.csv", [("broken.mp4", 0), (lists(trained).with_name("test1.mp4"), 1)])
    for skip in (False, True):
        cfg = videovit.load(trained, opts=["TEST.SKIP_UNREADABLE", skip]).config
        clips = ClipsOfList(cfg, read_list(cfg, str(tmp_path / "test.csv"))[0], [0, 1])
        if skip:
            assert [label for _, label in clips] == [1]
        else:
            with pytest.raises(UserError, match=r"broken\.mp4"):
                list(clips)


@pytest.mark.parametrize(("num", "most"), [(20, 300), (21, 300), (240, 300), (1000, 60), (1000, 1)])
def test_compared_videos_are_held_out(num: int, most: int) -> None:
    first, second = divide(num, most, seed=3)
    assert not {*first} & {*second} and first == sorted({*first}) and second == sorted({*second})
    assert len(first) == min(most, num // 2) and len(second) == min(most, num - len(first))
    assert divide(num, most, seed=3) == (first, second) != divide(num, most, seed=4)


def test_alternating_classes_are_all_drawn() -> None:
    first, second = divide(240, 300, seed=0)
    assert {i % 12 for i in first} == {i % 12 for i in second} == {*range(12)}
    assert max(b - a for a, b in pairwise(first)) < 4


def test_short_list_is_used_twice() -> None:
    assert divide(19, 300, seed=0) == ([*range(19)], [*range(19)])
