"""What the scripts in datasets/ share: tables of a release, lists and class names, the end of the command line."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from videovit.data.files import listed_paths
from videovit.data.files.annotation_files import Problem, content_of, read_lines, refuse, suggestion
from videovit.data.files.class_names import MOST_CLASSES, read_class_names
from videovit.data.files.folders import is_text
from videovit.data.readers import kinetics
from videovit.data.records import AnnotationError, Sample
from videovit.errors import UserError
from videovit.preparation.check import Entry, Finding, check_entries, summary, write_report

SPLITS = ("train", "val", "test")
Row = tuple[int, dict[str, str]]


def read_table(file: Path, columns: Sequence[str]) -> list[Row]:
    """Read a CSV file with a header; it may begin with a byte order mark and end lines either way.

    Args:
        file: the table.
        columns: those that must be there.

    Returns:
        (line number, {column: value}) of every row that is not empty.

    Raises:
        AnnotationError: missing, not text, a column is missing, or rows have more or fewer fields than the header.
    """
    lines = read_lines(file)
    reader = csv.reader(lines)
    header = [name.strip() for name in next(reader, [])]
    lacking = [name for name in columns if name not in header]
    if lacking:
        raise AnnotationError(
            f"{file}:1: found the columns {', '.join(header) or '(none)'}; expected {', '.join(columns)}"
            + suggestion(lacking[0], tuple(header))
        )
    rows: list[Row] = []
    problems: list[Problem] = []
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(header):
            why = f"{len(values)} columns, expected {len(header)}: {','.join(header)}"
            problems.append((reader.line_num, lines[reader.line_num - 1], why))
        else:
            rows.append((reader.line_num, {name: value.strip() for name, value in zip(header, values, strict=True)}))
    refuse(file, problems)
    return rows


def number_classes(names: Iterable[str], classes_file: str = "") -> dict[str, int]:
    """Class name -> number: in the order of a file, else by name.

    Args:
        names: all that occur.
        classes_file: as DATA.CLASS_NAMES_FILE, or "".

    Raises:
        AnnotationError: the file is missing, of another form, or gives two classes one name.
    """
    if not classes_file:
        return {name: number for number, name in enumerate(sorted(set(names)))}
    listed = read_class_names(classes_file, num_classes=None)
    twice = [name for name, times in Counter(listed).items() if times > 1]
    if twice:
        raise AnnotationError(f"{classes_file}: two classes are called {twice[0]!r}; names have to tell classes apart")
    return {name: number for number, name in enumerate(listed)}


def count_classes(folder: Path) -> int:
    """How many classes the lists of a folder have, where no file names them: one more than their highest label.

    Raises:
        AnnotationError: there is no list, or one is not text.
    """
    labels = [-1]
    for file in lists_in(folder):
        rows, _ = kinetics.parse_rows(read_lines(file), num_classes=MOST_CLASSES, separator=" ", skip=0)
        labels += [row.label for row in rows]
    return max(labels) + 1


def lists_in(folder: Path) -> list[Path]:
    """Those of the lists train.csv, val.csv and test.csv that a folder holds.

    Raises:
        AnnotationError: it holds none.
    """
    files = [folder / f"{split}.csv" for split in SPLITS if (folder / f"{split}.csv").is_file()]
    if not files:
        raise AnnotationError(f"no train.csv, val.csv or test.csv in {str(folder)!r}; {content_of(folder)}")
    return files


def write_list(file: Path, rows: Iterable[tuple[str, int]]) -> None:
    """Write `path label` lines; paths may hold spaces, commas and quotes.

    Raises:
        AnnotationError: a path holds a line break or is not UTF-8, which no list can carry.
    """
    lines = []
    for path, label in rows:
        if "\n" in path or "\r" in path:
            raise AnnotationError(f"{path!r}: a line break in the name of a file; rename it")
        if not is_text(path):
            raise AnnotationError(f"{path!r}: the name of a file is not UTF-8; rename it")
        lines.append(f"{listed_paths.quote(path)} {label}\n")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(lines), encoding="utf-8")


def write_class_names(file: Path, classes: Mapping[str, int]) -> None:
    """Write {name: number}, as DATA.CLASS_NAMES_FILE takes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dict(classes), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def listed_path(path: str, output: Path) -> str:
    """How a list in `output` names a file: relative to `output` when it lies below, else absolute."""
    absolute, folder = os.path.abspath(path), os.path.abspath(output)
    return os.path.relpath(absolute, folder) if listed_paths.is_inside(absolute, folder) else absolute


def split_of(name: str, fractions: Mapping[str, float], seed: int) -> str:
    """The split of a file, decided by its name and the seed alone, so that new files move no old one.

    Args:
        name: e.g. the path below the data set's folder.
        fractions: split -> its share; they sum to 1.
        seed: another one gives another division.
    """
    word = hashlib.blake2b(os.fsencode(f"{seed}/{name}"), digest_size=8).digest()
    place, end = int.from_bytes(word, "big") / 2**64, 0.0
    for split, share in fractions.items():
        end += share
        if place < end:
            return split
    return list(fractions)[-1]


def entries_of_lists(
    folder: Path, *, classes: Mapping[str, int], prefix: str = "", clip_of: Callable[[str], str] = lambda path: ""
) -> tuple[list[Entry], list[Finding]]:
    """What the lists train.csv, val.csv and test.csv of a folder hold, bad rows apart.

    Args:
        folder: of the lists; at least one must be there.
        classes: name -> number.
        prefix: DATA.PATH_PREFIX.
        clip_of: what the name of a file says it shows, see `Entry.clip`.

    Raises:
        AnnotationError: there is no list, or one is not text.
    """
    names = {number: name for name, number in classes.items()}
    entries: list[Entry] = []
    bad: list[Finding] = []
    folders = listed_paths.Folders()
    for file in lists_in(folder):
        lines = read_lines(file)
        rows, problems = kinetics.parse_rows(lines, num_classes=len(classes), separator=" ", skip=0)
        bad += [Finding("bad row", text, why, file.stem, f"{file.name}:{number}") for number, text, why in problems]
        for row in rows:
            path = os.path.join(prefix, row.path) if prefix else row.path
            path = path if prefix else listed_paths.relative_to_either(path, str(folder), folders)
            entries.append(Entry(path, file.stem, names[row.label], f"{file.name}:{row.number}", clip_of(path)))
    return entries, bad


def entries_of_samples(samples: Sequence[Sample], split: str, names: Sequence[str]) -> list[Entry]:
    """What a reader found, for the check: each file is of a video of its own, called by its name without suffix.

    Args:
        samples: of the reader.
        split: theirs.
        names: of the classes, by number.
    """
    return [
        Entry(
            sample.path,
            split,
            names[sample.label] if sample.actions is None else "",
            clip=Path(sample.path).stem,
            latest_s=max((action.start_s for action in sample.actions or ()), default=0.0),
            num_frames=sample.num_frames,
        )
        for sample in samples
    ]


def tell_missing(split: str, samples: Sequence[Sample]) -> None:
    """Print how many videos of a split are there."""
    there = sum(os.path.exists(sample.path) for sample in samples)
    print(f"{split}: {there} videos, {len(samples) - there} missing")


def add_check_arguments(parser: argparse.ArgumentParser, *, timeout: bool = True) -> None:
    """--check, --workers, --timeout and --report."""
    group = parser.add_argument_group("check")
    group.add_argument("--check", action="store_true", help="open every file; exit code 1 when something is wrong")
    group.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: cores)"
    )
    if timeout:
        group.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds a video may take (60)")
    group.add_argument("--report", type=Path, metavar="FILE", help="findings as .csv or .json (OUTPUT/check.csv)")


def run_check(
    args: argparse.Namespace,
    entries: Sequence[Entry],
    *,
    folder: Path,
    classes: Iterable[str],
    backend: str = "decord",
    found_before: Sequence[Finding] = (),
) -> int:
    """Check, print and write what was found.

    Args:
        args: with the values of `add_check_arguments`.
        entries: what to look at.
        folder: where the report goes by default.
        classes: names of all classes.
        backend: see `check_entries`.
        found_before: findings of reading the lists.

    Returns:
        The exit code: 1 when anything was found.
    """
    findings = [
        *found_before,
        *check_entries(
            entries,
            classes=classes,
            backend=backend,
            workers=args.workers,
            timeout_s=getattr(args, "timeout", 0.0),
        ),
    ]
    report = args.report or folder / "check.csv"
    write_report(report, findings)
    print(summary(findings, len(entries)))
    print(f"report: {report}")
    return 1 if findings else 0


def exit_code(main: Callable[[], int]) -> int:
    """What `main` returns; 1 after an error of the user's making, whose message is printed."""
    try:
        return main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
