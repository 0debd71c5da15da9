"""The page about a run: what it shows, and that no name of a stranger becomes a part of it."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from tests.helpers.run_folders import ANSI, HOSTILE, moving_square, write_hostile_run
from tests.helpers.runs import TINY, Make, write_config, write_data
from videovit import cli
from videovit.config import Config, dump_config, load_config
from videovit.data.records import Batch
from videovit.engine import launch
from videovit.engine.evaluation.predictions import write_predictions
from videovit.engine.evaluation.view_ensemble import MultiLabel
from videovit.engine.reporting.json_lines import append_record
from videovit.engine.tasks.explain import Explanation
from videovit.errors import UserError
from videovit.messages import printable
from videovit.report.blocks import Clip, Clips, Section, describe_column, table_of
from videovit.report.charts import line_chart
from videovit.report.clips import draw_clip
from videovit.report.page import render, write_report
from videovit.report.run_files import read_run, worst_mistakes

SECTIONS = "summary curves classes confusion pairs mistakes calibration orders time robustness attention".split()
SECTIONS += "videos config environment".split()


class Page(HTMLParser):
    """Elements of a page, their attributes, and the text of scripts and of everything else."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.anchors: list[str] = []
        self.text = ""
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        self.anchors += [value or "" for name, value in attrs if tag == "section" and name == "id"]
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hostile_run(tmp_path_factory.mktemp("report") / "<i>run")


@pytest.fixture(scope="module")
def mistakes() -> list[Section]:
    frames, heat = moving_square()
    times_s = [i / 8 for i in range(8)]
    found = [Explanation("v", name, 0.5, "gradient", times_s, frames, heat, 1.0) for name in HOSTILE[:2]]
    still, moving = draw_clip(found)
    clip = Clip(printable(ANSI), [("predicted", HOSTILE[0])], still, moving, HOSTILE[:3], HOSTILE[3])
    return [Section("mistakes", "Worst mistakes", [Clips([clip])])]


def test_names_of_strangers_stay_text(folder: Path, mistakes: list[Section]) -> None:
    text = render(read_run(folder), mistakes)
    page = Page(text)
    assert page.anchors == SECTIONS
    # Only what the templates contain: no element or handler came from a name.
    assert page.tags["b"] == page.tags["i"] == 0 and page.tags["style"] == 1
    assert page.tags["img"] == 1  # the clip
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    code, tables = page.scripts[-1], [json.loads(script) for script in page.scripts[:-1]]
    assert "alert" not in code and code.startswith('"use strict"')
    assert "\x1b" not in text and printable("\x1b[31mred") in page.text
    # The data hold the names as they are.
    videos, matrix = (next(t for t in tables if key in t and t["names"]) for key in ("coded", "counts"))
    assert videos["names"] == matrix["names"] == HOSTILE
    for name in HOSTILE[:3]:
        assert name in page.text  # below the clip
    assert page.text.count("<i>run") == 3  # title, heading, path


def test_page_allows_its_own_script_alone(folder: Path) -> None:
    attributes = Page(render(read_run(folder), [])).attributes
    (policy,) = (value for name, value in attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy
    links = [value for name, value in attributes if name in ("src", "href", "action", "data-moving")]
    assert links and all(value.startswith(("#", "data:")) for value in links)


def test_numbers_are_those_of_the_files(folder: Path) -> None:
    run = read_run(folder)
    page = Page(render(run, []))
    assert f"{run.test['top1_acc']:.1f}" in page.text
    (videos,) = (t for t in map(json.loads, page.scripts[:-1]) if len(t.get("rows", [])) == 60)
    columns = [column["name"] for column in videos["columns"]]
    rows = [dict(zip(columns, row, strict=True)) for row in videos["rows"]]
    assert 100 * sum(row["verdict"] == "right" for row in rows) / 60 == pytest.approx(run.test["top1_acc"], abs=1e-4)
    assert all((row["true"] == row["predicted"]) == (row["rank of true"] == 1) for row in rows)
    worst = list(worst_mistakes(run, 3))
    assert [row.video for row in worst] == [row[0] for row in run.errors["worst"]["rows"][:3]]


def test_old_and_broken_files_are_listed_and_left_out(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("config.yaml", "predictions.csv"):
        (copy / name).write_bytes((folder / name).read_bytes())
    (copy / "shuffle_eval.json").write_text("{")
    (copy / "robustness.json").write_text('{"columns": ["a"], "rows": [[1, 2]]}')
    (copy / "use_of_time.json").write_text("[1]")
    (copy / "per_class.csv").write_text("class,number\nx\n")
    run = read_run(copy)
    page = Page(render(run, []))
    # Without errors.json, all but the temperature comes from the predictions.
    assert page.anchors == ["summary", "confusion", "pairs", "calibration", "videos", "config", "unread"]
    assert "The run has not been tested yet" in page.text and "no temperature" in page.text
    for name in ("shuffle_eval.json", "use_of_time.json", "per_class.csv", "Robustness"):
        assert any(text.startswith(name) for text in run.unread)
        assert name in page.text
    with pytest.raises(UserError, match="has no config.yaml"):
        read_run(tmp_path)
    (copy / "config.yaml").write_text("TRAIN:\n  ENABLE: [1")
    run = read_run(copy)
    Page(render(run, []))
    assert [text for text in run.unread if text.startswith("config.yaml")] == [
        "config.yaml: line 3: is not valid YAML: did not find expected ',' or ']'"
    ]


def test_studies_of_other_weights_say_so(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "run")
    tested = {"_type": "test_final", "top1_acc": 90.0, "checkpoint": "/old/place/run/checkpoints/epoch_4.pyth"}
    append_record(copy / "stats.jsonl", tested)
    for name, checkpoint in (("use_of_time", "run/checkpoints/epoch_2<b>.pyth"), ("robustness", "x/epoch_4.pyth")):
        content = json.loads((copy / f"{name}.json").read_text())
        (copy / f"{name}.json").write_text(json.dumps({**content, "checkpoint": checkpoint}))
    text = Page(render(read_run(copy), [])).text
    assert text.count("Other weights than those of the test: ") == 1
    assert "Other weights than those of the test: run/checkpoints/epoch_2<b>.pyth" in text


def test_studies_of_an_earlier_training_of_the_same_name_say_so(tmp_path: Path) -> None:
    """Training again in the same folder gives checkpoints of the same names, but weights with other checksums."""
    data, folder = write_data(tmp_path / "data", num_train=4, num_test=4), tmp_path / "run"
    words = "SOLVER.MAX_EPOCH 1 TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 1 SHUFFLE_EVAL.ORDERS ['reversed'] "
    studies = "SHUFFLE_EVAL.ENABLE True ANALYSIS.ENABLE True USE_OF_TIME.ENABLE True USE_OF_TIME.SPEEDS [] "
    studies += "ROBUSTNESS.ENABLE True ROBUSTNESS.WHAT ['occlusion'] "
    for opts in (studies, "RNG_SEED 7"):
        options = [*(words + opts).split(), "DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", folder]
        launch.run(load_config(write_config(tmp_path, TINY), options))
        run = read_run(folder)
        sums = {study["weights_crc32"] for study in (run.shuffle_eval, run.use_of_time, run.robustness, run.analysis)}
        is_retrained = opts != studies
        assert len(sums) == 1 and (run.test["weights_crc32"] in sums) != is_retrained
        number = Page(render(run, [])).text.count("Other weights than those of the test, of the same name: ")
        assert number == (4 if is_retrained else 0)
        shutil.rmtree(folder / "checkpoints")


def test_summary_of_found_objects(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "run")
    record = {"box_ap": 41.25, "box_ap50": 60.0, "mask_ap": 35.5, "mask_ap50": 55.0, "box_ap_large": None}
    append_record(copy / "stats.jsonl", {"_type": "test_final", "views": "images", **record, "num_videos": 6})
    text = "".join(Page(render(read_run(copy), [])).text.split())
    assert "boxAP41.2%boxAP5060.0%maskAP35.5%maskAP5055.0%videostested6images" in text


def test_run_without_a_test_says_so(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "run")
    lines = (copy / "stats.jsonl").read_text().splitlines(keepends=True)
    (copy / "stats.jsonl").write_text("".join(line for line in lines if "test_final" not in line))
    text = Page(render(read_run(copy), [])).text
    assert "best validation top-1" in text and "The run has not been tested yet" in text


@pytest.mark.parametrize(
    ("column", "value"),
    [("predicted_number", "999999"), ("true_number", "-1"), ("score", "nan"), ("true_score", "inf"), ("video", "-1")],
)
def test_impossible_numbers_of_predictions_are_refused(folder: Path, tmp_path: Path, column: str, value: str) -> None:
    """Class -1 would be shown as the last one, and one class number too many would end the report."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_bytes((folder / "config.yaml").read_bytes())
    (tmp_path / "run/per_class.csv").write_text("class,number,videos\na,0,1\nb,30000,1\n")
    rows = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    rows[0][column] = value
    with open(tmp_path / "run/predictions.csv", "w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    run = read_run(tmp_path / "run")
    assert not run.predictions and run.names == ["a"]
    assert run.unread == [f"predictions.csv: line 2: {column} {value}"]


def test_damaged_errors_file_is_never_replaced(make: Make, folder: Path, tmp_path: Path) -> None:
    """What is read from the videos is added to errors.json, unless that would lose what is in it."""
    cfg = make(tmp_path / "run", "")
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run/config.yaml").write_text(dump_config(cfg))
    header, row, *_ = (folder / "predictions.csv").read_text().splitlines()
    video = Path(cfg.DATA.PATH_TO_DATA_DIR) / (Path(cfg.DATA.PATH_TO_DATA_DIR) / "test.csv").read_text().split()[0]
    cells = next(csv.reader([row]))
    with open(tmp_path / "run/predictions.csv", "w") as file:
        csv.writer(file).writerows([header.split(","), [cells[0], video, *cells[2:]]])
    for content in ('{"calibration": {"ece"', "[]"):
        (tmp_path / "run/errors.json").write_text(content)
        page = write_report(tmp_path / "run", num_mistakes=0)
        assert "errors.json" in page.read_text() and "All videos are alike: length" in page.read_text()
        assert (tmp_path / "run/errors.json").read_text() == content
    (tmp_path / "run/errors.json").unlink()
    write_report(tmp_path / "run", num_mistakes=0)
    assert "by_file" in (tmp_path / "run/errors.json").read_text()


def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    copy, secret = tmp_path / "run", tmp_path / "secret"
    (copy / "analysis").mkdir(parents=True)
    secret.write_text("a password")
    (copy / "config.yaml").symlink_to(secret)
    (copy / "analysis/points_1.png").symlink_to(secret)
    run = read_run(copy)
    text = render(run, [])
    assert "password" not in text and not run.pictures and "base64" not in text
    assert run.unread == ["config.yaml: a link out of the folder of the run"]


def test_several_classes_per_video(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_config(Config()))
    evaluator = MultiLabel(num_videos=40, num_views=1, num_classes=5)
    videos, rng = torch.arange(40), torch.Generator().manual_seed(0)
    labels = (torch.rand(40, 5, generator=rng) < 0.4).float()
    labels[3] = 0
    evaluator.update(torch.rand(40, 5, generator=rng), Batch(torch.empty(40), labels, videos, videos * 0, videos, []))
    worst = write_predictions(
        folder / "predictions.csv", evaluator.predictions_of([f"{v}.mp4" for v in videos]), HOSTILE
    )
    (folder / "errors.json").write_text(json.dumps(evaluator.error_report(HOSTILE, worst)))
    evaluator.write_report(folder, HOSTILE)
    append_record(folder / "stats.jsonl", {"_type": "test_final", **evaluator.result()})
    run = read_run(folder)
    page = Page(render(run, []))
    assert run.unread == []
    assert page.anchors == ["summary", "classes", "pairs", "calibration", "videos", "config"]
    assert "mAP" in page.text and "every class of every video is a decision" in page.text
    (videos_table,) = (t for t in map(json.loads, page.scripts[:-1]) if t["coded"] == [3])
    assert videos_table["rows"][3][2] == "" and videos_table["rows"][3][6] == 0


def test_app_without_gradio_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["app", "--model", "none"]) == 1
    assert 'pip install "videovit[app]"' in capsys.readouterr().err


def test_command_writes_the_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    assert cli.main(["report", str(folder), "--output", str(path), "--no-videos"]) == 0
    assert str(path) in capsys.readouterr().out and path.read_text().startswith("<!doctype html>")
    # The list of the videos is gone: the page is written all the same, and says so.
    assert "videos of the test" in Page(write_report(folder, path).read_text()).text
    assert cli.main(["report", str(folder), "--method", "grad_can"]) == 1
    assert "did you mean grad_cam?" in capsys.readouterr().err


def test_columns_are_described_by_their_cells() -> None:
    assert describe_column("a", ["x", 1]).form == describe_column("a", [None]).form == "text"
    assert describe_column("accuracy (%)", [50.0, None]).form == "percent"
    assert describe_column("drop (%)", [150.0]).form == "number"
    with pytest.raises(ValueError, match="a row is not a list with 1 cells"):
        table_of("t", {"columns": ["a"], "rows": [[1, 2]]})
    with pytest.raises(ValueError, match="dict in a table"):
        table_of("t", {"columns": ["a"], "rows": [[{}]]})
    assert table_of("t", {"columns": ["a"], "rows": [[float("nan")]]}).rows == [[None]]


def test_charts_fit_their_values() -> None:
    chart = line_chart("loss", {"a": [(1.0, 3.0), (2.0, None), (3.0, 1.0)]}, x_label="epoch")
    assert chart is not None and [mark.text for mark in chart.marks] == ["a epoch 1: 3", "a epoch 3: 1"]
    assert chart.marks[0].y < chart.marks[1].y and 0 < chart.marks[0].x < chart.marks[1].x < chart.width
    assert line_chart("nothing", {"a": [(1.0, float("inf"))]}, x_label="") is None
    one = line_chart("one", {"": [(5.0, 0.0)]}, x_label="")
    assert one is not None and len(one.marks) == 1


def test_tables_inside_of_a_file_are_shown(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("config.yaml", "predictions.csv"):
        (copy / name).write_bytes((folder / name).read_bytes())
    inner = {"title": "Reversal per class", "columns": ["class"], "rows": [["grow"]]}
    outer = {"title": "Use of time", "columns": ["clip"], "rows": [["ordered"]], "named": inner, "tables": [inner]}
    (copy / "use_of_time.json").write_text(json.dumps(outer))
    assert Page(render(read_run(copy), [])).text.count("Reversal per class") == 2


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"norun: no such folder"):
        read_run(tmp_path / "norun")
