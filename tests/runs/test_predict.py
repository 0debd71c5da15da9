"""The command `videovit predict` as a whole: models, files, streams, outputs, and mistakes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from tests.helpers.ava_data import write_ava
from tests.helpers.project import ROOT
from tests.helpers.runs import TINY, run_tool, write_config
from tests.helpers.streams import feed, serve
from tests.helpers.videos import write_video
from videovit.commands import predict
from videovit.config import dump_config, load_config
from videovit.engine.tasks.people import FINDERS
from videovit.engine.tasks.prediction_files import COLUMNS
from videovit.errors import UserError
from videovit.models import build_model
from videovit.models.zoo import class_names, find


def write_run(folder: Path, config: Path) -> Path:
    """The OUTPUT_DIR of a run, with random weights."""
    cfg = load_config(config)
    torch.manual_seed(0)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(cfg))
    state = {"epoch": 0, "model_state": build_model(cfg).state_dict()}
    torch.save(state, folder / "checkpoints" / "checkpoint_epoch_00001.pyth")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return write_run(folder / "out", write_config(folder, TINY))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.ts", num_frames=60)


def json_of(*words: object, folder: Path) -> list[dict[str, Any]]:
    """Run the command in this process; returns its JSON list."""
    out = folder / "p.json"
    predict.main([*map(str, words), "--json", str(out)])
    found: list[dict[str, Any]] = json.loads(out.read_text())
    return found


def test_model_needs_no_config_and_predicts_the_same(run: Path, video: Path, tmp_path: Path) -> None:
    (by_model,) = json_of(video, "--model", run, folder=tmp_path)
    (by_config,) = json_of("--cfg", run / "config.yaml", "--checkpoint", run, video, folder=tmp_path)
    assert by_model == by_config and len(by_model["windows"]) == 8 and len(by_model["top"]) == 3
    (other,) = json_of(
        video, "--model", run, "--opts", "PREDICT.TOP_K", 1, "PREDICT.WINDOW_STRIDE_S", 1, folder=tmp_path
    )
    assert len(other["top"]) == 1 and [w["start_s"] for w in other["windows"]] == pytest.approx([0, 1, 52 / 30])


def test_default_model_is_in_the_zoo_and_has_names(run: Path, video: Path, tmp_path: Path, monkeypatch: Any) -> None:
    entry = find(predict.DEFAULT_MODEL)
    assert entry.config == "Kinetics/MVITv2_S_16x4" and len(class_names(entry) or ()) == 400
    monkeypatch.setattr(predict, "DEFAULT_MODEL", str(run))
    assert json_of(video, folder=tmp_path) == json_of(video, "--model", run, folder=tmp_path)


@pytest.mark.parametrize(
    ("options", "replaced"),
    [
        (["--csv", "{video}"], "{video}"),
        (["--json", "link.json"], "{video}"),  # a link to the video
        (["--json", "t", "--csv", "./t"], "the file of --json"),
        (["--annotate", "copy.mp4", "--json", "copy.mp4"], "copy.mp4"),
    ],
)
def test_output_that_would_replace_an_input_or_an_output_refused(
    run: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], replaced: str
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "videos" / "a.ts"
    own.parent.mkdir()
    own.write_bytes(video.read_bytes())
    Path("link.json").symlink_to(own)
    options = [word.format(video=own) for word in options]
    with pytest.raises(UserError, match=f"would replace {replaced.format(video=own)}; expected another name"):
        predict.main([str(own.parent), "--model", str(run), *options])
    assert own.read_bytes() == video.read_bytes()


def test_unwritable_json_list_fails_before_predicting(
    run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"p\.json: could not be written"):
        predict.main([str(video), "--model", str(run), "--json", str(tmp_path / "file/p.json")])
    assert not capsys.readouterr().out


def test_folder_with_all_outputs(run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    (folder / "one.ts").write_bytes(video.read_bytes())
    (folder / "=bad\x1b.mp4").write_bytes(b"no video")
    words = [str(folder), "--model", str(run), "--csv", str(out / "t.csv"), "--annotate", str(out / "copies")]
    with pytest.raises(UserError, match="1 of 2 videos could not be read"):
        predict.main([*words, "--json", str(out / "t.jsonl")])
    shown = capsys.readouterr()
    assert "score %" in shown.out and "written, without sound" in shown.err and "\x1b" not in shown.out + shown.err
    assert [path.name for path in (out / "copies").iterdir()] == ["one.mp4"]
    bad, good = (json.loads(line) for line in (out / "t.jsonl").read_text().splitlines())
    assert bad.keys() == {"path", "error"} and len(good["windows"]) == 8
    rows = list(csv.DictReader((out / "t.csv").open(newline="")))
    assert tuple(rows[0]) == COLUMNS and "damaged" in rows[0]["error"]
    rows = rows[1:]
    assert [row["window"] for row in rows[:6]] == ["", "", "", "1", "1", "1"] and len(rows) == 3 + 8 * 3
    assert [row["rank"] for row in rows[:3]] == ["1", "2", "3"] and rows[3]["start_s"] == "0.000"
    assert float(rows[0]["score"]) == pytest.approx(good["top"][0]["score"], abs=1e-6)
    assert rows[0]["class"] == good["top"][0]["class"]


def test_streams_predict_what_files_do(run: Path, video: Path, tmp_path: Path) -> None:
    """File, named pipe, standard input, and a live address."""
    (expected,) = json_of(video, "--model", run, folder=tmp_path)

    def check(lines: list[str]) -> None:
        windows = [json.loads(line) for line in lines]
        assert [window["window"] for window in windows] == list(range(1, 9))
        assert all(window["delay_s"] >= 0 and window["skipped"] == 0 for window in windows)
        for one, two in zip(windows, expected["windows"], strict=True):
            assert (one["start_s"], one["end_s"]) == (pytest.approx(two["start_s"]), pytest.approx(two["end_s"]))
            assert {c["class"]: c["score"] for c in one["top"]} == pytest.approx(
                {c["class"]: c["score"] for c in two["top"]}, abs=1e-6
            )

    out = tmp_path / "lines.json"
    predict.main([feed(tmp_path, video.read_bytes()), "--model", str(run), "--json", str(out)])
    check(out.read_text().splitlines())
    command = [sys.executable, "-m", "videovit", "predict", "-", "--model", str(run), "--json", "-"]
    with video.open("rb") as stdin:
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "stdin: the stream ended after 8 windows" in done.stderr
    check(done.stdout.splitlines())
    with serve(video, seconds=0.5) as url:
        predict.main([url, "--model", str(run), "--json", str(out)])
    check(out.read_text().splitlines())


def test_ctrl_c_ends_a_stream_and_keeps_what_was_found(run: Path, video: Path, tmp_path: Path) -> None:
    pipe, table = tmp_path / "pipe", tmp_path / "t.csv"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "videovit", "predict", str(pipe), "--model", str(run), "--csv", str(table)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    with pipe.open("wb") as writer:  # stays open: the stream goes on
        # More than is read at once to find out what it holds; times go back in between.
        for _ in range(3):
            writer.write(video.read_bytes())
        writer.flush()
        assert process.stdout is not None
        line = process.stdout.readline()  # comes while the stream goes on
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert "class" in line and "delay" in line
    assert process.returncode == 130 and "stopped after" in err and "Traceback" not in err
    assert "class" in table.read_text().splitlines()[1]


def test_mistakes_are_explained(run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(run)]
    detector = write_run(tmp_path / "ava_run", write_ava(tmp_path / "ava", num_train=0, num_val=0))
    for arguments, message in (
        (["-", str(video), *words], "stdin: a stream is predicted alone"),
        (["rtsp://a:b@c/d", "--annotate", "x.mp4", *words], "a stream cannot be annotated. Record a part"),
        ([str(video), "--people", *words], "this model classifies whole videos, not people; --people needs a detector"),
        ([str(video), "--model", str(detector)], "videovit predict --people finds people"),
        ([str(video), "--model", str(tmp_path / "absent")], "no such model"),
        (
            [str(video), *words, "--opts", "MODEL.NUM_CLASSES", "4"],
            "MODEL belongs to the model, which is loaded already",
        ),
        ([str(tmp_path / "absent.mp4"), *words], "1 of 1 video could not be read"),
    ):
        with pytest.raises(UserError, match=message):
            predict.main(arguments)
    for arguments, message in (
        ([str(video), "--cfg", "a.yaml"], "--cfg needs --checkpoint"),
        ([str(video), "--cfg", "a.yaml", "--model", "b"], "--model brings its own config"),
        ([str(video), "--people"], "--people needs a detector (--model): the default model classifies whole videos"),
        ([str(video), "--person-score", "2"], "--person-score: found 2, expected 0 to 1"),
        ([str(video), "--json", "-", "--csv", "-"], "cannot both be standard output"),
    ):
        with pytest.raises(SystemExit):
            predict.main(arguments)
        assert message in capsys.readouterr().err


def test_people_are_labeled_in_all_outputs(tmp_path: Path) -> None:
    """The command with the real person detector; random weights find nobody, or anything."""

    detector = write_run(tmp_path / "run", write_ava(tmp_path / "ava", num_train=0, num_val=0))
    network = torchvision.models.get_model(FINDERS["fast"], weights=None, weights_backbone=None)
    network.roi_heads.box_predictor.cls_score.bias.data[1] = 5.0
    torch.save(network.state_dict(), tmp_path / "finder.pth")
    video = write_video(tmp_path / "a.mp4", num_frames=8, fps=10, size=(96, 64))
    words = [
        video,
        "--model",
        detector,
        "--people",
        "--person-finder",
        "fast",
        "--person-weights",
        tmp_path / "finder.pth",
    ]
    words += ["--person-score", "0.5", "--csv", tmp_path / "p.csv", "--annotate", tmp_path / "b.mp4"]
    done = run_tool("predict.py", *words, "--json", tmp_path / "p.json")
    (found,) = json.loads((tmp_path / "p.json").read_text())
    people = [person for window in found["windows"] for person in window["people"]]
    assert people and all(len(person["box"]) == 4 and person["score"] >= 0.5 for person in people)
    rows = list(csv.DictReader((tmp_path / "p.csv").open(newline="")))
    assert {row["person"] for row in rows} == {"", *map(str, range(1, len(people) + 1))}
    assert (tmp_path / "b.mp4").stat().st_size > 0 and "found %" in done.stdout and "red" in done.stdout
