"""Every key does something: each field of the schema is read outside the config."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from tests.helpers.project import ROOT
from videovit.config import load_config

# Only one value of these is accepted, and it is what happens anyway.
FIXED = {
    "TASK",
    "TRAIN.CHECKPOINT_TYPE",
    "TEST.CHECKPOINT_TYPE",
    "MVIT.NORM",
    "MVIT.REV.RESPATH_FUSE",
    "MASK.PRETRAIN_DEPTH",
    "MASK.HEAD_TYPE",
}


def keys(section: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def test_every_field_is_read() -> None:
    files = [
        p
        for folder in ("data", "models", "analysis", "engine", "commands")
        for p in (ROOT / "videovit" / folder).rglob("*.py")
    ]
    text = "\n".join(p.read_text(encoding="utf-8") for p in [*files, *(ROOT / "tools").glob("*.py")])
    unread = {key for key in keys(load_config()) if not re.search(rf"\.{key.rpartition('.')[2]}\b", text)}
    assert unread == FIXED  # read by engine/training/optim.py
