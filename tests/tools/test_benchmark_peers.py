"""The table of peers: same logits, all columns."""

import pytest
import torch

from tests.helpers.runs import run_tool


def test_one_row_per_entry_with_equal_logits() -> None:
    options = (
        "--models image_v2_t --work inference --dtypes fp32 --batch 1 --rounds 1 --threads 1 --clock cpu --no-memory"
    )
    lines = run_tool("benchmark_peers.py", *options.split()).stdout.strip().splitlines()
    titles, _, ours, timm = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert titles[:3] == ["model", "work", "who"] and titles[-1] == "difference"
    assert ours[:3] == ["image_v2_t x1", "inference fp32", "videovit"] and timm[2] == "timm"
    assert float(ours[3]) > 0 and float(timm[3]) > 0 and float(ours[4]) == 1.0
    assert 0 < float(timm[-1]) < 1e-5
    share = titles.index("of peak")
    assert all(0 < float(row[share].removesuffix(" %")) <= 100 for row in (ours, timm))


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="there is a GPU")
def test_a_missing_gpu_is_named() -> None:
    done = run_tool("benchmark_peers.py", "--device", "cuda", check=False)
    assert done.returncode == 2 and done.stderr.endswith("this machine has no GPU that PyTorch can use\n")
