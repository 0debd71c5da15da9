"""Where `videovit.load` finds models: runs, saved folders, the zoo, the Hub, configs with weights."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import videovit
from tests.helpers.hub_server import Hub, point_to, serve_hub
from tests.helpers.runs import TINY, write_config
from videovit.config import Config, load_config
from videovit.config.keys import known_keys
from videovit.config.rules import changed
from videovit.engine.checkpoints.folder import Position, checkpoint_path
from videovit.engine.checkpoints.saved_model import FILES, saved_config
from videovit.engine.checkpoints.saving import snapshot, write_checkpoint
from videovit.engine.training.optim import build_ema
from videovit.errors import UserError
from videovit.models import build_model, zoo
from videovit.models.convert import CheckpointError, pool_norm_eps, set_pool_norm_eps
from videovit.models.download import cached_path

NAMES = ["go left", "go `right`", "ünïcode\x1b[2J"]


def config(folder: Path, *opts: object) -> Config:
    return load_config(write_config(folder, TINY), [*map(str, opts)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> videovit.Model:
    """A model with another eps than its config's, as weights of others have it."""
    torch.manual_seed(0)
    cfg = config(tmp_path_factory.mktemp("config"), "DATA.PATH_TO_DATA_DIR", "/home/me/data")
    module = build_model(cfg)
    set_pool_norm_eps(module, 1e-3)
    for norm in module.modules():
        if isinstance(norm, torch.nn.LayerNorm):
            torch.nn.init.normal_(norm.weight)
    return videovit.Model(cfg, module, NAMES)


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def logits(model: videovit.Model, clip: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.torch(clip)
    return found


# ------------------------------------------------------------------------------------------------------ saved folders


def test_saved_model_gives_the_same_logits_bit_for_bit(
    model: videovit.Model, clip: torch.Tensor, tmp_path: Path
) -> None:
    model.save(tmp_path / "deep" / "saved")
    again = videovit.load(tmp_path / "deep" / "saved")
    assert torch.equal(logits(again, clip), logits(model, clip)) and again.class_names == NAMES
    assert pool_norm_eps(again.torch) == 1e-3
    frames = np.random.default_rng(0).integers(0, 255, (16, 40, 40, 3), dtype=np.uint8)
    assert torch.equal(again.predict(frames, fps=30).scores, model.predict(frames, fps=30).scores)
    assert sorted(path.name for path in (tmp_path / "deep").rglob("*")) == sorted([*FILES, "saved"])


def test_saved_folder_describes_itself(model: videovit.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "walker")
    found = json.loads((tmp_path / "walker" / "preprocessing.json").read_text())
    expected = {"num_frames": 4, "sampling_rate": 2, "target_fps": 30.0, "short_side": 32, "crop_size": 32}
    assert found.items() >= expected.items() and found["mean"] == [0.45] * 3 and found["std"] == [0.225] * 3
    card = (tmp_path / "walker" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: videovit\n") and "# walker\n" in card and "go `right`" in card
    assert "\x1b" not in card and "| num_frames | 4 |" in card


def test_saved_config_keeps_no_path_of_the_machine(tmp_path: Path) -> None:
    paths = {key: "/home/me" for key in known_keys() if key.endswith(("PATH", "DIR", "FILE", "CFG", "PREFIX"))}
    kept = ("AVA.LABEL_MAP_FILE", "AVA.EXCLUSION_FILE", "AVA.GROUNDTRUTH_FILE")  # names in AVA.ANNOTATION_DIR
    kept += ("MVIT.REV.RES_PATH",)  # how a shortcut is pooled
    secret = changed(
        Config(), {key: value for key, value in paths.items() if key not in kept} | {"DISTILL.TYPE": "soft"}
    )
    assert "/home/me" in repr(secret) and "/home/me" not in repr(saved_config(secret))
    assert saved_config(secret).DISTILL.TYPE == "none"


def test_earlier_model_is_replaced_and_other_files_are_not(
    model: videovit.Model, clip: torch.Tensor, tmp_path: Path
) -> None:
    other = videovit.Model(model.config, build_model(model.config), NAMES)
    other.save(tmp_path / "saved")
    model.save(tmp_path / "saved")
    assert torch.equal(logits(videovit.load(tmp_path / "saved"), clip), logits(model, clip))
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    (tmp_path / "saved" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="saved: holds other files, such as notes.txt"):
        model.save(tmp_path / "saved")
    with pytest.raises(UserError, match="notes.txt: is not a folder"):
        model.save(tmp_path / "saved" / "notes.txt")


def test_failed_save_leaves_the_earlier_model(model: videovit.Model, clip: torch.Tensor, tmp_path: Path) -> None:
    model.save(tmp_path / "saved")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # the weights do not fit
    try:
        for name in ("saved", "new"):
            with pytest.raises(UserError, match="could not be written"):
                model.save(tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert torch.equal(logits(videovit.load(tmp_path / "saved"), clip), logits(model, clip))


def test_weights_that_are_not_finite_are_not_saved(model: videovit.Model, tmp_path: Path) -> None:
    broken = videovit.Model(model.config, build_model(model.config), NAMES)
    with torch.no_grad():
        broken.torch.head.projection.bias[1] = torch.nan
    with pytest.raises(CheckpointError, match=r"not finite: .*head\.projection\.bias"):
        broken.save(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def _pickled(path: Path) -> None:
    torch.save({"model_state": {}}, path)


def _renamed(path: Path) -> None:
    state = load_file(path)
    save_file({f"x.{name}": tensor for name, tensor in state.items()}, path)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("model.safetensors", _flip_a_bit, "model.safetensors: damaged: its content and its checksum differ"),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100]), "not a readable safetensors"),
        ("model.safetensors", _pickled, "not a readable safetensors"),
        ("model.safetensors", _renamed, r"missing in the file \(51\): cls_token"),
        ("model.safetensors", Path.unlink, "saved: not a complete model: model.safetensors missing"),
        ("class_names.json", Path.unlink, "saved: not a complete model: class_names.json missing"),
        ("class_names.json", lambda path: path.write_text("[1"), "class_names.json"),
        ("class_names.json", lambda path: path.write_text('["one"]'), "class_names.json: 1 class name, but MODEL.NUM"),
        ("config.yaml", Path.unlink, "saved: not a complete model: config.yaml missing"),
        ("config.yaml", lambda path: path.write_text("MODEL: {NUM_CLASES: 3}"), "did you mean MODEL.NUM_CLASSES"),
    ],
)
def test_broken_file_is_named(model: videovit.Model, tmp_path: Path, name: str, damage, words: str) -> None:
    model.save(tmp_path / "saved")
    damage(tmp_path / "saved" / name)
    with pytest.raises(UserError, match=words):
        videovit.load(tmp_path / "saved")


def test_config_of_a_huge_model_beside_small_weights_is_refused(model: videovit.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "saved")
    config_file = tmp_path / "saved" / "config.yaml"
    config_file.write_text(config_file.read_text().replace("EMBED_DIM: 16", "EMBED_DIM: 60000"))
    with pytest.raises(UserError, match=r"saved: .*much larger than its weights; found [\d,]+ bytes or more, expected"):
        videovit.load(tmp_path / "saved")


def test_untrusted_folder_runs_no_code(model: videovit.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "saved")
    trace = tmp_path / "trace"
    for text in (
        f"MODEL: !!python/object/apply:os.system ['touch {trace}']",
        f"_BASE_: {tmp_path}/code.py",
    ):
        (tmp_path / "code.py").write_text(f"open({str(trace)!r}, 'w')")
        (tmp_path / "saved" / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"config.yaml|code.py"):
            videovit.load(tmp_path / "saved")
        assert not trace.exists()


# ---------------------------------------------------------------------------------------------------- runs and configs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two checkpoints; the average of the second has twice the weights of its model."""
    folder = tmp_path_factory.mktemp("run")
    model = build_model(config(folder, "TRAIN.EMA_DECAY", 0.5))
    for epoch in (1, 2):
        ema = build_ema(model, 0.5)
        assert ema is not None
        with torch.no_grad():
            model.head.projection.bias.fill_(epoch)
            for parameter in ema.module.parameters():
                parameter.mul_(2)
        position = Position(epoch=epoch)
        write_checkpoint(checkpoint_path(folder, position), snapshot(model, position=position, cfg_text="", ema=ema))
    return folder


def write_run_config(folder: Path, run: Path, text: str) -> Path:
    """A copy of a run with more keys, as if it had been moved."""
    (folder / "run" / "checkpoints").mkdir(parents=True)
    for path in (run / "checkpoints").iterdir():
        (folder / "run" / "checkpoints" / path.name).hardlink_to(path)
    (folder / "run" / "config.yaml").write_text(TINY + text)
    return folder / "run"


def test_run_has_its_newest_weights_or_their_average(run: Path, tmp_path: Path) -> None:
    plain = videovit.load(write_run_config(tmp_path / "a", run, "OUTPUT_DIR: /elsewhere\n"))
    assert plain.torch.head.projection.bias.tolist() == [2, 2, 2] and plain.class_names[2] == "class 2"
    older = videovit.load(tmp_path / "a" / "run", tmp_path / "a/run/checkpoints/checkpoint_epoch_00001.pyth")
    assert older.torch.head.projection.bias.tolist() == [1, 1, 1]
    text = TINY.replace("TRAIN: {", "TRAIN: {EMA_DECAY: 0.5, ").replace("TEST: {", "TEST: {USE_EMA: True, ")
    (tmp_path / "a" / "run" / "config.yaml").write_text(text)
    average = videovit.load(tmp_path / "a" / "run")
    weights = torch.load(run / "checkpoints" / "checkpoint_epoch_00002.pyth")["ema_state"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in average.torch.state_dict().items())
    average.save(tmp_path / "saved")
    assert torch.equal(videovit.load(tmp_path / "saved").torch.head.projection.bias, weights["head.projection.bias"])


def test_moved_run_finds_the_names_in_it(run: Path, tmp_path: Path) -> None:
    text = TINY.replace("DATA:\n", "DATA:\n  PATH_TO_DATA_DIR: /elsewhere/data\n  CLASS_NAMES_FILE: classes.json\n")
    folder = write_run_config(tmp_path, run, "")
    (folder / "config.yaml").write_text(text + "OUTPUT_DIR: /elsewhere\n")
    with pytest.raises(UserError, match=r"classes.json \(DATA.CLASS_NAMES_FILE\): no such file.* class_names=\[...\]"):
        videovit.load(folder)
    assert videovit.load(folder, class_names=["a", "b", "c"]).class_names == ["a", "b", "c"]
    (tmp_path / "names.txt").write_text("d\ne\nf\n")
    assert videovit.load(folder, opts=["DATA.CLASS_NAMES_FILE", tmp_path / "names.txt"]).class_names == ["d", "e", "f"]
    (folder / "data").mkdir()
    (folder / "data" / "classes.json").write_text('["left", "middle", "right"]')
    assert videovit.load(folder).class_names == ["left", "middle", "right"]


def test_run_has_its_best_weights_if_its_test_takes_them(run: Path, tmp_path: Path) -> None:
    folder = write_run_config(tmp_path, run, "")
    best = folder / "checkpoints" / "checkpoint_best.pyth"
    best.hardlink_to(run / "checkpoints" / "checkpoint_epoch_00001.pyth")
    assert videovit.load(folder).torch.head.projection.bias.tolist() == [2, 2, 2]
    (folder / "config.yaml").write_text(TINY.replace("TEST: {", "TEST: {CHECKPOINT: best, "))
    assert videovit.load(folder).torch.head.projection.bias.tolist() == [1, 1, 1]
    best.unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint_best.pyth: does not exist, but TEST.CHECKPOINT is best"):
        videovit.load(folder)


def test_config_takes_a_checkpoint(run: Path, tmp_path: Path) -> None:
    file = write_config(tmp_path)
    for checkpoint in (run, run / "checkpoints" / "checkpoint_epoch_00002.pyth"):
        model = videovit.load(file, checkpoint, class_names=["a", "b", "c"])
        assert model.torch.head.projection.bias.tolist() == [2, 2, 2] and model.class_names == ["a", "b", "c"]
    with pytest.raises(UserError, match='tiny.yaml: a config alone has no weights. Name them: videovit.load\\("'):
        videovit.load(file)
    with pytest.raises(UserError, match="00002.pyth: not a config; .*Name the config of these weights first"):
        videovit.load(run / "checkpoints" / "checkpoint_epoch_00002.pyth")
    with pytest.raises(UserError, match="class_names: found 'abc', expected a list, with a name per class"):
        videovit.load(file, run, class_names="abc")
    for source, checkpoint, name in ((None, None, "source"), (file, 3, "checkpoint")):
        with pytest.raises(UserError, match=f"{name}: found {checkpoint or source}, expected a path or name"):
            videovit.load(source, checkpoint)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="class_names: 2 names; expected 3"):
        videovit.load(file, run, class_names=["a", "b"])
    with pytest.raises(UserError, match=r"class_names: found 'c\\ud800', expected text"):
        videovit.load(file, run, class_names=["a", "b", "c\ud800"])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("zoo:mvitv2_s_16x4_k40", "did you mean mvitv2_s_16x4_k400"),
        (
            "mvitv2_s_16x4_k40",
            "mvitv2_s_16x4_k40: no such model; did you mean mvitv2_s_16x4_k400",
        ),
        ("Kinetics/MVITv2_S_16x", "did you mean Kinetics/MVITv2_S_16x4"),
        ("{folder}/mime", "did you mean {folder}/mine"),
        ("{folder}/mine", "mine: a folder without config.yaml"),
        ("Kinetics/MVITv2_S_16x4", "a config alone has no weights"),
    ],
)
def test_unknown_source_is_answered_by_the_nearest(source: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=words.format(folder=tmp_path)):
        videovit.load(source.format(folder=tmp_path))


def test_unknown_device_is_an_error(run: Path) -> None:
    for device in ("cuda:99", "gpu"):
        with pytest.raises(UserError, match=f"device {device}: not available here: .*Try auto or cpu"):
            videovit.load(run, device=device)


def test_zoo_model_comes_with_its_class_names(
    run: Path, clip: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row with a tiny model, whose file lies in the cache as if it had been downloaded."""
    file = write_config(tmp_path, TINY.replace("NUM_CLASSES: 3", "NUM_CLASSES: 400"))
    url = "https://example.org/tiny.pyth"
    row = replace(zoo.ZOO["mvitv2_s_16x4_k400"], name="tiny", config=str(file), urls=(url,), overrides=())
    monkeypatch.setitem(zoo.ZOO, "tiny", row)
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path))
    module = build_model(load_config(file)).eval()
    cached_path(url).parent.mkdir(parents=True)
    torch.save({"model_state": module.state_dict()}, cached_path(url))
    for name in ("tiny", "zoo:tiny", "Tiny"):
        model = videovit.load(name)
        assert torch.equal(logits(model, clip), module(clip)) and model.class_names[0] == "abseiling"
    with pytest.raises(CheckpointError, match="NUM_CLASSES right"):  # of another model
        videovit.load("tiny", run)


# ------------------------------------------------------------------------------------------------------------ the Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on the loopback, and an empty cache."""
    from huggingface_hub import constants

    with serve_hub() as server:
        point_to(server, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "secret")
        yield server


def test_model_goes_to_the_hub_and_back(hub: Hub, model: videovit.Model, clip: torch.Tensor, tmp_path: Path) -> None:
    url = model.push_to_hub("me/walker", private=True)
    assert url.startswith(f"{hub.url}/me/walker/commit/") and hub.private == {"me/walker"}
    assert sorted(hub.repos["me/walker"]) == sorted(FILES) and b"# walker\n" in hub.repos["me/walker"]["README.md"]
    hub.repos["me/walker"]["evil.py"] = b"raise SystemExit"
    hub.repos["me/walker@v1"] = dict(hub.repos["me/walker"])
    assert videovit.load("hf://me/walker@v1").class_names == NAMES
    again = videovit.load("hf://me/walker")
    assert torch.equal(logits(again, clip), logits(model, clip)) and again.class_names == NAMES
    assert {path.name for path in tmp_path.rglob("snapshots/*/*")} == set(FILES)  # without evil.py
    hub.shutdown()
    hub.server_close()
    assert torch.equal(logits(videovit.load("hf://me/walker"), clip), logits(model, clip))  # from the cache


def test_errors_of_the_hub_are_messages(hub: Hub, model: videovit.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="hf://me/nobody: failed: 404 .*Repository Not Found"):
        videovit.load("hf://me/nobody")
    with pytest.raises(UserError, match="hf://a/b/c: failed: Repo id must be in the form"):
        videovit.load("hf://a/b/c")
    hub.repos["me/other"] = {"README.md": b"something else"}
    with pytest.raises(UserError, match="not a complete model: config.yaml, model.*, class_names.json missing"):
        videovit.load("hf://me/other")
    hub.shutdown()
    hub.server_close()
    with pytest.raises(UserError, match="hf://me/walker: failed: "):
        model.push_to_hub("me/walker")
    with pytest.raises(UserError, match="hf://me/walker: failed: "):
        videovit.load("hf://me/walker")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="hf://me/walker: needs the package huggingface_hub. pip install"):
        videovit.load("hf://me/walker")


def test_load_zoo_name_without_data_set_suggests_full_name() -> None:
    with pytest.raises(UserError, match=r"did you mean mvitv2_s_16x4_k400\?"):
        videovit.load("mvitv2_s_16x4")
