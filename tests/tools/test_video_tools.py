"""`videovit probe` and `videovit reencode`, and tools/benchmark_decode.py: reports and new files."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.helpers.runs import run_tool
from tests.helpers.videos import copy_packets, read_barcodes, rotate, show_by, write_list, write_video
from videovit.data.decode import open_video
from videovit.data.files.listed_paths import quote, split_line
from videovit.data.files.video_files import ListedVideo, find_videos
from videovit.data.records import AnnotationError

Numbered = Callable[..., Path]


@pytest.fixture
def folder(numbered: Numbered, tmp_path: Path) -> Path:
    """A folder with all sorts of videos and a list of them."""
    (tmp_path / "sub").mkdir()
    whole = write_video(tmp_path / "closed one.mp4", num_frames=40, size=(128, 96))
    write_video(tmp_path / "open.mkv", num_frames=40, open_gop=True)
    copy_packets(whole, tmp_path / "sub" / "cut.mp4", first_frame=17)
    rotate(write_video(tmp_path / "turned.mov", num_frames=10, size=(96, 64)), 90)
    write_video(tmp_path / "old.avi", codec="mpeg4", num_frames=30)
    write_video(tmp_path / "vfr.mp4", num_frames=30, pts=[number + number // 7 * 5 for number in range(30)])
    (tmp_path / "text.mp4").write_text("this is no video\n" * 99)
    names = ["closed one.mp4", "open.mkv", "sub/cut.mp4", "turned.mov", "old.avi", "vfr.mp4", "text.mp4"]
    write_list(tmp_path / "list.csv", [(name, label) for label, name in enumerate(names)])
    return tmp_path


def test_probe(folder: Path) -> None:
    out = folder / "out"
    out.mkdir()
    done = run_tool(
        "probe_videos.py", folder / "list.csv", "--csv", out / "a.csv", "--json", out / "a.json", check=False
    )
    assert done.returncode == 1
    assert "1 of 7 videos cannot be read" in done.stderr and "Traceback" not in done.stderr
    assert "pyav (key frames that others refer across)" in done.stdout
    assert "damaged, or not a video file" in done.stdout
    rows = {Path(row["path"]).name: row for row in json.loads((out / "a.json").read_text())}
    assert len(rows) == 7
    assert (rows["closed one.mp4"]["width"], rows["closed one.mp4"]["height"]) == (128, 96)
    assert rows["closed one.mp4"]["gop"] == 10.0 and rows["closed one.mp4"]["fps"] == 30.0
    assert rows["open.mkv"]["open_gop"] and not rows["closed one.mp4"]["open_gop"]
    assert rows["cut.mp4"]["edit_list"] and rows["cut.mp4"]["num_frames"] == 23
    assert rows["vfr.mp4"]["variable_fps"] and not rows["closed one.mp4"]["variable_fps"]
    assert rows["closed one.mp4"]["unusual"] == "" and rows["closed one.mp4"]["start_s"] == 0
    assert "not evenly spaced" in rows["vfr.mp4"]["unusual"] and "not evenly spaced" in done.stdout
    assert rows["old.avi"]["codec"] == "mpeg4" and rows["old.avi"]["num_frames"] == 30
    assert rows["text.mp4"]["error"] and not rows["text.mp4"]["codec"]
    assert all(row["clip_ms"] > 0 for name, row in rows.items() if name != "text.mp4")
    with open(out / "a.csv", newline="", encoding="utf-8") as file:
        assert {Path(row["path"]).name: row["served_by"] for row in csv.DictReader(file)} == {
            name: row["served_by"] for name, row in rows.items()
        }


def test_members_of_shards_are_probed_and_encoded_like_files(tmp_path: Path) -> None:
    from videovit.commands import pack

    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "a.mp4", num_frames=20)
    write_video(videos / "b.mkv", num_frames=20, open_gop=True)
    write_list(tmp_path / "list.csv", [("a.mp4", 0), ("b.mkv", 1)])
    words = [str(tmp_path / "list.csv"), "--prefix"]
    pack.main([*words, str(videos), "--output", str(tmp_path / "shards")])
    rows: list[list[dict[str, object]]] = []
    for prefix in (str(videos), f"shards:{tmp_path}/shards"):
        run_tool("probe_videos.py", *words, prefix, "--json", tmp_path / "probes.json")
        rows.append(json.loads((tmp_path / "probes.json").read_text()))
        run_tool("reencode_videos.py", *words, prefix, "--output", tmp_path / f"new{len(rows)}")
    for of_file, of_member in zip(*rows, strict=True):
        assert of_member.pop("path") == f"shards:{tmp_path}/shards/{Path(str(of_file.pop('path'))).name}"
        assert of_file.pop("clip_ms") and of_member.pop("clip_ms")
        assert of_file == of_member
    for name in ("a.mp4", "b.mp4"):  # their headers hold the time of day
        with open_video(tmp_path / "new1" / name) as one, open_video(tmp_path / "new2" / name) as other:
            assert np.array_equal(one.frames(np.arange(20)), other.frames(np.arange(20)))


@pytest.mark.parametrize("fastdecode", [False, True])
def test_reencode(folder: Path, tmp_path: Path, fastdecode: bool) -> None:
    out = tmp_path / "new"
    arguments = [folder / "list.csv", "--output", out, "--short-side", 48, "--gop", 8, "--preset", "veryfast"]
    arguments += ["--fastdecode"] if fastdecode else []
    done = run_tool("reencode_videos.py", *arguments, check=False)
    assert done.returncode == 1
    assert "1 of 7 videos were not encoded" in done.stderr and "text.mp4" in done.stderr
    assert "6 videos encoded" in done.stdout and "times as quick" in done.stdout
    assert not list(out.rglob("*.part"))
    assert (out / "videos.csv").read_text().splitlines() == [
        "closed one.mp4 0",
        "open.mp4 1",
        "sub/cut.mp4 2",
        "turned.mp4 3",
        "old.mp4 4",
        "vfr.mp4 5",
    ]
    for name, numbers, size in [
        ("closed one.mp4", range(40), (48, 64)),
        ("open.mp4", range(40), (48, 64)),
        ("sub/cut.mp4", range(17, 40), (48, 64)),
        ("old.mp4", range(30), (48, 64)),
        ("vfr.mp4", range(30), (48, 64)),
    ]:
        with open_video(out / name) as video:
            frames = video.frames(np.arange(video.num_frames))
            assert video.served_by == "decord"
        assert frames.shape[1:3] == size and read_barcodes(frames) == list(numbers), name
    with open_video(out / "turned.mp4") as video:
        frames = video.frames(np.arange(10))
    assert frames.shape == (10, 72, 48, 3)
    assert read_barcodes(np.rot90(frames.numpy(), 1, axes=(1, 2))) == list(range(10))
    with av.open(str(out / "closed one.mp4")) as new:
        keys = [packet.is_keyframe for packet in new.demux(video=0) if packet.size]
        assert [place for place, key in enumerate(keys) if key] == [0, 8, 16, 24, 32]
    times = []
    for path in (folder / "vfr.mp4", out / "vfr.mp4"):
        with av.open(str(path)) as video_file:
            times.append([round(frame.time, 3) for frame in video_file.decode(video=0)])
    assert times[0] == times[1]


def test_reencoding_keeps_the_colors(tmp_path: Path) -> None:
    """HD video has another matrix than the standard definition one that is assumed where none is named."""
    kinds = {"hd.mp4": ("yuv420p", "colormatrix=bt709"), "full.mp4": ("yuvj420p", "fullrange=on:colormatrix=bt709")}
    for name, (pix_fmt, params) in kinds.items():
        with av.open(str(tmp_path / name), "w") as file:
            stream = file.add_stream("libx264", rate=10, options={"crf": "5", "x264-params": params})
            stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
            levels = np.concatenate([np.full(64 * 48, 80), np.full(32 * 24, 90), np.full(32 * 24, 180)]).astype(
                np.uint8
            )
            frame = av.VideoFrame.from_ndarray(levels.reshape(72, 64), format=pix_fmt)
            file.mux([*stream.encode(frame), *stream.encode(None)])
    run_tool("reencode_videos.py", tmp_path, "--output", tmp_path / "new", "--crf", "5")
    for name in kinds:
        for backend in ("pyav", "decord"):
            with open_video(tmp_path / name, backend) as old, open_video(tmp_path / "new" / name, backend) as new:
                colors = [video.frames(np.array([0]))[0, 20, 20].int() for video in (old, new)]
            assert (colors[0] - colors[1]).abs().max() <= 2, (name, colors)


@pytest.mark.parametrize("matrix", [(-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (0, 1, 1, 0)])
def test_reencoded_videos_are_upright(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    show_by(write_video(tmp_path / "a.mp4", num_frames=2), matrix)
    run_tool("reencode_videos.py", tmp_path / "a.mp4", "--output", tmp_path / "new", "--crf", 1)
    with open_video(tmp_path / "a.mp4", "pyav") as old, open_video(tmp_path / "new" / "a.mp4") as new:
        assert new.served_by == "decord"  # no matrix any more
        assert (old.frames(np.array([1])).int() - new.frames(np.array([1])).int()).abs().float().mean() < 2


def test_reencoding_continues(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    arguments = [folder / "closed one.mp4", folder / "open.mkv", "--output", out, "--preset", "ultrafast"]
    out.mkdir()
    (out / "open.mp4.part").write_bytes(b"half a file")
    assert "2 videos encoded" in run_tool("reencode_videos.py", *arguments).stdout
    before = (out / "open.mp4").stat().st_mtime_ns
    (out / "closed one.mp4").unlink()
    done = run_tool("reencode_videos.py", *arguments)
    assert "1 video encoded" in done.stdout and "1 existed already" in done.stdout
    assert (out / "open.mp4").stat().st_mtime_ns == before
    assert sorted(path.name for path in out.iterdir()) == ["closed one.mp4", "open.mp4", "videos.csv"]


def test_benchmark_skips_videos_a_library_cannot_read(tmp_path: Path) -> None:
    write_video(tmp_path / "plain.mp4", num_frames=8)
    write_video(tmp_path / "new.mp4", num_frames=8, codec="libsvtav1")
    done = run_tool(
        "benchmark_decode.py", tmp_path, "--rounds", 1, "--views", 1, "--late", "--json", tmp_path / "a.json"
    )
    rows = {row["way"]: row for row in json.loads((tmp_path / "a.json").read_text())}
    assert rows["ours, decord (default)"]["num_clips"] == (1 if "decord" in rows else 2)
    assert ("left out, decord cannot read it" in done.stderr) == ("decord" in rows)


def test_colliding_new_files_are_refused(folder: Path, tmp_path: Path) -> None:
    write_video(folder / "open.mp4", num_frames=3)
    done = run_tool("reencode_videos.py", folder, "--output", tmp_path / "new", check=False)
    assert done.returncode == 1 and "would both become" in done.stderr
    before = (folder / "vfr.mp4").read_bytes()
    done = run_tool("reencode_videos.py", folder / "vfr.mp4", "--output", folder, check=False)
    assert done.returncode == 1 and "vfr.mp4 is one of the videos to encode" in done.stderr
    assert (folder / "vfr.mp4").read_bytes() == before


@pytest.mark.parametrize(
    ("tool", "wrong"),
    [("probe_videos.py", ["--workers", 0]), ("reencode_videos.py", ["--output", "x", "--preset", "fastest"])],
)
def test_wrong_arguments_are_refused(tool: str, wrong: list[object], tmp_path: Path) -> None:
    done = run_tool(tool, tmp_path, *wrong, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr and str(wrong[-2]) in done.stderr


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_video(tmp_path / "a" / "plain.mp4", num_frames=2).rename(tmp_path / "a" / os.fsdecode(b"m\xe4dchen.mp4"))
    run_tool("probe_videos.py", tmp_path, "--csv", tmp_path / "a.csv", "--json", tmp_path / "a.json")
    assert "dchen.mp4,h264" in (tmp_path / "a.csv").read_text()
    done = run_tool("reencode_videos.py", tmp_path, "--output", tmp_path / "new", check=False)
    assert done.returncode == 1 and "not UTF-8; rename it" in done.stderr and "Traceback" not in done.stderr


def test_lists_are_read_as_in_training(folder: Path, tmp_path: Path) -> None:
    name = 'of "a", \u2028b,.mp4'
    (folder / "open.mkv").rename(folder / name)
    (folder / "odd.csv").write_text(f"{quote(name)} 3\n" + '"closed one.mp4","4"\nvfr.mp4\n', encoding="utf-8-sig")
    assert find_videos([str(folder / "odd.csv")]) == [
        ListedVideo(str(folder / name), name, "3"),
        ListedVideo(str(folder / "closed one.mp4"), "closed one.mp4", "4"),
        ListedVideo(str(folder / "vfr.mp4"), "vfr.mp4"),
    ]


@pytest.mark.parametrize("name", ["a b.mp4", '"a" b.mp4', '"a".mp4', "a,.mp4", " a.mp4", "a ,", "a", "ü\u3000"])
def test_quoted_paths_are_read_back(name: str) -> None:
    assert split_line(f"{quote(name)} 3", " ") == (name, "3")


def test_find_videos(folder: Path) -> None:
    listed = find_videos([str(folder / "list.csv"), str(folder / "open.mkv")])
    assert [video.written for video in listed][:2] == ["closed one.mp4", "open.mkv"] and len(listed) == 7
    assert listed[2] == ListedVideo(str(folder / "sub/cut.mp4"), "sub/cut.mp4", "2")
    assert len(find_videos([str(folder)])) == 7
    (folder / "._closed one.mp4").write_bytes(b"what macOS leaves beside a file")
    (folder / "linked").symlink_to(folder / "sub")
    (folder / "sub" / "up").symlink_to(folder)
    found = [video.written for video in find_videos([str(folder)])]
    assert found[:2] == ["closed one.mp4", "linked/cut.mp4"] and len(found) == 8
    assert find_videos([str(folder / "list.csv")], prefix="/data")[0].path == "/data/closed one.mp4"
    (folder / "empty").mkdir()
    with pytest.raises(AnnotationError, match="no videos in"):
        find_videos([str(folder / "empty")])
    with pytest.raises(AnnotationError, match="none.csv"):
        find_videos([str(folder / "none.csv")])


def test_probe_folder_tries_other_suffixes(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", num_frames=20)
    write_video(tmp_path / "b.mkv", num_frames=20).rename(tmp_path / "b.film")
    (tmp_path / "notes.md").write_text("no video\n" * 100)
    (tmp_path / "a.jpg").touch()
    done = run_tool("probe_videos.py", tmp_path, "--csv", tmp_path / "out.csv")
    assert "b.film: h264; folders are searched for other suffixes" in done.stderr
    assert "notes.md: damaged" in done.stderr and "1 file left out: .jpg (1: a.jpg)" in done.stderr
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        assert [Path(row["path"]).name for row in csv.DictReader(file)] == ["a.mp4", "b.film"]
