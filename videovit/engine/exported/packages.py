"""Packages that only exported networks need: the extras [onnx], [openvino] and [int8]."""

from __future__ import annotations

import importlib
from typing import Any

from videovit.errors import UserError


def find_package(name: str, extra: str) -> Any:
    """An optional package.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"needs the package {name}", hint=f"pip install 'videovit[{extra}]'") from error
