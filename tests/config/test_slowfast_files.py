"""SlowFast's own configs load with the values that SlowFast's reader gives them."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.slowfast_files import FILES
from videovit.config import Config, ConfigError, ConfigWarning, dump_config, load_config
from videovit.config.keys import known_keys
from videovit.config.slowfast import REFUSED, ignored_reason

DEFAULTS = Path(__file__).with_name("slowfast_defaults.yaml")


def flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def as_slowfast_reads(value: Any) -> Any:
    """SlowFast evaluates text that looks like a Python value."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value


def as_tuples(value: Any) -> Any:
    return tuple(as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def at(cfg: Config, key: str) -> Any:
    node: Any = cfg
    for name in key.split("."):
        node = getattr(node, name)
    return node


def load_text(folder: Path, text: str, *opts: object) -> Config:
    path = folder / "file.yaml"
    path.write_text(text)
    return load_config(path, opts)


@pytest.mark.filterwarnings("ignore::videovit.config.ConfigWarning")
@pytest.mark.parametrize("name", FILES)
def test_slowfast_file_values_equal_slowfasts(name: str, tmp_path: Path) -> None:
    cfg = load_text(tmp_path, FILES[name])
    fields = known_keys()
    compared = 0
    for key, value in flat(yaml.safe_load(FILES[name])):
        if key in fields:
            aliases = {"torchvision": "decord", "MaskMViT": "MViT"}
            expected = aliases.get(str(value), as_tuples(as_slowfast_reads(value)))
            assert at(cfg, key) == expected, key
            assert type(at(cfg, key)) is type(expected), key
            compared += 1
    assert compared > 70
    (tmp_path / "again.yaml").write_text(dump_config(cfg))
    assert load_config(tmp_path / "again.yaml") == cfg


@pytest.mark.filterwarnings("ignore::videovit.config.ConfigWarning")
def test_slowfast_file_has_known_values(tmp_path: Path) -> None:
    v1 = load_text(tmp_path, FILES["Kinetics/MVIT_B_16x4_CONV"])
    assert v1.MVIT.PATCH_KERNEL == (3, 7, 7) and v1.MVIT.POOL_KV_STRIDE_ADAPTIVE == (1, 8, 8)
    assert v1.MVIT.DIM_MUL == ((1, 2.0), (3, 2.0), (14, 2.0))
    assert (v1.SOLVER.BASE_LR, v1.SOLVER.COSINE_END_LR, v1.SOLVER.CLIP_GRAD_L2NORM) == (1e-4, 1e-6, 1.0)
    assert v1.TEST.NUM_ENSEMBLE_VIEWS == 10 and v1.DATA.MEAN == (0.45, 0.45, 0.45)
    long = load_text(tmp_path, FILES["Kinetics/MVIT_B_32x3_CONV"])
    assert (long.SOLVER.BASE_LR, long.SOLVER.WEIGHT_DECAY) == (1e-4, 0.05)
    image = load_text(tmp_path, FILES["ImageNet/MVITv2_T"])
    assert image.MVIT.PATCH_2D and image.MVIT.PATCH_KERNEL == (7, 7)
    assert image.MVIT.POOL_KV_STRIDE_ADAPTIVE is None and image.MVIT.POOL_KV_STRIDE[:2] == ((0, 1, 4, 4), (1, 1, 2, 2))
    large = load_text(tmp_path, FILES["SSv2/MVITv2_L_40x3"])
    assert (
        large.MODEL.ACT_CHECKPOINT and large.MVIT.POOL_Q_STRIDE[44] == (44, 1, 2, 2) and large.MODEL.NUM_CLASSES == 174
    )


def test_ignored_keys_give_one_warning(tmp_path: Path) -> None:
    with pytest.warns(ConfigWarning) as caught:
        load_text(tmp_path, FILES["SSv2/MVITv2_S_16x4"])
    said = [str(warning.message) for warning in caught]
    assert len(said) == 2
    assert all(key in said[0] for key in ("TRAIN.CHECKPOINT_EPOCH_RESET", "PREFETCH.NUM_LOADERS"))
    assert "DATA.DECODING_BACKEND: torchvision is taken as decord" in said[1]


def test_demo_and_pictures_give_one_warning_that_names_our_way(tmp_path: Path) -> None:
    text = "DEMO: {ENABLE: True, WEBCAM: 0, LABEL_FILE_PATH: }\nTENSORBOARD:\n  ENABLE: True\n"
    text += "".join(
        f"  {name}: {{ENABLE: True}}\n" for name in ("CONFUSION_MATRIX", "HISTOGRAM", "MODEL_VIS", "WRONG_PRED_VIS")
    )
    with pytest.warns(ConfigWarning) as caught:
        cfg = load_text(tmp_path, text)
    (said,) = (str(warning.message) for warning in caught)
    assert cfg.TENSORBOARD.ENABLE and all(
        way in said for way in ("videovit predict", "--annotate", "analyze", "report")
    )


def test_network_that_slowfast_takes_by_default(tmp_path: Path) -> None:
    """Its Charades and SSv2 files set MODEL.ARCH alone."""
    with pytest.warns(
        ConfigWarning, match=r"file\.yaml:1: MODEL\.ARCH slowfast: MODEL\.MODEL_NAME is taken as SlowFast"
    ):
        assert load_text(tmp_path, "MODEL: {ARCH: slowfast}\n").MODEL.MODEL_NAME == "SlowFast"
    with pytest.raises(ConfigError, match="i3d is a convolutional network, but MODEL.MODEL_NAME is MViT"):
        load_text(tmp_path, "MODEL: {ARCH: i3d}\n")


def test_empty_list_is_a_list_of_nothing(tmp_path: Path) -> None:
    cfg = load_text(tmp_path, "AVA:\n  TRAIN_PREDICT_BOX_LISTS: # add\n  TEST_PREDICT_BOX_LISTS: # add\n")
    assert cfg.AVA.TRAIN_PREDICT_BOX_LISTS == cfg.AVA.TEST_PREDICT_BOX_LISTS == ()
    with pytest.raises(ConfigError, match="MVIT.PATCH_KERNEL: found nothing, expected 2 or 3 values"):
        load_text(tmp_path, "MVIT:\n  PATCH_KERNEL:\n")


@pytest.mark.filterwarnings("ignore::videovit.config.ConfigWarning")
def test_duplicate_key_last_one_counts(tmp_path: Path) -> None:
    text = FILES["Kinetics/MVIT_B_32x3_CONV"]
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line.startswith("  DEPTH:")]
    with pytest.warns(ConfigWarning, match=f"MVIT.DEPTH was already given on line {lines[0]}; line {lines[1]} counts"):
        assert load_text(tmp_path, text).MVIT.DEPTH == 24


@pytest.mark.filterwarnings("ignore::videovit.config.ConfigWarning")
def test_fine_tuning_file_loads(tmp_path: Path) -> None:
    cfg = load_text(tmp_path, FILES["masked_ssl/k400_MVITv2_S_16x4_FT"])
    assert (cfg.MVIT.USE_MEAN_POOLING, cfg.MVIT.HEAD_INIT_SCALE, cfg.SOLVER.LAYER_DECAY) == (True, 0.001, 0.75)
    assert cfg.TEST.NUM_TEMPORAL_CLIPS == (1, 3, 4, 5, 7, 10)


def test_slowfast_defaults_are_known_and_equal() -> None:
    loaded = yaml.safe_load(DEFAULTS.read_text())
    keys = dict(flat(loaded))
    assert len(keys) > 300
    unknown = [key for key in keys if key not in known_keys() and key not in REFUSED and ignored_reason(key) is None]
    assert unknown == []
    opts = ["MODEL.MODEL_NAME", "MViT", "MODEL.ARCH", "mvit", "DIST_BACKEND", "auto"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        assert load_config(DEFAULTS, opts) == load_config()


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_refused_key_is_refused_only_when_used(key: str) -> None:
    refusal = REFUSED[key]
    used = refusal.on[0] if refusal.on else "True" if "False" in refusal.off else "3"
    with pytest.raises(ConfigError) as caught:
        load_config(None, [key, used])
    assert f"command line: {key}: found {used}; {refusal.reason}" in caught.value.problems
    earlier = {"MODEL.FREEZE_LAYERS": 0}  # a key of this project until TRAIN.FREEZE took its place
    default = (dict(flat(yaml.safe_load(DEFAULTS.read_text()))) | earlier)[key]
    if not refusal.applies_to(str(default)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if key not in known_keys():
                load_config(None, [key, str(default)])


def test_ignored_keys_have_no_field() -> None:
    fields = known_keys()
    assert [key for key in fields if ignored_reason(key) is not None and key not in REFUSED] == []
