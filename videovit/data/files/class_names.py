"""Names of classes, and named groups of classes, from small files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from videovit.data.files.annotation_files import WHOLE_NUMBER, read_json, read_lines
from videovit.data.records import AnnotationError
from videovit.messages import did_you_mean, did_you_mean_file, plural, why_no_file

# A wrong index must not lead to a list of billions of names.
MOST_CLASSES = 1_000_000


def find_beside(path: str, folder: str) -> str:
    """`path` if it exists, else the file of this name in `folder` (the folder of the lists)."""
    beside = Path(folder) / path
    return str(beside) if path and not Path(path).exists() and beside.exists() else path


def read_class_names(path: str, num_classes: int | None, folder: str = "") -> list[str]:
    """The name of every class.

    Args:
        path: a .json file with a list of names, {name: index} or {index: name}; or a text file with one name per line,
            optionally after a number like c012; empty for none.
        num_classes: K; None to accept any number.
        folder: also searched for a relative path that does not exist.

    Returns:
        K names; "class 7" and so on if no file is given.

    Raises:
        AnnotationError: the file is missing or malformed, or has another number of names.
    """
    if not path:
        return [f"class {k}" for k in range(num_classes or 0)]
    path = find_beside(path, folder)
    content = _read(path, folder, "DATA.CLASS_NAMES_FILE")
    if isinstance(content, Mapping):
        # A map may lack names for some classes, but not for the last one.
        by_index = _by_index(path, content)
        names = [by_index.get(k, f"class {k}") for k in range(max(by_index, default=-1) + 1)]
    elif isinstance(content, list):
        wrong = [name for name in content if not isinstance(name, str | int | float)]
        if wrong:
            raise AnnotationError(where=path, found=wrong[0], expected="a name")
        names = [str(name) for name in content]
    else:
        raise AnnotationError(
            where=path,
            found=content,
            expected="a list of names, or an object that maps names to indices or the reverse",
        )
    if num_classes is not None and len(names) != num_classes:
        raise AnnotationError(
            f"{plural(len(names), 'class name')}, but MODEL.NUM_CLASSES is {num_classes}",
            where=path,
            hint=f"Set MODEL.NUM_CLASSES {len(names)}, or DATA.CLASS_NAMES_FILE to a file of {num_classes} names",
        )
    return names


def _read(path: str, folder: str, key: str) -> object:
    file = Path(path)
    if found := why_no_file(file):
        raise AnnotationError(f"{found}, expected a file", where=f"{path} ({key})")
    if not os.path.isfile(file):
        near = did_you_mean_file(file.name, (p.name for p in file.parent.glob("*")))
        beside = f", nor {Path(folder) / path}" if folder else ""
        raise AnnotationError(
            f"no such file{beside}", where=f"{path} ({key})", near=str(file.parent / near) if near else ""
        )
    if file.suffix != ".json":
        lines = read_lines(file)
        names = [line.strip() for line in lines if line.strip()]
        numbered = all(re.match(rf"c{k:03d}\s", name) for k, name in enumerate(names))  # Charades
        return [name.partition(" ")[2].strip() if numbered else name for name in names]
    return read_json(file)[1]


def _by_index(path: str, content: Mapping[str, object]) -> dict[int, str]:
    names: dict[int, str] = {}
    for key, value in content.items():
        if isinstance(value, int) and not isinstance(value, bool):
            names[value] = key.strip('"')  # name files of Kinetics in circulation keep the quotes of their CSV source
        elif WHOLE_NUMBER.fullmatch(key) and isinstance(value, str):
            names[int(key)] = value
        elif isinstance(value, str) and WHOLE_NUMBER.fullmatch(value):  # Something-Something
            names[int(value)] = key
        else:
            raise AnnotationError(where=path, found={key: value}, expected="name: index")
    if len(names) != len(content):
        raise AnnotationError("two classes have the same index", where=path)
    for index, name in names.items():
        if not 0 <= index < MOST_CLASSES:
            raise AnnotationError(f"found index {index} of {name!r}, expected 0 to the number of classes", where=path)
    return names


def read_class_groups(path: str, names: Sequence[str], folder: str = "") -> dict[str, list[int]]:
    """Groups of classes from a JSON file {group: [class names or indices]}; no groups if `path` is empty.

    Args:
        path: the file.
        names: the name of every class.
        folder: also searched for a relative path that does not exist.

    Raises:
        AnnotationError: the file is missing or malformed, or a class is unknown.
    """
    if not path:
        return {}
    path = find_beside(path, folder)
    content = _read(path, folder, "SHUFFLE_EVAL.CLASS_GROUPS_FILE")
    if not isinstance(content, Mapping) or not all(isinstance(v, list) for v in content.values()):
        raise AnnotationError("expected {group: [class names or indices]}", where=path)
    return {group: [_index_of(path, member, names) for member in members] for group, members in content.items()}


def _index_of(path: str, member: object, names: Sequence[str]) -> int:
    if isinstance(member, int) and 0 <= member < len(names):
        return member
    if member in names:
        return list(names).index(str(member))
    raise AnnotationError(f"unknown class {member!r}", where=path, near=did_you_mean(str(member), names))
