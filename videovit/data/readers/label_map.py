"""AVA's class lists: protocol buffers in text format, of which only names and numbers are read.

item { name: "bend/bow (at the waist)" id: 1 }              the 60 evaluated classes
label { name: "bend/bow (at the waist)" label_id: 1 label_type: PERSON_MOVEMENT }       all 80
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from videovit.data.files.folders import is_text
from videovit.data.readers.ava import read_annotation
from videovit.data.records import AnnotationError

# A regular expression instead of the protobuf package, because only two fields are needed.
TOKEN = re.compile(
    r"""\s*(?:(?P<word>[A-Za-z_]\w*)|(?P<number>-?\d{1,18})|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<mark>[{}:,;])"""
    r"""|(?P<comment>\#.*)|(?P<other>\S))"""
)
BLOCKS, IDS = ("item", "label"), ("id", "label_id")


def read_label_map(path: str | Path, num_classes: int) -> dict[int, str]:
    """Read a class list.

    Args:
        path: the file, `.pbtxt`.
        num_classes: ids must be in 1..num_classes (MODEL.NUM_CLASSES).

    Returns:
        Class id -> name, by ascending id.

    Raises:
        AnnotationError: the file is missing, malformed, or has no classes.
    """
    path = Path(path)
    names: dict[int, str] = {}
    for number, fields in _blocks(path):
        # The two releases name the field differently.
        class_id = next((fields[key] for key in IDS if key in fields), None)
        name = fields.get("name")
        if not isinstance(class_id, int) or not isinstance(name, str):
            raise AnnotationError(where=f"{path}:{number}", found=fields, expected="a name and an id")
        if not 1 <= class_id <= num_classes:
            raise AnnotationError(
                f"found id {class_id}, expected 1 to {num_classes} (MODEL.NUM_CLASSES)", where=f"{path}:{number}"
            )
        if class_id in names:
            raise AnnotationError(f"id {class_id} is already {names[class_id]!r}", where=f"{path}:{number}")
        names[class_id] = name
    if not names:
        raise AnnotationError("no classes", where=path, expected='blocks like item { name: "sit" id: 11 }')
    return dict(sorted(names.items()))


def _tokens(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, kind, text) of every token except comments."""
    for number, line in enumerate(read_annotation(path), start=1):
        for found in TOKEN.finditer(line):
            kind = str(found.lastgroup)
            if kind == "other":
                raise AnnotationError(
                    f"found {found[kind]!r} in {line.strip()!r}, expected name: value", where=f"{path}:{number}"
                )
            if kind != "comment":
                yield number, kind, found[kind]


def _text(quoted: str, where: str) -> str:
    try:
        text = str(ast.literal_eval(quoted))
    except (SyntaxError, ValueError) as error:
        raise AnnotationError(f"found {quoted}, expected a string: {error}", where=where) from None
    if not is_text(text):
        raise AnnotationError(f"found {quoted}, which has half a character in it", where=where)
    return text


def _blocks(path: Path) -> Iterator[tuple[int, dict[str, int | str]]]:
    """(line number, fields) of every block."""
    tokens = _tokens(path)
    # Stands for tokens after a truncated file.
    end = (0, "mark", "end of file")
    for number, _, word in tokens:
        if word not in BLOCKS or next(tokens, end)[2] != "{":
            raise AnnotationError(where=f"{path}:{number}", found=word, expected="item { or label {")
        fields: dict[str, int | str] = {}
        for line, kind, key in tokens:
            if key == "}":
                break
            # The format allows separators between fields.
            if (kind, key) in (("mark", ","), ("mark", ";")):
                continue
            colon, (_, value_kind, value) = next(tokens, end)[2], next(tokens, end)
            if kind != "word" or colon != ":" or value_kind == "mark":
                raise AnnotationError(f"found {key} {colon} {value}, expected name: value", where=f"{path}:{line}")
            if value_kind == "number":
                fields[key] = int(value)
            else:
                # Strings have the escapes of C, a subset of Python's.
                fields[key] = _text(value, f"{path}:{line}") if value_kind == "text" else value
        else:
            raise AnnotationError("the block has no closing }", where=f"{path}:{number}")
        yield number, fields
