"""The folder of caches: downloaded weights, parsed lists, remote videos."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = "VIDEOVIT_CACHE"
"""Environment variable that names the folder."""


def cache_folder() -> Path:
    """VIDEOVIT_CACHE, else XDG_CACHE_HOME/videovit, else ~/.cache/videovit; it may not exist yet."""
    if folder := os.environ.get(CACHE):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "videovit"
