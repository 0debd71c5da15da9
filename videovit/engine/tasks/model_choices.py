"""What a caller chooses about a model: its device, its precision, the names of its classes, numbers of things."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import torch

from videovit.config import Config
from videovit.config.rules import changed
from videovit.data.files.folders import is_text
from videovit.engine.problem import Problem
from videovit.engine.tasks.people import read_action_names
from videovit.errors import UserError
from videovit.messages import Plain, plural

Dtype = Literal["fp32", "bf16", "fp16"]
DTYPES: tuple[Dtype, ...] = ("fp32", "bf16", "fp16")


def check_counts(**counts: int) -> None:
    """Check arguments that count something; 0 stands for the usual number.

    Raises:
        UserError: one is not a whole number, or below 0.
    """
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise UserError(where=name, found=count, expected="a whole number, or 0 for the usual one")


def check_path(name: str, value: object) -> str:
    """The text of a path.

    Raises:
        UserError: it is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise UserError(where=name, found=Plain(repr(value)), expected="a path or name, as text")
    return os.fspath(value)


def check_class_names(names: Sequence[str], num_classes: int) -> list[str]:
    """The names of all classes, in order.

    Raises:
        UserError: they are one text, of another number, or not text.
    """
    if isinstance(names, str):
        raise UserError(where="class_names", found=names, expected="a list, with a name per class")
    if len(names) != num_classes:
        expected = f"{num_classes} (MODEL.NUM_CLASSES)"
        raise UserError(plural(len(names), "name"), where="class_names", expected=expected)
    if unusable := [name for name in names if not (isinstance(name, str) and is_text(name))]:
        raise UserError(where="class_names", found=unusable[0], expected="text")
    return list(names)


def read_class_names(cfg: Config) -> list[str]:
    """The class names of a config.

    Raises:
        UserError: its file is gone, or cannot be used.
    """
    try:
        names = Problem(cfg).class_names
        if not cfg.DETECTION.ENABLE:
            return names
        # The list of AVA has the classes that are evaluated; the others get no name, and are never shown.
        named = read_action_names(cfg, names)
        return [named.get(column, "") for column in range(len(names))]
    except UserError as error:
        hint = "Or name the file that lists the classes: --opts DATA.CLASS_NAMES_FILE classes.json"
        raise UserError(error, hint=f"{hint} (in Python also class_names=[...])") from error


def find_device(device: str | torch.device) -> torch.device:
    """The device of a name; "auto" is a GPU if there is one.

    Raises:
        UserError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"not available here: {reason}", where=f"device {device}", hint="Try auto or cpu") from error
    return found


def with_dtype(cfg: Config, dtype: Dtype | None) -> Config:
    """The config with another precision of evaluation; None leaves it."""
    if dtype is None:
        return cfg
    if dtype == "fp32":
        return changed(cfg, {"TEST.MIXED_PRECISION": False})
    return changed(cfg, {"TEST.MIXED_PRECISION": True, "TRAIN.MIXED_PRECISION_DTYPE": dtype})
