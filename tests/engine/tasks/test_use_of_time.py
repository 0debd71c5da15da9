"""The study of the use of time: which frames a model gets at which change, and what is reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.helpers.bare_model import BareModel
from tests.helpers.runs import Make, stats
from tests.helpers.videos import write_list, write_video
from videovit.config import Config, dump_config, load_config
from videovit.engine.exported.engines import ENGINES
from videovit.engine.launch import run
from videovit.engine.tasks import use_of_time as task
from videovit.errors import UserError

RISING, FALLING, STILL = range(3)
NUM_FRAMES = 33
OPTIONS = "TRAIN.ENABLE False TEST.ENABLE False USE_OF_TIME.ENABLE True DATA.NUM_FRAMES 8 DATA.SAMPLING_RATE 2 "
OPTIONS += "TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 1 DATA.TARGET_FPS 30 DATA.CLASS_NAMES_FILE names.json "
OPTIONS += "SHUFFLE_EVAL.CLASS_GROUPS_FILE groups.json"


class Gaze(BareModel):
    """Sees whether brightness rises or falls from the first to the last frame that is not of the mean color."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[Tensor] = []

    def _logits(self, x_BCTHW: Tensor) -> Tensor:
        light_BT = x_BCTHW.mean((1, 3, 4))
        self.seen.append(light_BT)
        rises = []
        for light_T in light_BT:
            shown = light_T[light_T != 0]
            rises.append(shown[-1] - shown[0])
        rise_B = torch.stack(rises)
        return torch.stack([rise_B, -rise_B, torch.full_like(rise_B, 0.1)], dim=1)

    def layers(self) -> Sequence[Sequence[nn.Module]]:
        return []


@pytest.fixture(scope="module")
def cfg(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Videos that get brighter, or darker, or do not change; frame t differs from the one before by 6."""
    folder = tmp_path_factory.mktemp("light")
    rows: list[tuple[str | Path, int]] = []
    for i in range(6):
        label = i % 3

        def draw(frame: int, label: int = label) -> np.ndarray:
            level = {RISING: 30 + 6 * frame, FALLING: 222 - 6 * frame, STILL: 60}[label]
            return np.full((32, 32, 3), level, dtype=np.uint8)

        path = folder / f"{i}.mp4"
        write_video(path, num_frames=NUM_FRAMES, size=(32, 32), draw=draw)
        rows.append((path.name, label))
    write_list(folder / "test.csv", rows)
    names = {"ri$e": RISING, "<b>fall": FALLING, "still": STILL}
    (folder / "names.json").write_text(json.dumps(names))
    (folder / "groups.json").write_text(json.dumps({"motion": ["ri$e", "<b>fall"]}))
    base = make(folder / "run", OPTIONS)
    (folder / "run").mkdir(exist_ok=True)
    torch.save({"model_state": Gaze().state_dict()}, folder / "weights.pyth")
    (folder / "base.yaml").write_text(dump_config(base))
    paths = ["DATA.PATH_TO_DATA_DIR", str(folder), "TEST.CHECKPOINT_FILE_PATH", str(folder / "weights.pyth")]
    return load_config(folder / "base.yaml", paths)


def test_model_that_reads_time_is_found_out(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Gaze()
    monkeypatch.setattr(task, "build_seeded_model", lambda cfg, device: model)
    monkeypatch.setitem(ENGINES, "torch", lambda model, dtype: model)
    result = run(cfg)["use_of_time"]
    assert result["ordered_top1_acc"] == 100
    assert result["reversed_top1_acc"] == pytest.approx(100 / 3)  # only what is still
    assert result["static_top1_acc"] == pytest.approx(100 / 3)
    assert all(result[f"{name}_top1_acc"] == 100 for name in ("every2", "covered1of4", "covered4of4", "speed x0.5"))

    found = json.loads((Path(cfg.OUTPUT_DIR) / "use_of_time.json").read_text())
    columns = found["columns"]
    rows = {row[0]: dict(zip(columns, row, strict=True)) for row in found["rows"]}
    expected = ["ordered", "reversed", "shuffled", "static", "every2", "every4"]
    expected += [*(f"covered{i}of4" for i in (1, 2, 3, 4)), "speed x0.5", "speed x2"]
    assert list(rows) == expected
    assert rows["reversed"]["drop (points)"] == pytest.approx(200 / 3) and rows["ordered"]["drop (points)"] is None
    assert rows["reversed"]["top-1 of motion (%)"] == 0 and rows["shuffled"]["seeds"] == 3
    assert rows["shuffled"]["published drop: MViT-B 16x4 (points)"] == 7.1
    same = "frames like the one before (%)"
    assert rows["static"][same] == 100
    # Of eight frames three pairs, and of the still third all; at twice the speed the video ends before the clip.
    assert rows["ordered"][same] == pytest.approx(100 / 3)
    assert rows["every2"][same] == pytest.approx(100 * (2 * 4 / 7 + 1) / 3)
    assert rows["speed x2"][same] == pytest.approx(100 / 3)  # 32 of 33 frames
    (reversal,) = found["tables"]
    assert {row[0]: row[1:] for row in reversal["rows"]} == {
        "ri$e": [100, 0, 100, "<b>fall", 100],
        "<b>fall": [100, 0, 100, "ri$e", 100],
        "still": [100, 100, 0, "still", 100],
    }
    with Image.open(Path(cfg.OUTPUT_DIR) / "use_of_time.png") as picture:
        assert min(picture.size) > 300
    (record,) = stats(Path(cfg.OUTPUT_DIR), "use_of_time")
    assert record["reversed_top1_acc"] == pytest.approx(100 / 3)

    # Speeds: from the first to the last frame of a clip, brightness changes in proportion.
    ranges = [float((light_T[-1] - light_T[0]).abs()) for light_BT in model.seen for light_T in light_BT]
    normal, half, double = (max(ranges[i : i + n]) for i, n in ((0, 1), (len(ranges) - 12, 6), (len(ranges) - 6, 6)))
    assert half / normal == pytest.approx(7 / 15, abs=0.08) and double / normal == pytest.approx(31 / 15, abs=0.08)


def test_mistakes_are_named(cfg: Config, make: Make, tmp_path: Path) -> None:
    def changed(options: str) -> Config:
        (tmp_path / "base.yaml").write_text(dump_config(cfg))
        return load_config(tmp_path / "base.yaml", options.split())

    with pytest.raises(UserError, match=r"DATA\.NUM_FRAMES: a clip of one frame has no time"):
        run(changed("DATA.NUM_FRAMES 1"))
    (tmp_path / "groups.json").write_text(json.dumps({"motion": ["stil"]}))
    with pytest.raises(UserError, match=r"groups\.json: .*'stil'.*"):
        run(changed(f"SHUFFLE_EVAL.CLASS_GROUPS_FILE {tmp_path}/groups.json"))
    for key, value, problem in (
        ("SPEEDS", "[0]", "expected a number > 0"),
        ("SPEED", "[2]", r"did you mean USE_OF_TIME\.SPEEDS"),
        ("PARTS", "0", "expected a whole number >= 1"),
    ):
        with pytest.raises(UserError, match=rf"USE_OF_TIME\.{key}.*{problem}"):
            changed(f"USE_OF_TIME.{key} {value}")


def test_unreadable_videos_are_named_once(
    cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(task, "build_seeded_model", lambda cfg, device: Gaze())
    monkeypatch.setitem(ENGINES, "torch", lambda model, dtype: model)
    data = Path(cfg.DATA.PATH_TO_DATA_DIR)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    write_list(tmp_path / "test.csv", [(data / "0.mp4", RISING), (tmp_path / "bad.mp4", FALLING)])
    for name in ("names.json", "groups.json"):
        (tmp_path / name).write_bytes((data / name).read_bytes())
    (tmp_path / "base.yaml").write_text(dump_config(cfg))
    options = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "OUTPUT_DIR", str(tmp_path / "run")]
    with pytest.raises(UserError, match=r"(?s)1 video of the evaluation list cannot be read.*bad\.mp4"):
        run(load_config(tmp_path / "base.yaml", options))
    capfd.readouterr()
    run(load_config(tmp_path / "base.yaml", [*options, "TEST.SKIP_UNREADABLE", "True"]))
    assert capfd.readouterr().err.count("left out: ") == 1
    found = json.loads((tmp_path / "run" / "use_of_time.json").read_text())
    assert (found["num_videos"], found["num_skipped"]) == (1, 1)
