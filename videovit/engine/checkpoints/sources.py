"""Where a model comes from: a run, the zoo, a saved folder, the Hugging Face Hub, or a config with its weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from videovit.config import Config, find_shipped, load_config, with_opts
from videovit.config.rules import changed
from videovit.config.shipped import SUFFIXES, shipped_configs
from videovit.engine.checkpoints import hub
from videovit.engine.checkpoints.folder import find_checkpoints
from videovit.engine.checkpoints.hf_folder import is_hf, read_hf
from videovit.engine.checkpoints.saved_model import (
    CONFIG,
    METADATA,
    is_saved,
    load_saved_weights,
    read_described,
    read_saved,
)
from videovit.engine.checkpoints.weights import load_all_weights, load_weights_to_test
from videovit.errors import UserError
from videovit.messages import did_you_mean
from videovit.models import zoo

ARCHITECTURE = ("MODEL", "MVIT", "VIT", "PSVIT", "SUPERNET", "PIT", "PS_VIT", "HF", "DETECTION")
"""Sections that a model is built from."""
KINDS = (
    "the OUTPUT_DIR of a run, zoo:NAME (videovit zoo lists them), a folder written by Model.save or by transformers, "
    "hf://user/name, a file of videovit export --format, or a config together with a checkpoint"
)


_ONLY_PREDICTS = "an exported network, with which only `videovit predict` and videovit.load can work"
NETWORKS = {
    ".onnx": _ONLY_PREDICTS,
    ".xml": _ONLY_PREDICTS,
    ".pt2": "a program of torch.export, which is not read, since reading one can run code that is in it",
}
"""Suffix of a file that is not weights -> why it is not a source."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a source holds.

    Attributes:
        cfg: of the model.
        load_weights: loads the weights of the source.
        class_names: None if only the config knows them.
        weights: file or folder that the config came with, which bounds the size of the model; None if the config is the
            user's.
    """

    cfg: Config
    load_weights: Callable[[Config, nn.Module], object]
    class_names: list[str] | None = None
    weights: Path | None = None


def find_source(source: str, opts: Sequence[object] = (), *, named: bool) -> Found:
    """Find out what a source is.

    Args:
        source, opts: see `videovit.load`.
        named: weights are named beside it.

    Raises:
        UserError: there is no such source, or it lacks a file, or `opts` would change its architecture.
    """
    found = _find(source, named=named)
    given = {str(key).partition(".")[0] for key in opts[::2]}
    if found.load_weights is not _nothing and (fixed := [name for name in ARCHITECTURE if name in given]):
        raise UserError(
            f"{fixed[0]} belongs to the model, which is loaded already",
            where="--opts",
            hint="To build another model, give --cfg and --checkpoint in place of --model",
        )
    return dataclasses.replace(found, cfg=with_opts(found.cfg, opts))


def _find(source: str, *, named: bool) -> Found:
    if source.startswith(hub.PREFIX):
        return _find_folder(hub.download(source))
    path = Path(source)
    if path.is_dir():
        return _find_folder(path) if is_hf(path) or is_saved(path) else _find_run(path)
    if not path.is_file() and (entry := _in_zoo(source)) is not None:
        weights = f"{zoo.PREFIX}{entry.name}"
        return Found(
            zoo.load_zoo_config(entry), lambda _, module: load_all_weights(module, weights), zoo.class_names(entry)
        )
    if not path.is_file() and find_shipped(source) is None:
        # A zoo name without its data set resembles a config more than the full name.
        longer = [] if named else [name for name in zoo.ZOO if name.startswith(f"{source}_")]
        near = longer[0] if longer else did_you_mean(source, [*zoo.ZOO, *shipped_configs(), *_beside(path)])
        raise UserError("no such model", where=source, expected="" if near else KINDS, near=near)
    if path.is_file() and path.suffix in NETWORKS:
        raise UserError(NETWORKS[path.suffix], where=source, expected=KINDS)
    if path.is_file() and path.suffix == ".safetensors" and not named and (metadata := _metadata(path)) is not None:
        return Found(*_described(path, metadata), path)
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        hint = f'Name the config of these weights first: videovit.load("my.yaml", "{source}"); in a command, '
        hint += f"--model my.yaml --checkpoint {source}"
        raise UserError("not a config", where=source, expected=KINDS, hint=hint)
    if not named:
        hint = f'Name them: videovit.load("{source}", "weights.pyth"); in a command, --checkpoint weights.pyth'
        raise UserError("a config alone has no weights", where=source, hint=hint)
    return Found(load_config(source), _nothing)


def _in_zoo(source: str) -> zoo.ZooModel | None:
    """The row of the zoo that a source names; None if it names none, and does not claim to."""
    try:
        return zoo.find(source)
    except UserError:
        if source.startswith(zoo.PREFIX):
            raise
        return None


def _find_folder(folder: Path) -> Found:
    """A model in a folder, of transformers or saved here."""
    if (folder / CONFIG).is_file() or not is_hf(folder):
        return _find_saved(folder)
    cfg, class_names = read_hf(folder)
    return Found(cfg, lambda _, module: load_all_weights(module, str(folder)), class_names, folder)


def _find_saved(folder: Path) -> Found:
    cfg, class_names = read_saved(folder)
    return Found(cfg, lambda _, module: load_saved_weights(folder, module), class_names, folder)


def _metadata(path: Path) -> dict[str, str] | None:
    """What `videovit export --format safetensors` wrote beside the weights; None for other files."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA)
        return None if text is None else dict(json.loads(text))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"not a readable safetensors file: {error}", where=path) from error


def _described(path: Path, metadata: dict[str, str]) -> tuple[Config, Callable[[Config, nn.Module], object], list[str]]:
    cfg, class_names = read_described(metadata, path)
    return cfg, lambda _, module: load_all_weights(module, str(path)), class_names


def _find_run(folder: Path) -> Found:
    config = folder / CONFIG
    if not config.is_file():
        raise UserError(f"a folder without {CONFIG}", where=folder, expected=KINDS)
    cfg = load_config(config)
    # The folder may have been moved, with data in it that a command made for the run.
    before, data = Path(cfg.OUTPUT_DIR), Path(cfg.DATA.PATH_TO_DATA_DIR)
    if data.is_relative_to(before) and before.parts:
        cfg = changed(cfg, {"DATA.PATH_TO_DATA_DIR": str(folder / data.relative_to(before))})
    # What training wrote comes before what the test of the run was given.
    given = "" if find_checkpoints(folder) else cfg.TEST.CHECKPOINT_FILE_PATH
    cfg = changed(cfg, {"OUTPUT_DIR": str(folder), "TEST.CHECKPOINT_FILE_PATH": given})
    return Found(cfg, load_weights_to_test)


def _nothing(cfg: Config, module: nn.Module) -> None:
    pass


def _beside(path: Path) -> list[str]:
    """Names of the files beside a missing path."""
    return [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
