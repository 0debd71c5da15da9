"""tools/benchmark_loader.py: all ways make the same clips, and all are measured."""

import json

from tests.helpers.runs import run_tool

WAYS = ["PIL and float transforms", "ours, AUG.BACKEND pil", "ours, AUG.BACKEND fast", "ours, no RandAugment"]
SMALL = (
    "DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.TRAIN_CROP_SIZE 48 DATA.TEST_CROP_SIZE 48 AUG.AA_TYPE rand-m7-n4-p1"
).split()


def test_all_ways_make_the_same_clips(numbered, tmp_path):
    video = numbered("benchmark_loader.mp4", num_frames=20, size=(96, 64))
    (tmp_path / "broken.mp4").write_text("this is no video\n" * 99)
    found = tmp_path / "found.json"
    jitter = (
        "DATA.TRAIN_JITTER_SCALES_RELATIVE [] DATA.TRAIN_JITTER_ASPECT_RELATIVE [] DATA.TRAIN_JITTER_SCALES [50,60]"
    )
    done = run_tool(
        *("benchmark_loader.py", video, tmp_path / "broken.mp4", "--repeat", 6, "--rounds", 1, "--batch", 2),
        *("--workers", 1, "--json", found, "--opts", *SMALL, *jitter.split()),
    )
    assert "broken.mp4" in done.stderr and "x per CPU s" in done.stdout
    rows = json.loads(found.read_text())
    assert [row["way"] for row in rows] == WAYS
    assert all(row["cpu_ms_per_clip"] > 0 and row["clips_per_s"] > 0 for row in rows)
    assert rows[0]["times_baseline"] == 1 and rows[0]["mean_difference"] == 0
    # The draws are equal, so only the rounding of scaled levels differs, by about 0.3 of 255.
    assert all(0 < row["mean_difference"] < 0.5 for row in rows[1:3])
