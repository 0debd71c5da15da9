"""Still images end to end: prepare, train and test on real scans of digits from the command line."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.helpers.runs import ROOT, run_tool, stats


def test_digits_small_mvit_learns(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    prepare = [sys.executable, str(ROOT / "datasets/digits/prepare.py"), "--output", str(data)]
    done = subprocess.run(prepare, capture_output=True, text=True, timeout=120, check=True)
    assert "1433 training images and 364 held-out images" in done.stdout
    train, val = ({p.relative_to(data / split) for p in (data / split).rglob("*.png")} for split in ("train", "val"))
    assert (len(train), len(val)) == (1433, 364) and not train & val
    assert json.loads((data / "classes.json").read_text())["seven"] == 7
    with Image.open(data / "val" / "0" / "0000.png") as image:
        assert image.size == (64, 64) and image.getextrema()[1] > 200

    opts = f"DATA.PATH_TO_DATA_DIR {data} OUTPUT_DIR {out} SOLVER.MAX_EPOCH 2 SOLVER.WARMUP_EPOCHS 0.5".split()
    run_tool("run_net.py", "--cfg", ROOT / "configs/Digits/MVIT_TINY.yaml", *opts, "DATA_LOADER.NUM_WORKERS", 0)
    (result,) = stats(out, "test_final")
    assert result["num_videos"] == 364 and result["top1_acc"] >= 80.0  # 98 to 99 after all 20 epochs; chance is 10

    # A folder means all images in it.
    predict = ["--cfg", out / "config.yaml", "--checkpoint", out, "--json", out / "p.json", data / "val" / "7"]
    run_tool("predict.py", *predict)
    sevens = json.loads((out / "p.json").read_text())
    assert [p["path"] for p in sevens] == sorted(map(str, (data / "val" / "7").iterdir()))
    assert sum(p["top"][0]["class"] == "seven" for p in sevens) > len(sevens) / 2
