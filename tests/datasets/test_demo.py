"""The demo data set: rendered files are reproducible, and only frame order distinguishes the classes of a pair."""

import importlib
import importlib.util
import json
import sys

import av
import numpy as np
import pytest
from PIL import Image

from tests.helpers.project import ROOT
from videovit.errors import UserError

COUNTS = {"train": 12, "val": 3, "test": 12}


@pytest.fixture(scope="module")
def shapes():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "datasets" / "demo")
        yield importlib.import_module("shapes")
    del sys.modules["shapes"]


@pytest.fixture(scope="module")
def demo(shapes):
    spec = importlib.util.spec_from_file_location("demo_prepare", ROOT / "datasets" / "demo" / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_prepare"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["demo_prepare"]


@pytest.fixture(scope="module")
def rendered(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert demo.prepare(folder, COUNTS, workers=1, quiet=True) == 27
    return folder


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_demo_lists_and_class_names(rendered):
    classes = json.loads((rendered / "classes.json").read_text())
    groups = json.loads((rendered / "groups.json").read_text())
    assert sorted(classes.values()) == list(range(12))
    assert len(groups["motion"]) == 8 and len(groups["appearance"]) == 4
    assert set(groups["motion"] + groups["appearance"]) == set(classes)
    for split, count in COUNTS.items():
        rows = [row.split(" ") for row in (rendered / f"{split}.csv").read_text().splitlines()]
        assert len(rows) == count
        for path, label in rows:
            assert path.startswith(f"{split}/{list(classes)[int(label)]}_") and path.endswith(".mp4")
            assert (rendered / path).is_file()
    assert not list(rendered.rglob("*.partial"))


def test_demo_videos_h264_key_frames_only(rendered, demo, shapes):
    path = rendered / (rendered / "test.csv").read_text().split()[0]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height, stream.average_rate) == (demo.SIZE, demo.SIZE, demo.FPS)
        frames = list(container.decode(stream))
    assert len(frames) == demo.NUM_FRAMES and all(frame.key_frame for frame in frames)
    pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(float)
    drawn = shapes.render(demo.CLASSES[0], demo.video_rng(0, "test", 0)).astype(float)
    assert np.abs(pixels - drawn).mean() < 12  # chroma is stored at half size


def test_demo_same_seed_same_files(rendered, demo, tmp_path):
    demo.prepare(tmp_path, COUNTS, workers=2, quiet=True)
    assert contents(tmp_path) == contents(rendered)


def test_demo_larger_set_contains_smaller(demo, shapes):
    first = shapes.render("grow", demo.video_rng(0, "train", 4))
    assert np.array_equal(first, shapes.render("grow", demo.video_rng(0, "train", 4)))
    for other in (demo.video_rng(1, "train", 4), demo.video_rng(0, "val", 4), demo.video_rng(0, "train", 16)):
        assert not np.array_equal(first, shapes.render("grow", other))


def test_demo_interrupted_run_continues(demo, tmp_path):
    counts = {"train": 2, "val": 1, "test": 1}
    demo.prepare(tmp_path, counts, quiet=True)
    whole = contents(tmp_path)
    lost = next((tmp_path / "train").glob("*00001.mp4"))
    kept = next((tmp_path / "train").glob("*00000.mp4"))
    before = kept.stat().st_mtime_ns
    lost.unlink()
    assert demo.prepare(tmp_path, counts, quiet=True) == 1
    assert contents(tmp_path) == whole and kept.stat().st_mtime_ns == before
    assert demo.prepare(tmp_path, counts, quiet=True) == 0


def test_demo_other_seed_raises(rendered, demo, capsys):
    before = contents(rendered)
    with pytest.raises(UserError, match="Choose another --output"):
        demo.prepare(rendered, COUNTS, seed=1, quiet=True)
    assert demo.main(["--output", str(rendered), "--seed", "1"]) == 1
    assert "Choose another --output" in capsys.readouterr().err
    assert contents(rendered) == before


@pytest.mark.parametrize("law", ["horizontal", "vertical", "scale", "orbit"])
def test_demo_opposite_class_is_reversed_path(shapes, law):
    for seed in range(5):
        forward = shapes.movement(law, np.random.default_rng(seed), 36)
        backward = shapes.movement("-" + law, np.random.default_rng(seed), 36)
        for values, reverse in [
            (forward.x_T, backward.x_T),
            (forward.y_T, backward.y_T),
            (forward.radius_T, backward.radius_T),
        ]:
            assert np.allclose(values, reverse[::-1])


def test_demo_classes_move_as_named(shapes):
    for seed in range(10):
        tracks = {
            name: shapes.movement(sign + law, np.random.default_rng(seed), 36)
            for law, pair in shapes.PAIRS.items()
            for sign, name in zip(("", "-"), pair, strict=True)
        }
        for name, sign in (("move_right", 1), ("move_left", -1)):
            assert np.all(sign * np.diff(tracks[name].x_T) > 0) and np.ptp(tracks[name].y_T) == 0
        for name, sign in (("move_down", 1), ("move_up", -1)):
            assert np.all(sign * np.diff(tracks[name].y_T) > 0) and np.ptp(tracks[name].x_T) == 0
        for name, sign in (("grow", 1), ("shrink", -1)):
            assert np.all(sign * np.diff(tracks[name].radius_T) > 0)
        for name, sign in (
            ("orbit_right", 1),
            ("orbit_left", -1),
        ):  # right: clockwise on the screen, where y points down
            turn = np.unwrap(np.arctan2(tracks[name].y_T - 0.5, tracks[name].x_T - 0.5))
            assert np.all(sign * np.diff(turn) > 0) and abs(turn[-1] - turn[0]) > 1.25 * np.pi


def test_demo_families_differ(shapes):
    assert not set(shapes.PLAIN_OBJECTS) & set(shapes.APPEARANCE)
    u, v = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41))
    for kind in shapes.APPEARANCE + shapes.PLAIN_OBJECTS:
        shape = shapes.inside(kind, u, v) > 0
        second = shapes.paint(kind, u, v)[shape].mean()  # fraction of the second color
        assert 0.3 < shape.mean() < 0.9
        assert 0.2 < second < 0.8 if kind in shapes.APPEARANCE else second == 0


def test_demo_contact_sheet(demo, tmp_path):
    demo.montage(tmp_path / "sheets" / "demo.png", demo.Settings(0), num_columns=3)
    with Image.open(tmp_path / "sheets" / "demo.png") as sheet:
        assert sheet.height >= 12 * demo.SIZE and sheet.width >= 3 * demo.SIZE


def test_demo_command_line(demo, tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "data"), "--train", "1", "--val", "1", "--test", "1", "--workers", "1"]
    assert demo.main(arguments) == 0
    assert "rendered 3 videos" in capsys.readouterr().out
    assert (tmp_path / "data" / "test" / "move_right_00000.mp4").is_file()
    assert (tmp_path / "data" / "preview.png").is_file()
    assert demo.main([*arguments, "--preview", str(tmp_path / "sheet.png")]) == 0
    assert "3 already existed" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").is_file()


def test_demo_invalid_arguments_raise(demo, tmp_path):
    with pytest.raises(SystemExit):
        demo.main(["--output", str(tmp_path), "--train", "0"])


def test_demo_among_still_only_the_deciding_corner_moves(demo, shapes):
    half, corners = shapes.SIZE // 2, []
    for number, name in enumerate(shapes.CLASSES * 2):
        frames, corner = shapes.render_among_still(name, demo.video_rng(0, "test", number))
        bright_THW = frames.max(axis=-1) > 130  # backgrounds end at 110, noise has at most 8
        changed_HW = (bright_THW.mean(axis=0) > 0.1) & (bright_THW.mean(axis=0) < 0.9)
        changed = changed_HW.reshape(2, half, 2, half).sum(axis=(1, 3)).flatten()
        shown = bright_THW[0].reshape(2, half, 2, half).sum(axis=(1, 3))
        assert (shown > 20).all() and changed.argmax() == corner, name
        assert changed[corner] > 4 * np.delete(changed, corner).sum(), name
        corners.append(corner)
    assert set(corners) == {0, 1, 2, 3}


def test_demo_among_still_is_another_data_set(rendered, demo, tmp_path):
    counts = {"train": 1, "val": 1, "test": 1}
    demo.prepare(tmp_path, counts, among_still=True, quiet=True)
    name = next((tmp_path / "test").glob("*.mp4")).name
    assert (tmp_path / "test" / name).read_bytes() != (rendered / "test" / name).read_bytes()
    assert "among_still" not in (rendered / "settings.json").read_text()
    with pytest.raises(UserError, match="Choose another --output"):
        demo.prepare(tmp_path, counts, quiet=True)
