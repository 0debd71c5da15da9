"""Features in files: equal to those of `Model.features`, through restarts and with several processes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import videovit
from tests.helpers.runs import Make, exit_codes, start_ranks, stats
from videovit.cli import exit_code
from videovit.commands import features as command
from videovit.commands import similar
from videovit.config import Config
from videovit.config.rules import changed
from videovit.data.decode import open_video
from videovit.engine import launch
from videovit.engine.evaluation.read_ahead import read_ahead
from videovit.engine.tasks.feature_files import INDEX, UNREADABLE, FeatureFolder, Layout
from videovit.engine.tasks.predict import Predictor
from videovit.errors import UserError


@pytest.fixture(scope="module")
def run(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Config:
    cfg = make(tmp_path_factory.mktemp("run") / "out", "SOLVER.MAX_EPOCH 1 TRAIN.MAX_STEPS 1 TEST.ENABLE False")
    launch.run(cfg)
    return cfg


@pytest.fixture(scope="module")
def model(run: Config) -> videovit.Model:
    return videovit.load(run.OUTPUT_DIR)


@pytest.fixture(scope="module")
def videos(run: Config) -> list[str]:
    return [str(path) for path in sorted(Path(run.DATA.PATH_TO_DATA_DIR).glob("test*.mp4"))]


@pytest.fixture
def listed(videos: list[str], tmp_path: Path) -> Path:
    """A list of all videos, and one that cannot be read."""
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    path = tmp_path / "list.txt"
    path.write_text("\n".join([*videos[:3], str(tmp_path / "broken.mp4"), *videos[3:]]) + "\n")
    return path


def extract(run: Config, listed: Path | str, output: Path, *words: str) -> FeatureFolder:
    command.main([str(listed), "--model", run.OUTPUT_DIR, "--output", str(output), *words])
    return FeatureFolder(output)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("words", ["", "--format safetensors --per-shard 3 --dtype f16", "--format hdf5 --workers 0"])
def test_row_equals_model_features(
    run: Config, model: videovit.Model, videos: list[str], listed: Path, tmp_path: Path, words: str
) -> None:
    if "hdf5" in words:
        pytest.importorskip("h5py")
    found = extract(run, listed, tmp_path / "out", *words.split())
    records = list(found.records())
    assert [record["path"] for record in records] == videos
    for record in records:
        (row,) = found.rows_of(record)
        expected = model.features(record["path"]).numpy().astype(row.dtype)
        assert row.dtype == ("float16" if "f16" in words else "float32") and np.array_equal(row, expected)
        assert (record["start_s"], record["end_s"], record["fps"]) == ([0.0], [pytest.approx(16 / 30, abs=1e-6)], 30)
    (lost,) = lines(tmp_path / "out" / UNREADABLE)
    assert lost["path"].endswith("broken.mp4") and lost["error"] and lost["video"] == 3
    if not words:
        assert np.load(tmp_path / "out" / records[0]["file"]).shape == (32,)
    elif "f16" in words:
        assert {record["file"] for record in records} == {f"shards/{i:05d}.safetensors" for i in range(3)}
    assert not list((tmp_path / "out" / "parts").glob("*.rows"))


def test_dense_rows_equal_features_of_the_cut_clip(
    run: Config, model: videovit.Model, videos: list[str], tmp_path: Path
) -> None:
    found = extract(run, videos[0], tmp_path / "out", "--window", "0.4", "--stride", "0.1")
    (record,) = found.records()
    rows = found.rows_of(record)
    with open_video(videos[0], "pyav") as video:
        frames = video.frames(np.arange(16))
    # Starts at 0 and 0.1 s, and the last window of 12 frames at frame 4.
    assert record["start_s"] == pytest.approx([0.0, 0.1, 4 / 30], abs=1e-6)
    assert record["end_s"] == pytest.approx([0.4, 0.5, 16 / 30], abs=1e-6)
    for row, start in zip(rows, [0, 3, 4], strict=True):
        assert np.array_equal(row, model.features(frames[start : start + 12], fps=30).numpy())


def test_layers_and_strides_without_a_window(
    run: Config, model: videovit.Model, videos: list[str], tmp_path: Path
) -> None:
    by_clip = extract(run, videos[0], tmp_path / "stride", "--stride", "0.1")
    (record,) = by_clip.records()
    every = videovit.load(run.OUTPUT_DIR, opts=["PREDICT.WINDOW_STRIDE_S", 0.1])
    assert np.array_equal(by_clip.rows_of(record), every.features(videos[0], per_window=True).numpy())
    x = model.preprocess(open_frames(videos[0]), 30)  # two windows of three crops
    for layer in ("tokens", "stage2"):
        maps = extract(run, videos[0], tmp_path / layer, "--layer", layer)
        (record,) = maps.records()
        with torch.inference_mode():
            found = model.torch.forward_features(x)
            tokens = found.tokens_BNC.unflatten(1, found.grid)
            expected = tokens if layer == "tokens" else model.torch.forward_stages(x)[1].movedim(1, -1)
        torch.testing.assert_close(torch.from_numpy(maps.rows_of(record).copy()).flatten(0, 1), expected)
        assert len(record["start_s"]) == 2
    for words, message in [
        (["--layer", "stage3"], "FEATURES.LAYER: no such stage in this model; found 'stage3', expected 1 to 2"),
        (["--layer", "tokens", "--window", "0.5"], "longer than a clip of this model"),
    ]:
        with pytest.raises(UserError, match=message):
            extract(run, videos[0], tmp_path / "refused", *words)


def open_frames(path: str) -> torch.Tensor:
    with open_video(path, "pyav") as video:
        return video.frames(np.arange(video.num_frames))


def test_two_processes_and_a_restart_lose_nothing_and_compute_nothing_twice(
    run: Config, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--format", "safetensors", "--per-shard", "3", "--workers", "0"]
    whole = extract(run, listed, tmp_path / "whole", *words)
    computed: list[str] = []
    open_one = Predictor.open

    def killed(self: Predictor, source: Any, fps: float, name: str) -> Any:
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(name)
        return open_one(self, source, fps, name)

    monkeypatch.setattr(Predictor, "open", killed)
    with pytest.raises(KeyboardInterrupt):
        extract(run, listed, tmp_path / "out", *words)
    # What a power cut may leave: rows without their line, and half a line.
    with open(tmp_path / "out/parts/00000.rows", "ab") as rows:
        rows.write(b"half a row")
    with open(tmp_path / "out/parts/00000.open.jsonl", "ab") as file:
        file.write(b'{"video": 2, "pa')
    with pytest.raises(UserError, match="is not finished there"):
        FeatureFolder(tmp_path / "out")
    monkeypatch.setattr(Predictor, "open", open_one)
    opts = Path(run.OUTPUT_DIR), str(listed)
    cfg = command.config_of_model(str(opts[0]), [*command.only("FEATURES"), "DATA_LOADER.NUM_WORKERS", "0"])
    given = {"VIDEOS": (opts[1],), "FORMAT": "safetensors", "PER_SHARD": 3}
    own = {f"FEATURES.{name}": value for name, value in given.items()}
    cfg = changed(cfg, {**own, "OUTPUT_DIR": str(tmp_path / "out"), "DATA.PATH_PREFIX": ""})
    assert exit_codes(start_ranks(cfg, 2)) == [0, 0]
    resumed = FeatureFolder(tmp_path / "out")
    for one, two in itertools.zip_longest(whole.records(), resumed.records()):
        assert one == two and np.array_equal(whole.rows_of(one), resumed.rows_of(two))
    # The first process had blocks 0 and 2 of three, and two videos of block 0 were there.
    assert len(computed) == 2 and stats(tmp_path / "out", "features")[-1]["videos"] == 1 + 2
    lost = [lines(folder / UNREADABLE) for folder in (tmp_path / "whole", tmp_path / "out")]
    assert lost[0] == lost[1]
    before = (tmp_path / "out" / INDEX).read_bytes()
    monkeypatch.setattr(Predictor, "open", killed)  # a complete folder needs no video
    assert extract(run, listed, tmp_path / "out", *words) and (tmp_path / "out" / INDEX).read_bytes() == before
    with pytest.raises(UserError, match="holds other features: layer was 'pooled', and is 'tokens' now"):
        extract(run, listed, tmp_path / "out", *words, "--layer", "tokens")


def test_names_of_files_are_below_their_folder_and_differ() -> None:
    paths = ["/data/a/x.mp4", "/data/a/x.avi", "/data/b/x.mp4", "/data/b/y.mp4"]
    layout = Layout(
        folder=Path("out"), paths=paths, format="npy", dtype="f32", row_shape=(3,), one_row=True, per_block=2
    )
    names = ["a/x.mp4", "a/x.avi", "b/x", "b/y"]
    assert [layout.names(path) for path in paths] == [f"videos/{name}.npy" for name in names]


def test_reading_ahead_keeps_order_and_raises_errors() -> None:
    def read(source: int) -> Generator[tuple[int, int], None, None]:
        for i in range(3):
            if source == 9:
                raise UserError("nine")
            yield source, i

    found = list(read_ahead(range(8), read, num_threads=3, room=2))
    assert sorted(found) == [(s, i) for s in range(8) for i in range(3)]
    assert all([i for s, i in found if s == source] == [0, 1, 2] for source in range(8))
    with pytest.raises(UserError, match="nine"):
        list(read_ahead(iter([1, 9, 2]), read, num_threads=2, room=1))
    endless: Iterator[int] = itertools.count(10)
    assert next(iter(read_ahead(endless, read, num_threads=2, room=1)))  # leaving it early ends the threads


@pytest.mark.parametrize("words", ["", "--window 0.3 --format safetensors --per-shard 3"])
def test_similar_equals_brute_force(
    run: Config, videos: list[str], listed: Path, tmp_path: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = extract(run, listed, tmp_path / "out", *words.split())
    monkeypatch.setattr("videovit.engine.tasks.similar.ROWS_AT_ONCE", 2)
    rows = [found.rows_of(record).astype(np.float64) for record in found.records()]
    query = rows[1].mean(axis=0)
    scores = [max(row @ query / np.linalg.norm(row) / np.linalg.norm(query) for row in own) for own in rows]
    best = [i for i in np.argsort(scores)[::-1] if i != 1][:3]
    outside = tmp_path / "copy.mp4"
    outside.write_bytes(Path(videos[1]).read_bytes())
    for name, first in (("1", []), (str(outside), [1])):
        json_file, picture = tmp_path / "similar.json", tmp_path / "similar.png"
        options = ["--features", str(tmp_path / "out"), "--top", str(3 + len(first)), "--json", str(json_file)]
        similar.main([name, *options, "--picture", str(picture)])
        listing = json.loads(json_file.read_text())["similar"]
        assert [one["path"] for one in listing] == [videos[i] for i in [*first, *best]]
        assert [one["similarity"] for one in listing] == pytest.approx([scores[i] for i in [*first, *best]], abs=1e-5)
        assert Image.open(picture).size[0] > 300
    with pytest.raises(UserError, match="neither a video of the index nor a file"):
        similar.main(["absent.mp4", "--features", str(tmp_path / "out")])


def test_mistakes_are_named(run: Config, videos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(UserError, match="none of the videos could be read"):
        extract(run, str(broken), tmp_path / "none")
    with pytest.raises(UserError, match=r"has no features.json; expected the --output of videovit features"):
        similar.main([videos[0], "--features", str(tmp_path)])
    extract(run, videos[0], tmp_path / "maps", "--layer", "stage1")
    with pytest.raises(UserError, match="holds maps, which are not compared"):
        similar.main([videos[0], "--features", str(tmp_path / "maps")])
    damaged = tmp_path / "maps" / INDEX
    damaged.write_text(damaged.read_text() + "{\n")
    with pytest.raises(UserError, match=r"index.jsonl:2: a damaged line"):
        list(FeatureFolder(tmp_path / "maps").records())
    assert exit_code(lambda: extract(run, "absent.txt", tmp_path / "absent") and None) == 1
    assert "absent.txt" in capsys.readouterr().err
