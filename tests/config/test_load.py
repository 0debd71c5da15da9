"""Loading configs: merging files and pairs, typed values, messages."""

from __future__ import annotations

import dataclasses
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.project import CONFIGS
from videovit.config import Config, ConfigError, ConfigWarning, dump_config, free_keys, load_config
from videovit.config.keys import known_keys
from videovit.config.shipped import shipped_configs


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(path: Path | None, *opts: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, opts)
    return caught.value.problems


def problem(path: Path | None, *opts: object) -> str:
    found = problems(path, *opts)
    assert len(found) == 1, found
    return found[0]


# Values


def test_defaults_load_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cfg = load_config()
    assert cfg == Config()
    assert (cfg.TRAIN.MIXED_PRECISION_DTYPE, cfg.DIST_BACKEND, cfg.MVIT.POOL_NORM_EPS) == ("bf16", "auto", 1e-6)


def test_loaded_config_is_immutable() -> None:
    cfg = load_config(None, ["MVIT.DIM_MUL", "[[1, 2.0]]"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.NUM_GPUS = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.MVIT.DEPTH = 3  # type: ignore[misc]
    assert isinstance(cfg.MVIT.DIM_MUL, tuple) and isinstance(cfg.MVIT.DIM_MUL[0], tuple)
    assert isinstance(hash(cfg), int)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.BASE_LR", "1e-6", 1e-6),
        ("SOLVER.BASE_LR", "0", 0.0),
        ("SOLVER.BASE_LR", 0.5, 0.5),
        ("NUM_GPUS", "0", 0),
        ("NUM_GPUS", 4, 4),
        ("TRAIN.ENABLE", "False", False),
        ("TRAIN.ENABLE", False, False),
        ("TRAIN.ENABLE", "false", False),
        ("TRAIN.DATASET", "101", "101"),
        ("TRAIN.DATASET", "1e3", "1e3"),
        ("TRAIN.DATASET", "None", "None"),
        ("TRAIN.DATASET", "[a]", "[a]"),
        ("OUTPUT_DIR", "~", "~"),
        ("OUTPUT_DIR", Path("a b") / "c", "a b/c"),
        ("DATA.PATH_LABEL_SEPARATOR", ",", ","),
        ("DATA.PATH_LABEL_SEPARATOR", "\t", "\t"),
        ("MVIT.PATCH_KERNEL", "(3, 7, 7)", (3, 7, 7)),
        ("MVIT.PATCH_KERNEL", "[3,7,7]", (3, 7, 7)),
        ("MVIT.PATCH_KERNEL", [3, 7, 7], (3, 7, 7)),
        ("MVIT.PATCH_KERNEL", (3, 7, 7), (3, 7, 7)),
        ("DATA.INPUT_CHANNEL_NUM", "(3,)", (3,)),
        ("MVIT.POOL_Q_STRIDE", "((1, 1, 2, 2), (3, 1, 2, 2))", ((1, 1, 2, 2), (3, 1, 2, 2))),
        ("MVIT.POOL_Q_STRIDE", "[]", ()),
        ("MVIT.DIM_MUL", "[[1, 2]]", ((1, 2.0),)),
        ("MVIT.POOL_KV_STRIDE_ADAPTIVE", "None", None),
        ("MVIT.POOL_KV_STRIDE_ADAPTIVE", "", None),
        ("MVIT.POOL_KV_STRIDE_ADAPTIVE", None, None),
        ("MVIT.POOL_KV_STRIDE_ADAPTIVE", "[1, 8, 8]", (1, 8, 8)),
        ("SOLVER.CLIP_GRAD_VAL", "None", None),
        ("SOLVER.CLIP_GRAD_VAL", "0.4", 0.4),
        ("AUG.AA_TYPE", "", ""),
        ("SHUFFLE_EVAL.ORDERS", "[ordered, window4]", ("ordered", "window4")),
        ("SHUFFLE_EVAL.ORDERS", "[ordered, 'static']", ("ordered", "static")),
        ("AVA.TRAIN_LISTS", "('train (1).csv', \"val(2).csv\")", ("train (1).csv", "val(2).csv")),
        ("AVA.TRAIN_LISTS", "[train(1).csv]", ("train(1).csv",)),
        ("AVA.TRAIN_LISTS", ["it's (1).csv"], ("it's (1).csv",)),
    ],
)
def test_pair_is_read_by_field_type(key: str, text: object, value: Any) -> None:
    node: Any = load_config(None, [key, text])
    for name in key.split("."):
        node = getattr(node, name)
    assert node == value and type(node) is type(value)


def test_file_values_are_read_by_field_type(tmp_path: Path) -> None:
    text = (
        "TRAIN: {DATASET: 101, ENABLE: 'False'}\nSOLVER: {BASE_LR: 0, WARMUP_EPOCHS: 3}\nSOLVER.CLIP_GRAD_VAL: None\n"
    )
    text += "DATA:\n  PATH_PREFIX:\n  PATH_TO_DATA_DIR: null\nOUTPUT_DIR: 'null'\nMIXUP:\nDEMO:\n"
    with pytest.warns(ConfigWarning, match="DEMO"):
        cfg = load_config(write(tmp_path, text))
    assert (cfg.TRAIN.DATASET, cfg.TRAIN.ENABLE, cfg.SOLVER.CLIP_GRAD_VAL) == ("101", False, None)
    assert cfg.SOLVER.BASE_LR == 0.0 and isinstance(cfg.SOLVER.BASE_LR, float)
    assert cfg.SOLVER.WARMUP_EPOCHS == 3.0 and isinstance(cfg.SOLVER.WARMUP_EPOCHS, float)
    assert (cfg.DATA.PATH_PREFIX, cfg.DATA.PATH_TO_DATA_DIR, cfg.OUTPUT_DIR) == ("", "", "null")


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("NUM_GPUS", "many", "found 'many', expected a whole number >= 0"),
        ("NUM_GPUS", "1.5", "found '1.5', expected a whole number >= 0"),
        ("NUM_GPUS", "True", "found 'True', expected a whole number >= 0"),
        ("NUM_GPUS", "-1", "found -1, expected a whole number >= 0"),
        ("TRAIN.BATCH_SIZE", "0", "found 0, expected a whole number >= 1"),
        ("TRAIN.ENABLE", "1", "found '1', expected True or False"),
        ("SOLVER.BASE_LR", "fast", "found 'fast', expected a number >= 0"),
        ("SOLVER.BASE_LR", "nan", "found 'nan', expected a finite number >= 0"),
        ("SOLVER.BASE_LR", "inf", "found 'inf', expected a finite number >= 0"),
        ("AUG.RE_PROB", "1.01", "found 1.01, expected a number >= 0 and <= 1"),
        ("MODEL.DROPOUT_RATE", "1", "found 1, expected a number >= 0 and < 1"),
        ("DATA.STD", "[1, 0, 1]", "found 0, expected a number > 0"),
        ("MVIT.PATCH_KERNEL", "[3, 7, x]", "found 'x', expected a whole number >= 1"),
        ("MVIT.PATCH_KERNEL", "3", "found '3', expected a list such as [3]"),
        ("MVIT.PATCH_KERNEL", "[[3, 7, 7]]", "found '[3, 7, 7]', expected a whole number >= 1"),
        ("MVIT.POOL_KVQ_KERNEL", "[3, 3]", "found [3, 3], expected 3 values"),
        ("DATA.INPUT_CHANNEL_NUM", "[]", "found [], expected 1 or 2 values"),
        ("MVIT.DIM_MUL", "[[1, 2, 3]]", "found [1, 2, 3], expected 2 values"),
        ("MVIT.DIM_MUL", "[1, 2.0]", "found '1', expected a list such as [1]"),
        ("MVIT.NORM", "batchnorm", "found 'batchnorm', expected 'layernorm'"),
        ("SOLVER.OPTIMIZING_METHOD", "admaw", "or 'adamw' or 'adamp'; did you mean adamw?"),
        ("DATA.DECODING_BACKEND", "pyva", "or 'frames' or 'image'; did you mean pyav?"),
        ("TEST.NUM_SPATIAL_CROPS", "2", "found '2', expected 1 or 3"),
        ("OUTPUT_DIR", "\udcff", "expected UTF-8 text"),
        ("RNG_SEED", str(10**22), "expected a smaller whole number"),
        ("RNG_SEED", "9" * 5000, "expected a"),
        ("SOLVER.MAX_EPOCH", str(10**19), "expected a smaller whole number"),
        ("MVIT.DEPTH", "10000000", "found 10000000, expected a whole number >= 1 and <= 1000"),
        ("MVIT.MLP_RATIO", "1e300", "expected a number > 0 and <= 64"),
        ("PIT.EMBED_DIMS", "[10000000]", "expected a whole number >= 1 and <= 65536"),
        ("DATA.SAMPLING_RATE", "1000000000", "expected a whole number >= 1 and <= 10000"),
        ("DATA.TARGET_FPS", "1e-300", "expected a number >= 0.01 and <= 10000"),
        ("DATA.TRAIN_CROP_SIZE", "1000000", "expected a whole number >= 1 and <= 16384"),
        ("TEST.NUM_ENSEMBLE_VIEWS", "1000000000", "expected a whole number >= 1 and <= 10000"),
        ("DATA.NUM_FRAMES", "100000", "found 100000, expected a whole number >= 1 and <= 10000"),
        ("NUM_CPU_THREADS", "100000", "found 100000, expected a whole number >= 0 and <= 1024"),
        ("DATA_LOADER.NUM_WORKERS", "100000", "found 100000, expected a whole number >= 0 and <= 1024"),
    ],
)
def test_unfit_value_is_explained(key: str, text: str, expected: str) -> None:
    found = problem(None, key, text)
    assert found.startswith(f"command line: {key}: ") and expected in found


def test_section_in_place_of_value_is_explained(tmp_path: Path) -> None:
    path = write(tmp_path, "MVIT: 3\nNUM_GPUS: {A: 1}\nMODEL:\n  ARCH: [a, b]\n  NUM_CLASSES:\n")
    found = problems(path, "TRAIN", "x")
    assert f"{path}:1: MVIT is a section; expected one of its keys, such as MVIT.MODE" in found
    assert f"{path}:2: NUM_GPUS: found a section, expected a whole number >= 0" in found
    assert f"{path}:4: MODEL.ARCH: found '[a, b]', expected text" in found
    assert f"{path}:5: MODEL.NUM_CLASSES: found nothing, expected a whole number >= 1" in found
    assert "command line: TRAIN is a section; expected one of its keys, such as TRAIN.ENABLE" in found
    assert len(found) == 5


def test_alias_is_accepted_with_warning() -> None:
    with pytest.warns(ConfigWarning, match=r"^command line: DATA.DECODING_BACKEND: torchvision is taken as decord$"):
        assert load_config(None, ["DATA.DECODING_BACKEND", "torchvision"]).DATA.DECODING_BACKEND == "decord"
    with pytest.warns(ConfigWarning, match="mt_adamw is taken as adamw"):
        assert load_config(None, ["SOLVER.OPTIMIZING_METHOD", "mt_adamw"]).SOLVER.OPTIMIZING_METHOD == "adamw"


# Keys


@pytest.mark.parametrize(
    ("key", "close"),
    [
        ("MVIT.DEPHT", "MVIT.DEPTH"),
        ("TRAIN.NUM_CLASSES", "MODEL.NUM_CLASSES"),
        ("NUM_CLASSES", "MODEL.NUM_CLASSES"),
        ("MODEL.DEPTH", "MVIT.DEPTH"),
        ("MVTI.DEPTH", "MVIT.DEPTH"),
        ("train.batch_size", "TRAIN.BATCH_SIZE"),
        ("--NUM_GPUS", "NUM_GPUS"),
        ("MVIT.REV.ENABEL", "MVIT.REV.ENABLE"),
        ("SOLVER.EPOCHS", "SOLVER.MAX_EPOCH"),
        ("MODEL.SINGLE_PATHWAY", "MODEL.SINGLE_PATHWAY_ARCH"),
    ],
)
def test_unknown_key_suggests_nearest(key: str, close: str) -> None:
    assert problem(None, key, "1") == f"command line: {key} is not a known key; did you mean {close}?"


def test_unknown_key_like_none_has_no_suggestion() -> None:
    assert problem(None, "ZZZ.QQQ", "1") == "command line: ZZZ.QQQ is not a known key"
    assert "write KEY VALUE, without =" in problems(None, "NUM_GPUS=1", "TRAIN.ENABLE=False")[0]


def test_many_unknown_keys_are_reported_quickly(tmp_path: Path) -> None:
    text = "".join(f"KEY_{number}: 1\n" for number in range(5000)) + "? " + "K" * 50_000 + "\n: 1\n"
    found = problems(write(tmp_path, text))
    assert len(found) == 5001 and max(map(len, found)) < 400


def test_odd_number_of_words_is_explained() -> None:
    assert problem(None, "NUM_GPUS", "0", "TRAIN.ENABLE") == (
        "command line: TRAIN.ENABLE has no value; expected KEY VALUE KEY VALUE ..."
    )
    with pytest.raises(ConfigError, match="has no value"):
        load_config(None, "NUM_GPUS 0")


def test_problems_name_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "# first\n\nMODEL:\n  # second\n  NUM_CLASES: 3\n\nMVIT:\n  MODE: cnov\n")
    first, second = problems(path)
    assert first == f"{path}:5: MODEL.NUM_CLASES is not a known key; did you mean MODEL.NUM_CLASSES?"
    assert second.startswith(f"{path}:8: MVIT.MODE: found 'cnov'") and second.endswith("did you mean conv?")


def test_all_problems_are_listed(tmp_path: Path) -> None:
    write(tmp_path, "MODEL:\n  NUM_CLASES: 3\n", "base.yaml")
    path = write(tmp_path, "_BASE_: base.yaml\nMVIT: {MODE: cnov}\nTRAIN: {BATCH_SIZE: few}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["SHARD_ID", "3", "DATA.DUMMY_LOAD", "True", "LAST"])
    error = caught.value
    assert len(error.problems) == 6
    assert str(error).splitlines()[0] == "6 problems in the configuration:"
    assert [line[4:] for line in str(error).splitlines()[1:]] == error.problems
    assert any(line.startswith("command line: SHARD_ID: 3 is not below NUM_SHARDS 1") for line in error.problems)
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


def test_rules_skip_values_that_failed() -> None:
    assert len(problems(None, "NUM_SHARDS", "x", "SHARD_ID", "3")) == 1
    assert len(problems(None, "NUM_SHARD", "4", "SHARD_ID", "3")) == 1
    assert len(problems(Path("missing.yaml"), "SHARD_ID", "3")) == 1


# Files


def test_later_values_override_earlier(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, "NUM_GPUS: 1\nRNG_SEED: 1\nMVIT: {DEPTH: 1, EMBED_DIM: 8}\nLOG_PERIOD: 7\n", "a.yaml")
    write(tmp_path, "RNG_SEED: 2\nMVIT: {DEPTH: 2}\n_BASE_: a.yaml\n", "b.yml")
    path = write(tmp_path / "sub", "_BASE_: ../b.yml\nMVIT:\n  DEPTH: 3\n")
    cfg = load_config(path, ["MVIT.DEPTH", "4", "MVIT.DEPTH", "5"])
    assert (cfg.MVIT.DEPTH, cfg.MVIT.EMBED_DIM, cfg.RNG_SEED, cfg.LOG_PERIOD) == (5, 8, 2, 7)
    assert load_config(path).MVIT.DEPTH == 3
    absolute = write(tmp_path, f"_BASE_: {path}\n", "absolute.yaml")
    assert load_config(absolute) == load_config(path)


def test_bad_value_that_is_overridden_is_accepted(tmp_path: Path) -> None:
    write(tmp_path, "MVIT: {REV: {ENABLE: True}}\nNUM_GPUS: x\n", "base.yaml")
    path = write(tmp_path, "_BASE_: base.yaml\nMVIT: {REV: {ENABLE: False}}\n")
    assert load_config(path, ["NUM_GPUS", "0"]).NUM_GPUS == 0


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("https://example.org/a.yaml", "expected a file on this machine"),
        ("file:///a.yaml", "expected a file on this machine"),
        ("[a.yaml, b.yaml]", "expected the name of one YAML file"),
        ("", "found nothing, expected the name of one YAML file"),
        ("other.txt", "expected a file that ends in .yaml or .yml"),
        ("model.py", "Python files are not run"),
        ("bsae.yaml", "there is no such file; did you mean base.yaml?"),
        ("no/base.yaml", "does not exist either"),
        ("folder.yaml", "is a folder"),
        ("~nobody_of_this_name/base.yaml", "does not exist either"),
        (r'"a\0b.yaml"', "there is no such file"),
    ],
)
def test_bad_base_is_refused(base: str, expected: str, tmp_path: Path) -> None:
    write(tmp_path, "NUM_GPUS: 1\n", "base.yaml")
    write(tmp_path, "NUM_GPUS: 1\n", "other.txt")
    write(tmp_path, "raise SystemExit\n", "model.py")
    (tmp_path / "folder.yaml").mkdir()
    assert expected in problem(write(tmp_path, f"_BASE_: {base}\n"))


def test_circular_bases_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "_BASE_: b.yaml\n", "a.yaml")
    write(tmp_path, "_BASE_: ./a.yaml\n", "b.yaml")
    assert "_BASE_ forms a circle: a.yaml -> b.yaml -> a.yaml" in problem(tmp_path / "a.yaml")
    for number in range(40):
        write(tmp_path, f"_BASE_: chain{number + 1}.yaml\n", f"chain{number}.yaml")
    assert "more than 16 files are chained" in problem(tmp_path / "chain0.yaml")


def test_missing_file_suggests_nearest(tmp_path: Path) -> None:
    write(tmp_path, "NUM_GPUS: 1\n", "MVIT_B_16x4_CONV.yaml")
    found = problem(tmp_path / "MVIT_B_16x4.yaml")
    assert found.endswith("MVIT_B_16x4.yaml: there is no such file; did you mean MVIT_B_16x4_CONV.yaml?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- 1\n- 2\n", "holds no keys"),
        ("NUM_GPUS\n", "holds no keys"),
        ("MODEL:\n  A: 1\n B: 2\n", ":3: is not valid YAML"),
        ("MODEL: [1, 2\n", "is not valid YAML"),
        ("NUM_GPUS: 1\n---\nNUM_GPUS: 2\n", ":2: holds more than one document"),
        ("OUTPUT_DIR: !!python/object/apply:os.system ['touch hacked']\n", "tag !!python/object/apply:os.system is"),
        ("OUTPUT_DIR: !!python/tuple [1]\n", "tag !!python/tuple is refused"),
        ("OUTPUT_DIR: !include other.yaml\n", "tag !include is refused"),
        ("? [a, b]\n: 1\n", "a key must be a plain word"),
        ("NUM_GPUS: *nothing\n", "the alias *nothing has no anchor before it"),
        ("MVIT: &m\n  <<: *m\n", "the alias *m has no anchor before it"),
        ("<<: {NUM_GPUS: 3}\n", ":1: << (merging) is not supported; use _BASE_"),
        ("MVIT:\n  <<: {DEPTH: 3}\n", ":2: MVIT.<< (merging) is not supported"),
        ("MVIT: " + "[" * 60 + "]" * 60 + "\n", "is nested deeper than 32 levels"),
        ("MVIT: " + "[" * 100_000, "nest"),  # libyaml has a limit of its own
        ("- " * 100_000 + "a\n", "nest"),
        ("MVIT:\n  ? {a: [b]}\n  : 1\n", ":2: a key must be a plain word"),
        ("A: &a [1]\nB: &a [2]\n", ":2: is not valid YAML: second occurrence"),
        ("# " + "x" * (1 << 20) + "\n", "is larger than 1 MiB"),
    ],
    ids=lambda text: text[:20],
)
def test_bad_text_is_refused(text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in problems(write(tmp_path, text))[-1]
    assert not (tmp_path / "hacked").exists()


def test_aliases_are_followed_within_limits(tmp_path: Path) -> None:
    path = write(tmp_path, "MVIT:\n  DIM_MUL: &rows [[1, 2.0], [3, 2.0]]\n  HEAD_MUL: *rows\n")
    assert load_config(path).MVIT.HEAD_MUL == ((1, 2.0), (3, 2.0))
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "holds more than 20000 values" in problem(write(tmp_path, "\n".join(lines) + "\n"))


def test_encodings(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"OUTPUT_DIR: \xe9\n")
    assert "is not UTF-8 text" in problem(tmp_path / "latin.yaml")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfNUM_GPUS: 0\r\nOUTPUT_DIR: \xc3\xa9\r\n")
    cfg = load_config(tmp_path / "bom.yaml")
    assert (cfg.NUM_GPUS, cfg.OUTPUT_DIR) == (0, "é")


def test_duplicate_section_last_one_counts(tmp_path: Path) -> None:
    path = write(tmp_path, "MVIT:\n  DEPTH: 3\nNUM_GPUS: 0\nMVIT:\n  EMBED_DIM: 8\n")
    with pytest.warns(ConfigWarning, match=r":4: MVIT was already given on line 1; line 4 counts"):
        cfg = load_config(path)
    assert (cfg.MVIT.DEPTH, cfg.MVIT.EMBED_DIM) == (16, 8)


# Shipped configs


@pytest.mark.parametrize(
    "name", ["Demo/MVIT_TINY", "Demo/MVIT_TINY.yaml", "configs/Demo/MVIT_TINY", "./configs/Demo/MVIT_TINY.yaml"]
)
def test_shipped_config_is_found_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(name) == load_config(CONFIGS / "Demo/MVIT_TINY.yaml")


def test_existing_file_wins_over_shipped_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs/Demo").mkdir(parents=True)
    write(tmp_path / "configs/Demo", "RNG_SEED: 9\n", "MVIT_TINY.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/Demo/MVIT_TINY.yaml") == load_config(None, ["RNG_SEED", "9"])


def test_base_may_be_a_shipped_config(tmp_path: Path) -> None:
    path = write(tmp_path, "_BASE_: Demo/MVIT_TINY\nRNG_SEED: 9\n")
    assert load_config(path) == load_config("Demo/MVIT_TINY", ["RNG_SEED", "9"])
    own = write(tmp_path, "RNG_SEED: 8\n", "MVIT_TINY.yaml")
    (tmp_path / "Demo").mkdir()
    own.rename(tmp_path / "Demo/MVIT_TINY.yaml")
    found = load_config(write(tmp_path, "_BASE_: Demo/MVIT_TINY.yaml\n"))
    assert found == load_config(None, ["RNG_SEED", "8"])


@pytest.mark.parametrize("name", ["Kinetics/MVITv2_S_16x5", "configs/Kinetics/MVITv2_S_16x5.yaml", "MVITv2_S_16x4"])
def test_unknown_name_suggests_nearest_shipped_config(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(r"no such file; did you mean \w+/MVITv2_S_16x4\?$", problem(Path(name)))


def test_every_shipped_config_is_named() -> None:
    files = {f"{path.parent.name}/{path.stem}" for path in CONFIGS.glob("*/*.yaml")}
    assert shipped_configs().keys() == files and all(path.is_file() for path in shipped_configs().values())


# Writing


def test_dumped_config_loads_equal(tmp_path: Path) -> None:
    values = {
        "TRAIN.DATASET": "101",
        "TEST.DATASET": "None",
        "OUTPUT_DIR": "a: b # c\n'\"é\x07",
        "DATA.PATH_PREFIX": "~",
        "DATA.PATH_LABEL_SEPARATOR": "\t",
        "SOLVER.COSINE_END_LR": "1e-17",
        "SOLVER.BETAS": "(0.9, 0.98765432101234567)",
        "MVIT.DIM_MUL": "[[1, 2], [3, 0.1]]",
        "SOLVER.CLIP_GRAD_VAL": "None",
        "DATA.CLASS_NAMES_FILE": "a, b",
        "NUM_GPUS": "0",
    }
    cfg = load_config(None, [item for pair in values.items() for item in pair])
    assert values["OUTPUT_DIR"] == cfg.OUTPUT_DIR and cfg.DATA.CLASS_NAMES_FILE == "a, b"
    text = dump_config(cfg)
    assert load_config(write(tmp_path, text)) == cfg
    assert dump_config(cfg) == text
    sections = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert sections == list(dict.fromkeys(key.partition(".")[0] for key in known_keys() if "." in key))


def test_dumped_copy_loads_equal(tmp_path: Path) -> None:
    cfg = load_config()
    copy = dataclasses.replace(cfg, TEST=dataclasses.replace(cfg.TEST, NUM_ENSEMBLE_VIEWS=2))
    assert load_config(write(tmp_path, dump_config(copy))) == copy != cfg


def test_free_keys_are_those_that_do_not_shape_training() -> None:
    free, known = free_keys(), known_keys()
    assert free < known.keys()
    assert {"TRAIN.EVAL_PERIOD", "OUTPUT_DIR", "TEST.BATCH_SIZE", "DATA.TEST_CROP_SIZE", "AVA.TEST_LISTS"} <= free
    assert not {"TRAIN.BATCH_SIZE", "SOLVER.BASE_LR", "NUM_SHARDS", "RNG_SEED", "AVA.TRAIN_LISTS", "MVIT.DEPTH"} & free
    whole = ("TEST", "SHUFFLE_EVAL", "USE_OF_TIME", "ROBUSTNESS", "ANALYSIS", "PREDICT", "SEARCH", "BENCHMARK")
    whole += ("DATA_LOADER", "TENSORBOARD")
    assert all(key in free for key in known if key.partition(".")[0] in whole)
    assert len(free) == 129
