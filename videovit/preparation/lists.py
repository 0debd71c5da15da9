"""Tables of a release in, lists and class names out."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from videovit.data.files import listed_paths
from videovit.data.files.annotation_files import Problem, content_of, csv_rows, read_lines, refuse, suggestion
from videovit.data.files.class_names import MOST_CLASSES, read_class_names
from videovit.data.files.folders import is_text
from videovit.data.readers import kinetics
from videovit.data.records import AnnotationError
from videovit.messages import plural
from videovit.preparation.splits import SPLITS

Row = tuple[int, dict[str, str]]


def read_table(file: Path, columns: Sequence[str], *, delimiters: str = ",") -> list[Row]:
    """Read a CSV file with a header. It may begin with a byte order mark and have line ends of either kind.

    Args:
        file: the table.
        columns: required columns.
        delimiters: what may separate the columns; the first that leads to all required ones.

    Returns:
        (line number, {column: value}) of every non-empty row.

    Raises:
        AnnotationError: the file or a column is missing, a column occurs twice, it is not UTF-8, or rows do not match
            the header.
    """
    lines = read_lines(file)
    headers = {
        mark: [name.strip() for name in next(csv_rows(csv.reader(lines, delimiter=mark), file), [])]
        for mark in delimiters
    }
    best = max(delimiters, key=lambda mark: len({*columns} & {*headers[mark]}))
    # Line ends are kept for fields in quotes that contain them.
    reader = csv.reader((line + "\n" for line in lines), delimiter=best)
    header = [name.strip() for name in next(csv_rows(reader, file), [])]
    missing = [name for name in columns if name not in header]
    if missing:
        raise AnnotationError(
            f"{file}:1: found the columns {', '.join(header) or '(none)'}; expected {', '.join(columns)}"
            + suggestion(missing[0], tuple(header))
        )
    if twice := next((name for name in columns if header.count(name) > 1), None):
        raise AnnotationError(f"{file}:1: the column {twice} occurs twice; rename one of them")
    rows: list[Row] = []
    problems: list[Problem] = []
    for values in csv_rows(reader, file):
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(header):
            # Usually an unquoted comma in a field.
            why = f"found {plural(len(values), 'column')}, expected {len(header)}: {','.join(header)}"
            problems.append((reader.line_num, lines[reader.line_num - 1], why))
        else:
            rows.append((reader.line_num, {name: value.strip() for name, value in zip(header, values, strict=True)}))
    refuse(file, problems)
    return rows


def number_classes(names: Iterable[str], classes_file: str = "") -> dict[str, int]:
    """Class name -> number, in the order of a file, otherwise sorted by name.

    Args:
        names: all names that occur.
        classes_file: file of names in a format of DATA.CLASS_NAMES_FILE; empty for none.

    Raises:
        AnnotationError: the file is missing or malformed, or two classes have the same name.
    """
    if not classes_file:
        return {name: number for number, name in enumerate(sorted(set(names)))}
    listed = read_class_names(classes_file, num_classes=None)
    # Names are keys here.
    repeated = [name for name, times in Counter(listed).items() if times > 1]
    if repeated:
        raise AnnotationError(f"two classes have the same name {repeated[0]!r}", where=classes_file)
    return {name: number for number, name in enumerate(listed)}


def count_classes(folder: Path, *, separator: str = " ", skip_rows: int = 0, several: bool = False) -> int:
    """Number of classes in the lists of a folder without class names: the highest label plus one.

    Args:
        folder: contains the lists.
        separator, skip_rows, several: see `readers.kinetics.read`.

    Raises:
        AnnotationError: there is no list, or one is not UTF-8.
    """
    # So that empty lists have 0 classes.
    labels = [-1]
    for file in lists_in(folder):
        # Bad rows are reported by the check.
        rows, _ = kinetics.parse_rows(
            read_lines(file), num_classes=MOST_CLASSES, separator=separator, skip=skip_rows, several=several
        )
        labels += [label for row in rows for label in row.labels]
    return max(labels) + 1


def lists_in(folder: Path) -> list[Path]:
    """The lists train.csv, val.csv and test.csv that exist in a folder.

    Raises:
        AnnotationError: there are none.
    """
    files = [folder / f"{split}.csv" for split in SPLITS if (folder / f"{split}.csv").is_file()]
    if not files:
        raise AnnotationError(f"no train.csv, val.csv or test.csv in {str(folder)!r}; {content_of(folder)}")
    return files


def write_lists(
    output: Path,
    by_split: Mapping[str, Iterable[tuple[str, int | str]]],
    class_names: Sequence[str] | Mapping[str, int],
) -> None:
    """Write the lists of some splits and classes.json, or nothing if one of them cannot be written.

    Args:
        output: folder of the files.
        by_split: split -> (path, label) of its rows; several classes as in `readers.kinetics`.
        class_names: content of classes.json, a format of DATA.CLASS_NAMES_FILE.

    Raises:
        AnnotationError: a path contains a line break, or a path or class is not UTF-8.
    """
    texts = {"classes.json": json.dumps(class_names, indent=1, ensure_ascii=False) + "\n"}
    # JSON would accept what no other program reads.
    bad = next((name for name in class_names if not is_text(name)), None)
    if bad is not None:
        raise AnnotationError(f"{bad!r}: the name of the class is not UTF-8; rename the folder")
    texts |= {f"{split}.csv": list_text(rows) for split, rows in by_split.items()}
    output.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (output / name).write_text(text, encoding="utf-8")


def list_text(rows: Iterable[tuple[str, int | str]]) -> str:
    """`path label` lines, or `path 3;7;12` with several classes; paths may contain spaces, commas and quotes.

    Raises:
        AnnotationError: a path contains a line break or is not UTF-8.
    """
    lines = []
    for path, label in rows:
        # List files have no way to escape these.
        if "\n" in path or "\r" in path:
            raise AnnotationError(f"{path!r}: the path contains a line break; rename the file")
        if not is_text(path):
            raise AnnotationError(f"{path!r}: the path is not UTF-8; rename the file")
        lines.append(f"{listed_paths.quote(path)} {label}\n")
    return "".join(lines)


def listed_path(path: str, output: Path) -> str:
    """A path as written in a list in `output`: relative to `output` if it is inside, otherwise absolute."""
    absolute, folder = os.path.abspath(path), os.path.abspath(output)
    # Relative paths stay valid if the folder is moved.
    return os.path.relpath(absolute, folder) if listed_paths.is_inside(absolute, folder) else absolute
