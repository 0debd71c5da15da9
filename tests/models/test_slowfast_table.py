"""All 111 configuration files of SlowFast: what loads builds, with the parameters of docs/slowfast_files.md."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path

import pytest
import torch

from tests.helpers.project import ROOT
from tests.helpers.slowfast_table import BROKEN, OVERRIDES, REFUSED, as_yaml, slowfast_files
from videovit.config import Config, ConfigError, load_config
from videovit.data.catalog import find_dataset
from videovit.models import build_network, count_params

ROW = re.compile(r"^\| `([\w./-]+)` \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)


def documented() -> dict[str, str]:
    """File -> its parameters in the table, or an empty text."""
    page = (ROOT / "docs" / "slowfast_files.md").read_text(encoding="utf-8")
    return {name: params.strip() for name, params, _ in ROW.findall(page)}


def what_builds(cfg: Config) -> Hashable:
    """All that the parameters of a model depend on."""
    data, model = cfg.DATA, (cfg.MODEL.ARCH, cfg.MODEL.MODEL_NAME, cfg.MODEL.NUM_CLASSES)
    sections = (cfg.MVIT, cfg.RESNET, cfg.SLOWFAST, cfg.X3D, cfg.NONLOCAL, cfg.DETECTION, cfg.MASK)
    # Convolutional networks have no position tables.
    size = (data.NUM_FRAMES, data.TRAIN_CROP_SIZE) if "MViT" in cfg.MODEL.MODEL_NAME else ()
    return model, sections, size


@pytest.mark.filterwarnings("ignore::videovit.config.ConfigWarning")
def test_files_load_and_build_with_the_documented_parameters(tmp_path: Path) -> None:
    table, path, built = documented(), tmp_path / "file.yaml", {}
    files = slowfast_files()
    assert table.keys() == files.keys() | BROKEN.keys() and len(table) == 111
    params: dict[str, str] = {}
    for name, keys in files.items():
        if name in REFUSED:
            continue
        path.write_text(as_yaml(keys))
        cfg = load_config(path, OVERRIDES.get(name, ()))
        what = what_builds(cfg)
        if what not in built:
            with torch.device("meta"):
                built[what] = f"{count_params(build_network(cfg)):,}"
        params[name] = built[what]
    assert params == {name: count for name, count in table.items() if count}
    assert len(params) == 103


@pytest.mark.filterwarnings("ignore::videovit.config.ConfigWarning")
def test_files_name_data_sets_that_exist(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    for name in slowfast_files().keys() - REFUSED.keys():
        path.write_text(as_yaml(slowfast_files()[name]))
        cfg = load_config(path, OVERRIDES.get(name, ()))
        for dataset in (cfg.TRAIN.DATASET, cfg.TEST.DATASET):
            assert find_dataset(dataset), name


def test_other_files_are_refused_by_key_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    for name, (key, reason) in REFUSED.items():
        path.write_text(as_yaml(slowfast_files()[name]))
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert any(f": {key}: found" in text and reason in text for text in caught.value.problems), name
    for text in BROKEN.values():
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"file\.yaml:3: is not valid YAML"):
            load_config(path)


def test_file_for_more_gpus_than_videos_is_refused(tmp_path: Path) -> None:
    """As by SlowFast, which asserts the same."""
    (name,) = OVERRIDES
    path = tmp_path / "file.yaml"
    path.write_text(as_yaml(slowfast_files()[name]))
    with pytest.raises(ConfigError, match="1 videos cannot be divided equally among NUM_GPUS 8"):
        load_config(path)
