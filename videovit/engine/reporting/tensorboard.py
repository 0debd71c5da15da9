"""Scalars for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from videovit.errors import UserError


class TensorBoard:
    """Event files of one run.

    Args:
        folder: created if absent.

    Raises:
        UserError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                "TENSORBOARD.ENABLE is True, but the package tensorboard is not installed: pip install tensorboard"
            ) from error
        # Made when the first curve comes: it creates a file, and the folder may belong to another run.
        self._make_writer: Any = partial(SummaryWriter, str(folder))  # without type annotations
        self._writer: Any = None

    def add(self, kind: str, values: Mapping[str, object], step: int) -> None:
        """Add every number among `values` as the curve `<kind>/<name>`."""
        if self._writer is None:
            self._writer = self._make_writer()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Write what is still buffered."""
        if self._writer is not None:
            self._writer.close()
