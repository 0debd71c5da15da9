"""Continue from the checkpoints of a run (`folder` finds them, `saving` writes them).

Files follow SlowFast: `OUTPUT_DIR/checkpoints/checkpoint_epoch_00010.pyth` with the keys epoch, model_state,
optimizer_state, scaler_state and cfg. Added here: step (steps done in the following epoch) and num_steps (of that
epoch), pool_norm_eps, ema_state and ema_updates (the moving average of the weights), norm_parts (statistics of the
parts of a batch, BN.NUM_SPLITS), train_list (digest of the list of videos) and versions. A sharded run writes folders
before its end, `checkpoint_epoch_00010.dcp`, which are read like files. `checkpoint_best.pyth` has the same keys
without optimizer_state and scaler_state, and best: measure, value and epoch of the best validation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from videovit.config import free_keys
from videovit.config.tree import TreeError, flatten, parse_tree
from videovit.engine import distributed
from videovit.engine.checkpoints.folder import Position, find_checkpoints
from videovit.engine.distributed.parallel import load_unsharded, shard_like
from videovit.engine.reporting.log import logger
from videovit.messages import plural
from videovit.models.convert import CheckpointError, set_pool_norm_eps
from videovit.models.convert.checksums import not_finite
from videovit.models.convert.read import read_file
from videovit.models.layers.batch_norm import load_part_statistics

START_ANEW = "start from the beginning in another OUTPUT_DIR"
MAX_LISTED = 5  # names per message
LARGEST = 2**53  # of an epoch or a step
# What values of another type or form raise in the code that takes them.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, AssertionError)


def load_model(model: nn.Module, path: Path, *, key: str = "model_state") -> dict[str, Any]:
    """Load the weights of a checkpoint of this project, strictly.

    Args:
        model: may be sharded.
        path: file, or folder of a sharded checkpoint.
        key: "model_state", or "ema_state" for the moving average.

    Returns:
        All that the checkpoint contains.

    Raises:
        CheckpointError: unreadable, or names or shapes differ from those of `model`; the first of each are listed.
    """
    state = read_file(path)
    if not isinstance(state.get(key), dict):
        if key == "ema_state":
            raise CheckpointError(f"{path} has no 'ema_state': it was trained without TRAIN.EMA_DECAY")
        raise CheckpointError(f"{path}: expected the key {key!r}, found {sorted(map(str, state))[:MAX_LISTED]}")
    if not all(isinstance(value, Tensor) for value in state[key].values()):
        raise CheckpointError(f"{path}: damaged: not all of its {key!r} are tensors")
    # Checked here, since the message of load_state_dict lists every single name.
    _check_fit(model.state_dict(), state[key], path)
    if bad := not_finite(state[key]):
        raise CheckpointError(f"{path}: damaged: not finite: {', '.join(bad[:MAX_LISTED])}")
    load_unsharded(model, state[key])
    if state.get("pool_norm_eps"):
        set_pool_norm_eps(model, state["pool_norm_eps"])
    return state


def _check_fit(wanted: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    shapes = [
        f"{n}: model {tuple(wanted[n].shape)}, file {tuple(found[n].shape)}"
        for n in wanted
        if n in found and wanted[n].shape != found[n].shape
    ]
    lines = [
        f"{title} ({len(names)}): {', '.join(names[:MAX_LISTED])}{', ...' if len(names) > MAX_LISTED else ''}"
        for title, names in (("missing in the file", missing), ("unknown to the model", unknown), ("shapes", shapes))
        if names
    ]
    if lines:
        raise CheckpointError(f"{path} does not fit the model:\n  " + "\n  ".join(lines))


def resume(
    output_dir: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    ema: AveragedModel | None = None,
    cfg_text: str = "",
    num_steps: int = 0,
    global_batch: int = 0,
    train_list: dict[str, object] | None = None,
) -> Position | None:
    """Restore training from the newest readable checkpoint in `output_dir`; damaged ones are skipped with a warning.

    Args:
        output_dir: of the run.
        model: gets the weights.
        optimizer: gets the moments; its settings (weight decay, momentum, ...) stay those of this run.
        scaler: of gradients in half precision, if any.
        ema: moving average of the weights; starts from the weights if the checkpoint has no average.
        cfg_text: config of this run. Keys that shape training and differ from the earlier run are named in a warning.
        num_steps: steps of an epoch of this run; a checkpoint from the middle of an epoch must agree. 0: not compared.
        global_batch: videos per step on all ranks together; likewise.
        train_list: `list_digest` of the training videos; likewise, and between epochs a change is logged.

    Returns:
        The position, or None if there is no checkpoint.

    Raises:
        CheckpointError: there are checkpoints and none can be used, or the newest one belongs to another optimizer or
            another length of the epoch.
    """
    problems = []
    is_first = distributed.rank() == 0
    for path in find_checkpoints(output_dir):
        try:
            state = load_model(model, path)
        except CheckpointError as error:
            problems.append(str(error))
            if is_first:
                logger.warning("skipped a checkpoint that cannot be used: %s", error)
            continue
        try:
            position = _position(state)
            _check_epoch(path, position, state, num_steps=num_steps, global_batch=global_batch)
            _check_list(path, position, state, train_list)
            _load_optimizer(optimizer, state.get("optimizer_state"), path, model)
            if scaler is not None and state.get("scaler_state"):
                scaler.load_state_dict(state["scaler_state"])
            if ema is not None:
                _load_ema(ema, model, state, path)
            load_part_statistics(model, state.get("norm_parts") or {})
        except CheckpointError:
            raise
        except _MALFORMED as error:
            raise CheckpointError(f"{path}: damaged: {type(error).__name__}: {error}. {START_ANEW}") from error
        changes = changed_keys(str(state.get("cfg") or ""), cfg_text) if is_first else []
        if changes:
            logger.warning("the run goes on with other values than before: %s", "; ".join(changes))
        done = f"{plural(position.epoch, 'epoch')} and {plural(position.step, 'step')} done"
        logger.info("resumed from %s: %s", path, done)
        return position
    if problems:
        # A fresh start would overwrite files that may still be rescued; only the user can decide that.
        others = len(problems) - 1
        more = f" (nor {plural(others, 'older one')})" if others else ""
        raise CheckpointError(f"none of the checkpoints can be used{more}; {START_ANEW}. The newest: {problems[0]}")
    return None


def _position(state: dict[str, Any]) -> Position:
    # "epoch" is the index of the last finished epoch; files of SlowFast lack the other two.
    numbers = int(state["epoch"]) + 1, int(state.get("step", 0)), int(state.get("num_steps", 0))
    if not all(0 <= number <= LARGEST for number in numbers):
        raise ValueError(f"epoch, step and number of steps are {numbers}")
    return Position(*numbers)


def _check_epoch(path: Path, position: Position, state: dict[str, Any], *, num_steps: int, global_batch: int) -> None:
    """Make sure that an epoch is resumed with the same batches; between epochs everything may change."""
    versions = state.get("versions")
    batch_before = int(versions.get("global_batch", 0)) if isinstance(versions, dict) else 0
    if position.step and num_steps and position.num_steps != num_steps:
        raise CheckpointError(
            f"{path} stands at step {position.step} of {position.num_steps} of an epoch that now has "
            f"{plural(num_steps, 'step')}: another TRAIN.BATCH_SIZE or another list? Use the earlier ones, or "
            f"{START_ANEW}"
        )
    if position.step and global_batch and batch_before not in (0, global_batch):
        raise CheckpointError(
            f"{path} stands in the middle of an epoch of {plural(batch_before, 'video')} per step, and now a step has "
            f"{global_batch} (TRAIN.BATCH_SIZE x NUM_SHARDS): samples would be lost or repeated. Use {batch_before}, "
            f"or {START_ANEW}"
        )


def _check_list(path: Path, position: Position, state: dict[str, Any], now: dict[str, Any] | None) -> None:
    """Make sure that an epoch is resumed with the same videos; between epochs a change is logged."""
    before = state.get("train_list")
    if not isinstance(before, dict) or now is None or before == now:
        return  # checkpoints of earlier versions and of SlowFast have none
    change = f"it had {plural(int(before['rows']), 'row')} and now has {plural(now['rows'], 'row')}"
    if before["rows"] == now["rows"]:
        change = f"{plural(now['rows'], 'row')} as before, with other paths or labels or in another order"
    if position.step:
        raise CheckpointError(
            f"{path} stands at step {position.step} of {position.num_steps} of an epoch, and the list of training "
            f"videos has changed ({change}): samples would be lost or repeated. Use the earlier list, or {START_ANEW}"
        )
    if distributed.rank() == 0:
        logger.warning("the list of training videos has changed since %s (%s)", path, change)


def _load_ema(ema: AveragedModel, model: nn.Module, state: dict[str, Any], path: Path) -> None:
    if isinstance(state.get("ema_state"), dict):
        _check_fit(ema.module.state_dict(), state["ema_state"], path)
        load_unsharded(ema.module, state["ema_state"])
        ema.n_averaged.fill_(int(state.get("ema_updates", 0)))
    else:
        ema.module.load_state_dict(model.state_dict())
        logger.warning("%s holds no moving average (TRAIN.EMA_DECAY): it starts from the weights", path)


def _load_optimizer(
    optimizer: torch.optim.Optimizer, state: dict[str, Any] | None, path: Path, model: nn.Module
) -> None:
    """Load the moments of a checkpoint and keep the settings of this run."""
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    groups = state["param_groups"] if state else []
    # lr_scale is ours: checkpoints of other trainers lack it.
    same = [len(g["params"]) for g in groups] == sizes and all(
        set(settings[i]) - {"lr_scale"} <= set(g) | {"lr_scale"} for i, g in enumerate(groups)
    )
    if state is None or not same:
        raise CheckpointError(
            f"{path} was written with another optimizer or other parameter groups (SOLVER.OPTIMIZING_METHOD, "
            "ZERO_WD_1D_PARAM, LAYER_DECAY, TRAIN.FREEZE, MVIT.ZERO_DECAY_POS_CLS; or by a version of this project "
            f"that decays other weights). Use the earlier settings, or {START_ANEW}"
        )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not state["state"] and "betas" in optimizer.defaults:
        raise CheckpointError(
            f"{path}: its optimizer has no moments, which {type(optimizer).__name__} needs. {START_ANEW}"
        )
    _check_moments(state["state"], parameters, model, path)
    # Moments are numbered like the parameters; in a sharded run each is sharded like its parameter.
    moments = {i: {k: _shard(parameters[i], v) for k, v in values.items()} for i, values in state["state"].items()}
    optimizer.load_state_dict({**state, "state": moments})
    # load_state_dict has replaced the settings too.
    for group, setting in zip(optimizer.param_groups, settings, strict=True):
        group.update(setting)


def _check_moments(
    moments: dict[int, dict[str, Any]], parameters: list[nn.Parameter], model: nn.Module, path: Path
) -> None:
    """Refuse moments that are not those of their parameter: fused optimizers would read other memory.

    Raises:
        CheckpointError: names the first one.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    expected: set[str] | None = None
    for i, values in moments.items():
        if not isinstance(i, int) or not 0 <= i < len(parameters):
            raise CheckpointError(f"{path}: its optimizer has moments of parameter {i!r}, of {len(parameters)}")
        name = names.get(id(parameters[i]), str(i))
        expected = set(values) if expected is None else expected
        if lacking := expected ^ set(values):
            raise CheckpointError(f"{path}: its optimizer has {min(lacking)} of some parameters alone, not of {name}")
        if (bad := not_finite(values)) or _is_negative(values.get("exp_avg_sq")):
            raise CheckpointError(
                f"{path}: damaged: {(bad or ['exp_avg_sq'])[0]} of {name} is impossible. {START_ANEW}"
            )
        for kind, value in values.items():
            if not _is_moment(kind, value, parameters[i]):
                found = tuple(value.shape) if isinstance(value, Tensor) else value
                shape = tuple(parameters[i].shape)
                raise CheckpointError(
                    f"{path}: its optimizer does not fit: {kind} of {name}: found {found!r}, expected a tensor of "
                    f"{shape}. {START_ANEW}"
                )


def _is_negative(squares: object) -> bool:
    return isinstance(squares, Tensor) and bool((squares < 0).any())


def _is_moment(kind: str, value: object, parameter: nn.Parameter) -> bool:
    if kind == "step":
        return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
    if kind == "momentum_buffer" and value is None:
        return True  # SGD without momentum, in some versions of PyTorch
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _shard(parameter: nn.Parameter, value: Any) -> Any:
    # Counters of steps have no shape of a parameter, and stay whole.
    return shard_like(parameter, value) if isinstance(value, Tensor) and value.shape == parameter.shape else value


def changed_keys(before: str, now: str) -> list[str]:
    """Keys that shape training and differ between two dumped configs.

    Args:
        before: text from a file of unknown origin; it is read with the limits of a config file.
        now: config of this run.

    Returns:
        For example `["SOLVER.BASE_LR 0.1 (was 0.003)"]`; empty if either text is not a config.
    """
    try:
        first, second = (flatten(parse_tree(text)) for text in (before, now))
    except TreeError:
        return []
    # A key that only one of them has belongs to another version of this project.
    shaping = [key for key in second if key in first and key not in free_keys()]
    return [f"{key} {second[key]} (was {first[key]})" for key in shaping if first[key] != second[key]]
