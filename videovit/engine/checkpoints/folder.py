"""The folder of checkpoints, tried before the first step."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from videovit.errors import UserError


def check_folder(output_dir: Path) -> None:
    """Make sure that checkpoints can be found and written; a folder that does not exist yet is fine.

    Args:
        output_dir: of the run.

    Raises:
        UserError: it is a file or a link to nothing, cannot be listed, or cannot be written.
    """
    folder = output_dir / "checkpoints"
    if not os.path.lexists(folder):
        return
    try:
        # Not Path.glob, which takes a folder that cannot be read for an empty one: training would start anew.
        os.listdir(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot be used: {error.strerror}",
            where=folder,
            expected="a folder to list and write, or nothing at this path",
            hint="Earlier checkpoints may be there, so nothing was trained",
        ) from error
