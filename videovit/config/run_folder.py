"""The folder of a run: an OUTPUT_DIR with a config.yaml."""

from __future__ import annotations

from pathlib import Path

from videovit.errors import UserError
from videovit.messages import did_you_mean_beside


def config_of_run(folder: Path) -> Path:
    """The config.yaml of a run.

    Args:
        folder: its OUTPUT_DIR.

    Raises:
        UserError: it does not exist, or is no folder of a run.
    """
    if not folder.is_dir():
        what = "a file, not a folder" if folder.exists() else "no such folder"
        near = did_you_mean_beside(folder)
        raise UserError(what, where=folder, expected="" if near else "the OUTPUT_DIR of a run", near=near)
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError("has no config.yaml", where=folder, expected="the OUTPUT_DIR of a run")
    return path
