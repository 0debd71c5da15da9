"""Paths that a list names: where they count from, and that they stay inside the folder that they are meant for."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(slots=True)
class Folders:
    """Remembers what is in each folder, so that a long list costs one look per folder and not one per video."""

    _entries: dict[str, dict[str, bool]] = field(default_factory=dict)
    _real: dict[str, str] = field(default_factory=dict)

    def has(self, path: str) -> bool:
        """Whether a file stands at `path`."""
        folder, name = os.path.split(path)
        return name in self._listing(folder)

    def real(self, path: str) -> str:
        """The path with its symbolic links followed."""
        folder, name = os.path.split(path)
        if self._listing(folder).get(name, False) or name in ("", ".", ".."):
            return os.path.realpath(path)
        return os.path.join(self.real_folder(folder), name)

    def real_folder(self, folder: str) -> str:
        """A folder with its symbolic links followed."""
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return self._real[folder]

    def _listing(self, folder: str) -> dict[str, bool]:
        """Name -> whether it is a symbolic link; nothing for a folder that cannot be listed."""
        if folder not in self._entries:
            try:
                with os.scandir(folder or ".") as entries:
                    self._entries[folder] = {entry.name: entry.is_symlink() for entry in entries}
            except OSError:
                self._entries[folder] = {}
        return self._entries[folder]


def relative_to_either(path: str, root: str, folders: Folders) -> str:
    """`path` itself, or `root/path` when only that exists (or only its folder does)."""
    if os.path.isabs(path) or folders.has(path):
        return path
    under_root = os.path.join(root, path)
    if folders.has(under_root):
        return under_root
    only_there = os.path.isdir(os.path.dirname(under_root)) and not os.path.isdir(os.path.dirname(path) or ".")
    return under_root if only_there else path


def leads_out(path: str, prefix: str, folders: Folders) -> str | None:
    """Why a listed path must not be joined to the prefix, or None when it stays inside."""
    if os.path.isabs(path):
        return f"an absolute path, but paths count from DATA.PATH_PREFIX {prefix!r}"
    joined = os.path.join(prefix, path)
    if not is_inside(os.path.normpath(joined), os.path.normpath(prefix)):
        return f"leads out of DATA.PATH_PREFIX {prefix!r}"
    real = folders.real(joined)
    if not is_inside(real, folders.real_folder(prefix)):
        return f"leads out of DATA.PATH_PREFIX {prefix!r} by a symbolic link, to {real!r}"
    return None


def is_inside(path: str, folder: str) -> bool:
    """Whether a normalised path lies below a normalised folder."""
    if folder == ".":
        return not (path == ".." or path.startswith("../"))
    return path.startswith(folder.rstrip(os.sep) + os.sep)
