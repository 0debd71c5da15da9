"""Resuming: checkpoints are found and restored, damaged ones skipped, and none can run code."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from videovit.config import dump_config, load_config
from videovit.data.records import Action, Sample
from videovit.engine.checkpoints.folder import Position, checkpoint_path, find_checkpoints
from videovit.engine.checkpoints.resume import changed_keys, load_model, resume
from videovit.engine.checkpoints.saving import snapshot, write_checkpoint
from videovit.engine.checkpoints.train_list import list_digest
from videovit.engine.training.optim import build_ema
from videovit.models import build_model
from videovit.models.convert import CheckpointError, pool_norm_eps, set_pool_norm_eps


def parts(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, epoch: int, step: int = 0, seed: int = 0) -> Path:
    model, optimizer = parts(seed)
    position = Position(epoch, step)
    path = checkpoint_path(folder, position)
    write_checkpoint(path, snapshot(model, position=position, cfg_text="A: 1\n", optimizer=optimizer))
    return path


def test_find_checkpoints_sorts_newest_first(tmp_path: Path) -> None:
    for epoch, step in ((1, 0), (10, 0), (9, 120), (9, 0), (10, 5)):
        save(tmp_path, epoch, step)
    (tmp_path / "checkpoints" / "checkpoint_epoch_best.pyth").touch()
    assert [p.name for p in find_checkpoints(tmp_path)] == [
        "checkpoint_epoch_00010_step_000005.pyth",
        "checkpoint_epoch_00010.pyth",
        "checkpoint_epoch_00009_step_000120.pyth",
        "checkpoint_epoch_00009.pyth",
        "checkpoint_epoch_00001.pyth",
    ]
    assert find_checkpoints(tmp_path / "absent") == []


def test_checkpoint_has_slowfast_keys(tmp_path: Path) -> None:
    state = torch.load(save(tmp_path, 3), weights_only=True)
    assert state.keys() == {
        "epoch",
        "step",
        "num_steps",
        "model_state",
        "optimizer_state",
        "scaler_state",
        "ema_state",
        "ema_updates",
        "cfg",
        "pool_norm_eps",
        "train_list",
        "versions",
    }
    assert state["epoch"] == 2  # index of the last finished epoch


def test_resume_restores_model_optimizer_and_position(tmp_path: Path) -> None:
    save(tmp_path, 2, step=7, seed=1)
    expected, expected_optimizer = parts(seed=1)
    model, optimizer = parts(seed=2)
    position = resume(tmp_path, model=model, optimizer=optimizer, scaler=None)
    assert position == Position(2, 7)
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(optimizer.state.values(), expected_optimizer.state.values(), strict=True):
        assert torch.equal(a["exp_avg"], b["exp_avg"])


def test_pool_norm_eps_is_restored(tmp_path: Path) -> None:
    opts = "MVIT.DEPTH 1 MVIT.EMBED_DIM 8 MVIT.POOL_KVQ_KERNEL [3,3,3] MVIT.POOL_KV_STRIDE_ADAPTIVE [1,2,2] "
    opts += "MVIT.PATCH_PADDING [1,3,3] DATA.TRAIN_CROP_SIZE 32 MODEL.NUM_CLASSES 2"
    first, second = (build_model(load_config(None, opts.split())) for _ in range(2))
    set_pool_norm_eps(first, 1e-5)
    path = checkpoint_path(tmp_path, Position(1))
    write_checkpoint(path, snapshot(first, position=Position(1), cfg_text=""))
    load_model(second, path)
    assert pool_norm_eps(second) == 1e-5


def test_another_optimizer_or_length_of_the_epoch_is_refused(tmp_path: Path) -> None:
    model, optimizer = parts()
    position = Position(1, 2, num_steps=5)
    path = checkpoint_path(tmp_path, position)
    write_checkpoint(path, snapshot(model, position=position, cfg_text="", optimizer=optimizer))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(CheckpointError, match="another optimizer.*another OUTPUT_DIR"):
        resume(tmp_path, model=model, optimizer=sgd, scaler=None, num_steps=5)
    with pytest.raises(CheckpointError, match="step 2 of 5 of an epoch that now has 3"):
        resume(tmp_path, model=model, optimizer=optimizer, scaler=None, num_steps=3)
    assert resume(tmp_path, model=model, optimizer=optimizer, scaler=None, num_steps=5) == position


def test_optimizer_keeps_settings_of_this_run(tmp_path: Path) -> None:
    save(tmp_path, 1)
    model, optimizer = parts()
    optimizer.param_groups[0]["weight_decay"] = 0.5
    resume(tmp_path, model=model, optimizer=optimizer, scaler=None)
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


def test_changed_keys_lists_shaping_keys_only() -> None:
    before = dump_config(load_config(None, ["SOLVER.BASE_LR", "0.003"]))
    now = dump_config(load_config(None, ["SOLVER.BASE_LR", "0.1", "OUTPUT_DIR", "x", "TEST.BATCH_SIZE", "3"]))
    assert changed_keys(before, now) == ["SOLVER.BASE_LR 0.1 (was 0.003)"]
    assert changed_keys("", now) == []
    free = "NUM_GPUS 0 LOG_PERIOD 3 DATA_LOADER.NUM_WORKERS 1 TEST.BATCH_SIZE 1 AVA.MOVIE_DIR b DATA.PATH_PREFIX c"
    free += " DATA.TEST_CROP_SIZE 192 AVA.TEST_LISTS [d] AVA.FULL_TEST_ON_VAL True AVA.GROUNDTRUTH_FILE e"  # tests
    shaping = "PIT.DROPPATH_RATE 0.2 DISTILL.ALPHA 0.1 AVA.DETECTION_SCORE_THRESH 0.5 VIT.DROPOUT_RATE 0.3 RNG_SEED 7"
    changes = changed_keys(before, dump_config(load_config(None, f"SOLVER.BASE_LR 0.003 {free} {shaping}".split())))
    assert sorted(change.partition(" (was ")[0] for change in changes) == sorted(
        f"{key} {value}" for key, value in zip(shaping.split()[::2], shaping.split()[1::2], strict=True)
    )


def test_malicious_config_in_a_checkpoint_is_ignored() -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    now = dump_config(load_config(None))
    for text in (bomb, "SOLVER: {BASE_LR: !!python/object/apply:os.system [exit]}", "a: [", "[" * 500):
        assert changed_keys(text, now) == []


def test_resume_without_checkpoints_returns_none(tmp_path: Path) -> None:
    model, optimizer = parts()
    assert resume(tmp_path, model=model, optimizer=optimizer, scaler=None) is None


def test_truncated_newest_file_is_skipped(tmp_path: Path) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    newest.write_bytes(newest.read_bytes()[:-100])
    model, optimizer = parts()
    assert resume(tmp_path, model=model, optimizer=optimizer, scaler=None) == Position(1)


def test_newest_file_with_a_page_of_zeros_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2, seed=1)
    data, weight = newest.read_bytes(), parts(seed=1)[0].weight.detach().numpy().tobytes()
    assert data.count(weight) == 1
    newest.write_bytes(data.replace(weight, bytes(len(weight))))
    model, optimizer = parts(seed=2)
    assert resume(tmp_path, model=model, optimizer=optimizer, scaler=None) == Position(1)
    assert "checkpoint_epoch_00002.pyth: damaged" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exp_avg", torch.zeros(2, 2)),
        ("exp_avg_sq", torch.zeros(6)),
        ("exp_avg", torch.zeros(())),
        ("step", torch.zeros(3)),
        ("exp_avg", None),
    ],
)
@pytest.mark.parametrize("fused", [False, True])
def test_moments_of_another_shape_are_refused(
    tmp_path: Path, name: str, value: torch.Tensor | None, fused: bool
) -> None:
    model, optimizer = parts()
    state = snapshot(model, position=Position(1), cfg_text="", optimizer=optimizer)
    state["optimizer_state"]["state"][0][name] = value
    write_checkpoint(checkpoint_path(tmp_path, Position(1)), state)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    with pytest.raises(CheckpointError, match=f"optimizer.* {name} of weight"):
        resume(tmp_path, model=model, optimizer=optimizer, scaler=None)


def test_moments_unknown_or_incomplete_are_refused(tmp_path: Path) -> None:
    for change in (lambda moments: moments.update({7: moments[0]}), lambda moments: moments[0].pop("exp_avg_sq")):
        model, optimizer = parts()
        state = snapshot(model, position=Position(1), cfg_text="", optimizer=optimizer)
        change(state["optimizer_state"]["state"])
        write_checkpoint(checkpoint_path(tmp_path, Position(1)), state)
        with pytest.raises(CheckpointError, match="optimizer"):
            resume(tmp_path, model=model, optimizer=optimizer, scaler=None)


@pytest.mark.parametrize("key", ["epoch", "step", "optimizer_state", "scaler_state", "ema_state", "model_state"])
@pytest.mark.parametrize("value", [None, "x", [], {"state": 3, "param_groups": "x"}])
def test_nonsense_in_a_checkpoint_is_a_checkpoint_error(tmp_path: Path, key: str, value: object) -> None:
    model, optimizer = parts()
    ema, scaler = build_ema(model, 0.5), torch.amp.GradScaler("cpu")
    state = snapshot(model, position=Position(1), cfg_text="", optimizer=optimizer, ema=ema, scaler=scaler)
    torch.save(state | {key: value}, tmp_path / "one.pyth")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "one.pyth").rename(checkpoint_path(tmp_path, Position(1)))
    try:
        resume(tmp_path, model=model, optimizer=optimizer, scaler=scaler, ema=ema)
    except CheckpointError:
        return
    assert key in ("scaler_state", "ema_state") and not isinstance(value, dict)  # they may be absent


def change_moment(kind: str, number: float) -> Callable[[dict[str, Any]], object]:
    return lambda state: state["optimizer_state"]["state"][0][kind].fill_(number)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.update(epoch=-5),
            r"damaged: ValueError: epoch, step and number of steps are \(-4, 0, 0\)",
        ),
        (lambda state: state.update(epoch=10**30), "damaged: ValueError: epoch, step"),
        (lambda state: state.update(step=-1), "damaged: ValueError: epoch, step"),
        (lambda state: next(iter(state["model_state"].values())).fill_(float("nan")), "damaged: not finite: "),
        (change_moment("exp_avg", float("inf")), "damaged: exp_avg of .* is impossible"),
        (change_moment("exp_avg_sq", -1.0), "damaged: exp_avg_sq of .* is impossible"),
        (lambda state: state["optimizer_state"].update(state={}), "its optimizer has no moments, which AdamW needs"),
    ],
)
def test_impossible_numbers_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    """In files whose checksums are right."""
    path = save(tmp_path, 1)
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    model, optimizer = parts()
    with pytest.raises(CheckpointError, match=message):
        resume(tmp_path, model=model, optimizer=optimizer, scaler=None)


SAMPLES = [Sample(f"/data/{name}.mp4", label) for label, name in enumerate("abcd")]


def resume_with_list(folder: Path, samples: list[Sample], *, step: int, **roots: str) -> Position | None:
    model, optimizer = parts()
    position = Position(1, step, num_steps=4 if step else 0)
    before = list_digest(SAMPLES, ["/data"])
    state = snapshot(model, position=position, cfg_text="", optimizer=optimizer, train_list=before)
    write_checkpoint(checkpoint_path(folder, position), state)
    now = list_digest(samples, [roots.get("root", "/data")])
    return resume(folder, model=model, optimizer=optimizer, scaler=None, num_steps=4, train_list=now)


@pytest.mark.parametrize(
    ("samples", "what"),
    [
        (SAMPLES[::-1], "4 rows"),
        (SAMPLES[:3], "3 rows"),
        ([*SAMPLES, Sample("/data/e.mp4", 0)], "5 rows"),
        ([*SAMPLES[:3], Sample("/data/d.mp4", 0)], "4 rows"),
        ([*SAMPLES[:3], Sample("/data/other.mp4", 3)], "4 rows"),
        ([*SAMPLES[:3], Sample("/data/d.mp4", 3, actions=(Action(1, 0.0, 1.0),))], "4 rows"),
    ],
)
def test_changed_list_refused_within_epoch_warned_between(
    samples: list[Sample], what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CheckpointError, match=rf"step 2 of 4 .*list.*{what}.*samples would be lost or repeated"):
        resume_with_list(tmp_path / "within", samples, step=2)
    assert resume_with_list(tmp_path / "between", samples, step=0) == Position(1)
    assert "the list of training videos has changed" in caplog.text and what in caplog.text


def test_same_list_in_another_folder_is_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    moved = [Sample(sample.path.replace("/data", "/mnt/disk"), sample.label) for sample in SAMPLES]
    assert resume_with_list(tmp_path, moved, step=2, root="/mnt/disk") == Position(1, 2, 4)
    assert "the list of training videos" not in caplog.text  # the path of the test has "list" in it


def test_older_checkpoint_without_a_digest_resumes(tmp_path: Path) -> None:
    save(tmp_path, 1, step=2)
    model, optimizer = parts()
    now = list_digest(SAMPLES, [])
    assert resume(tmp_path, model=model, optimizer=optimizer, scaler=None, train_list=now) == Position(1, 2)


def test_only_damaged_files_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, 1).write_bytes(b"")
    model, optimizer = parts()
    with pytest.raises(CheckpointError, match="none of the checkpoints can be used"):
        resume(tmp_path, model=model, optimizer=optimizer, scaler=None)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"weight: model \(5, 3\), file \(2, 3\)"):
        load_model(nn.Linear(3, 5), path)
    with pytest.raises(CheckpointError, match="missing in the file .*0.weight"):
        load_model(nn.Sequential(nn.Linear(3, 2)), path)


class Malicious:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.witness,))


@pytest.mark.parametrize("plain_pickle", [False, True])
def test_untrusted_file_runs_no_code(tmp_path: Path, plain_pickle: bool) -> None:
    path, witness = tmp_path / "bad.pyth", tmp_path / "witness"
    if plain_pickle:
        path.write_bytes(pickle.dumps({"model_state": Malicious(witness)}))
    else:
        torch.save({"model_state": Malicious(witness)}, path)
    with pytest.raises(CheckpointError):
        load_model(nn.Linear(3, 2), path)
    assert not witness.exists()


def test_moving_average_is_resumed_or_starts_from_the_weights(tmp_path: Path) -> None:
    model, optimizer = parts(seed=1)
    ema = build_ema(model, 0.5)
    assert ema is not None
    ema.update_parameters(model)
    nn.init.zeros_(model.weight)
    ema.update_parameters(model)
    position = Position(1)
    path = checkpoint_path(tmp_path, position)
    write_checkpoint(path, snapshot(model, position=position, cfg_text="", optimizer=optimizer, ema=ema))
    other, other_optimizer = parts(seed=2)
    found = build_ema(other, 0.5)
    resume(tmp_path, model=other, optimizer=other_optimizer, scaler=None, ema=found)
    assert found is not None and found.n_averaged == 2
    assert torch.equal(found.module.weight, ema.module.weight) and found.module.weight.any()
    load_model(other, path, key="ema_state")
    assert torch.equal(other.weight, ema.module.weight)

    write_checkpoint(path, snapshot(model, position=position, cfg_text="", optimizer=optimizer))
    resume(tmp_path, model=other, optimizer=other_optimizer, scaler=None, ema=found)
    assert torch.equal(found.module.weight, model.weight)
    with pytest.raises(CheckpointError, match="no 'ema_state': it was trained without TRAIN.EMA_DECAY"):
        load_model(other, path, key="ema_state")


def test_mid_epoch_resume_with_another_global_batch_is_refused(tmp_path: Path) -> None:
    model, optimizer = parts()
    position = Position(1, 2, num_steps=5)
    state = snapshot(model, position=position, cfg_text="", optimizer=optimizer, global_batch=8)
    write_checkpoint(checkpoint_path(tmp_path, position), state)
    with pytest.raises(CheckpointError, match="8 videos per step, and now a step has 16"):
        resume(tmp_path, model=model, optimizer=optimizer, scaler=None, num_steps=5, global_batch=16)
    assert resume(tmp_path, model=model, optimizer=optimizer, scaler=None, num_steps=5, global_batch=8) == position


def test_gradient_scaler_is_resumed(tmp_path: Path) -> None:
    model, optimizer = parts()
    scaler, other = torch.amp.GradScaler("cpu", init_scale=4.0), torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.full((1, 3), float("inf"))).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    state = snapshot(model, position=Position(1), cfg_text="", optimizer=optimizer, scaler=scaler)
    write_checkpoint(checkpoint_path(tmp_path, Position(1)), state)
    resume(tmp_path, model=model, optimizer=optimizer, scaler=other)
    assert other.state_dict() == scaler.state_dict() and other.get_scale() == 2.0
