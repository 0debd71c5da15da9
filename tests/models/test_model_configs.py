"""Every shipped config loads, its model builds on `meta`, and parameters and multiply-adds are those of its header."""

import re
import warnings

import pytest
import torch

from tests.helpers.project import CONFIGS
from tests.helpers.tiny_transformers import need_transformers
from videovit.config import load_config
from videovit.models import build_network, count_macs, count_params

# Detectors take images of any size, so their headers say for which one the multiply-adds are.
HEADER = re.compile(r"^# params: ([\d,]+) +GMACs: (\d+\.(\d+))(?: at (\d+) x (\d+))?$", re.MULTILINE)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_config_matches_its_header(path):
    header = HEADER.search(path.read_text(encoding="utf-8"))
    assert header, f"{path} has no line '# params: 1,234   GMACs: 5.678'"
    params, giga_macs, places, height, width = header.groups()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a shipped file sets nothing that has no effect
        cfg = load_config(path)
    if cfg.DETECTOR.NAME == "DeformableDETR" or cfg.MODEL.MODEL_NAME.startswith("hf_"):
        need_transformers()
    assert bool(cfg.DETECTOR.NAME) == (height is not None), f"{path}: detectors alone name a size"
    sides = (int(height), int(width)) if height else (cfg.DATA.TRAIN_CROP_SIZE,) * 2
    with torch.device("meta"):
        model = build_network(cfg)
    macs = count_macs(model, (1, cfg.DATA.INPUT_CHANNEL_NUM[0], cfg.DATA.NUM_FRAMES, *sides))
    assert f"{count_params(model):,}" == params
    assert f"{macs / 1e9:.{len(places)}f}" == giga_macs


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_headers_say_what_to_expect_from_what_and_how_to_start_it(path):
    text = path.read_text(encoding="utf-8")
    command = rf"python tools/run_net\.py --cfg configs/{path.parent.name}/{path.name}( |$)"
    for line in ("expected: ", "recipe: ", command):
        assert re.search(f"^# {line}", text, re.MULTILINE), f"{path} has no line '# {line}'"


def test_there_are_configs():
    assert len(list(CONFIGS.glob("*/*.yaml"))) >= 27
