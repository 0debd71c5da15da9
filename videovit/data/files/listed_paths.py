"""Paths in lists: how they are written, what they are relative to, and that they stay inside their folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

USUAL_SEPARATORS = frozenset(" ,\t")
# Paths may contain separators and labels may not, so the last one counts.
LAST_FIELD = re.compile(r"(?P<path>.*)[,\t ](?P<label>[^,\t ]+)", re.DOTALL)


def split_line(text: str, separator: str) -> tuple[str, str] | None:
    """Path and label of a line, without the quotes of a CSV writer; None if the line has only one field.

    Args:
        text: the line.
        separator: DATA.PATH_LABEL_SEPARATOR; blanks, commas and tabs are understood in any case.
    """
    if separator and separator not in USUAL_SEPARATORS and separator in text:
        path, _, label = text.rpartition(separator)
    else:
        found = LAST_FIELD.fullmatch(text)
        if found is None:
            return None
        path, label = found["path"].rstrip(" \t").removesuffix(","), found["label"]
    return unquote(path.strip()), unquote(label.strip())


def unquote(text: str) -> str:
    """A CSV field without its quotes: `"a ""b"" c"` is `a "b" c`."""
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"')
    return text


def quote(path: str) -> str:
    """A path as written in a list, in quotes if `split_line` would not read it back unchanged without them."""
    # Quotes only if needed, so that lists stay readable for other tools.
    needed = path != path.strip() or path.endswith(",") or path[:1] == '"'
    return '"{}"'.format(path.replace('"', '""')) if needed else path


@dataclass(slots=True)
class Folders:
    """Caches the content of folders, so that a long list costs one listing per folder instead of one per video."""

    _entries: dict[str, dict[str, bool]] = field(default_factory=dict)
    _real: dict[str, str] = field(default_factory=dict)

    def has(self, path: str) -> bool:
        """Whether a file exists at `path`."""
        folder, name = os.path.split(path)
        return name in self._listing(folder)

    def has_links(self, folder: str) -> bool:
        """Whether an entry of a folder is a symbolic link."""
        return any(self._listing(folder).values())

    def real(self, path: str) -> str:
        """The path with symbolic links resolved."""
        folder, name = os.path.split(path)
        # Resolving every path would cost a system call per video; most are not links.
        if self._listing(folder).get(name, False) or name in ("", ".", ".."):
            return os.path.realpath(path)
        return os.path.join(self.real_folder(folder), name)

    def real_folder(self, folder: str) -> str:
        """A folder with symbolic links resolved."""
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return self._real[folder]

    def _listing(self, folder: str) -> dict[str, bool]:
        """Name -> whether it is a symbolic link; empty for a folder that cannot be listed."""
        if folder not in self._entries:
            try:
                with os.scandir(folder or ".") as entries:
                    self._entries[folder] = {entry.name: entry.is_symlink() for entry in entries}
            except OSError:
                self._entries[folder] = {}
        return self._entries[folder]


def relative_to_either(path: str, root: str, folders: Folders) -> str:
    """`path` itself, or `root/path` if only that exists (or only its folder)."""
    if os.path.isabs(path) or folders.has(path):
        return path
    under_root = os.path.join(root, path)
    if folders.has(under_root):
        return under_root
    # The video is missing in both places; the folder shows which place was meant.
    only_there = os.path.isdir(os.path.dirname(under_root)) and not os.path.isdir(os.path.dirname(path) or ".")
    return under_root if only_there else path


def written_outside(path: str) -> bool:
    """Whether a listed path by its letters alone may lead out of the folder that it is joined to."""
    return os.path.isabs(path) or ".." in path.split("/")


def leads_out(path: str, prefix: str, folders: Folders) -> str | None:
    """Why a listed path must not be joined to the prefix; None if it stays inside."""
    if os.path.isabs(path):
        return f"absolute path, but paths are relative to DATA.PATH_PREFIX {prefix!r}"
    # normpath detects `..`, realpath detects symbolic links. Lists may come from elsewhere.
    joined = os.path.join(prefix, path)
    if not is_inside(os.path.normpath(joined), os.path.normpath(prefix)):
        return f"leads out of DATA.PATH_PREFIX {prefix!r}"
    real = folders.real(joined)
    if not is_inside(real, folders.real_folder(prefix)):
        return f"leads out of DATA.PATH_PREFIX {prefix!r} through a symbolic link to {real!r}"
    return None


def is_inside(path: str, folder: str) -> bool:
    """Whether a normalized path is below a normalized folder."""
    # A relative path is below the current folder unless it starts with `..`.
    if folder == ".":
        return not (path == ".." or path.startswith("../"))
    return path.startswith(folder.rstrip(os.sep) + os.sep)
