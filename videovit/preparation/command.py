"""What the command lines of datasets/<name>/prepare.py share: options of the check, its report, and the exit code."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from videovit.data.records import Sample
from videovit.errors import UserError
from videovit.messages import labeled, plural
from videovit.preparation.checks import Entry, Finding, check_entries, entries_of_samples, summary, write_report


def print_missing(split: str, samples: Sequence[Sample]) -> None:
    """Print how many videos of a split exist."""
    present = sum(os.path.exists(sample.path) for sample in samples)
    print(f"{split}: {plural(present, 'video')}, {len(samples) - present} missing")


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options --check, --workers, --timeout and --report."""
    group = parser.add_argument_group("check")
    group.add_argument("--check", action="store_true", help="open every file; exits with code 1 if there are problems")
    group.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="number of processes (default: number of cores)",
    )
    group.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="time limit per file in seconds (default: 60)"
    )
    group.add_argument(
        "--report", type=Path, metavar="FILE", help="report, .csv or .json (default: check.csv in the output folder)"
    )


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how lists are read, as the config of the training does."""
    group = parser.add_argument_group("lists that --check reads")
    group.add_argument("--prefix", default="", metavar="DIR", help="folder of all paths (DATA.PATH_PREFIX)")
    group.add_argument(
        "--separator", default=" ", metavar="X", help="between path and label (DATA.PATH_LABEL_SEPARATOR)"
    )
    group.add_argument(
        "--multi-label", action="store_true", help="videos have any number of classes, 3;7 (TRAIN.DATASET multilabel)"
    )
    group.add_argument("--skip-rows", type=int, default=0, metavar="N", help="lines of the header (DATA.SKIP_ROWS)")


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --data, --videos and --output, of data sets that are read as they were released."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the annotation files")
    parser.add_argument("--videos", default="", metavar="DIR", help="folder of the videos (DATA.PATH_PREFIX)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of classes.json and check.csv (default: --data)"
    )


def write_classes_and_check(
    args: argparse.Namespace, samples: Mapping[str, Sequence[Sample]], classes: Sequence[str]
) -> int:
    """Write classes.json, and check the videos if requested.

    Args:
        args: with the options of `add_folder_arguments` and `add_check_arguments`.
        samples: of every split.
        classes: names of the classes.

    Returns:
        The exit code, see `run_check`.
    """
    output = args.output or args.data
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(classes, indent=1, ensure_ascii=False)
    (output / "classes.json").write_text(text + "\n", encoding="utf-8")
    print(f"{plural(len(classes), 'class', 'classes')} (MODEL.NUM_CLASSES)")
    if not args.check:
        return 0
    entries = [entry for split, of_split in samples.items() for entry in entries_of_samples(of_split, split, classes)]
    # Only samples from frame lists state a number of images.
    frames = any(sample.num_frames for of_split in samples.values() for sample in of_split)
    return run_check(args, entries, folder=output, classes=classes, backend="frames" if frames else "decord")


def run_check(
    args: argparse.Namespace,
    entries: Sequence[Entry],
    *,
    folder: Path,
    classes: Iterable[str],
    backend: str = "decord",
    found_before: Sequence[Finding] = (),
    options: Mapping[str, str] | None = None,
) -> int:
    """Check a data set, print a summary and write the report.

    Args:
        args: parsed options of `add_check_arguments`.
        entries: files to check.
        folder: default folder of the report.
        classes: names of all classes.
        backend: see `check_entries`.
        found_before: findings from reading the lists.
        options: see `exit_code`; of these findings.

    Returns:
        The exit code: 1 if there are findings.
    """
    findings = [
        *(replace(finding, detail=_by_options(finding.detail, options or {})) for finding in found_before),
        # Findings from reading the lists come first in the report.
        *check_entries(
            entries,
            classes=classes,
            backend=backend,
            workers=args.workers,
            timeout_s=args.timeout,
        ),
    ]
    report = args.report or folder / "check.csv"
    write_report(report, findings)
    print(summary(findings, len(entries)))
    print(f"report: {report}")
    return 1 if findings else 0


FOLDER_OPTIONS = {"DATA.PATH_TO_DATA_DIR": "--data", "DATA.PATH_PREFIX": "--videos"}
"""Config keys -> the options of `add_folder_arguments`."""
LIST_OPTIONS = {
    "DATA.PATH_PREFIX": "--prefix",
    "DATA.PATH_LABEL_SEPARATOR": "--separator",
    "DATA.SKIP_ROWS": "--skip-rows",
}
"""Config keys -> the options of `add_list_arguments`."""


def _by_options(message: object, options: Mapping[str, str]) -> str:
    """A message of a reader, which names config keys, by the options that were given here in place of them."""
    text = str(message)
    for key, option in options.items():
        text = re.sub(rf"\b{re.escape(key)}\b", option, text)
    # No option stands for the folder if files or its parent were given; its path is in the message.
    return text.replace(" (DATA.PATH_TO_DATA_DIR)", "")


def exit_code(main: Callable[[], int], options: Mapping[str, str] | None = None) -> int:
    """The result of `main`; after a UserError, 1, with its message on stderr. Warnings are printed as plain lines.

    Args:
        main: the command.
        options: config key -> its option, which messages name in place of the key.
    """

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(labeled("warning", _by_options(message, options or {})), file=sys.stderr)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            return main()
    # No traceback: the message is for the user.
    except UserError as error:
        print(labeled("error", _by_options(error, options or {})), file=sys.stderr)
        return 1
