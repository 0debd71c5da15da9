"""Check annotations in COCO's form, and write a mended copy: COCO itself, or own data.

    python datasets/coco/prepare.py --data /data/coco --check
    python datasets/coco/prepare.py --annotations own/a.json --images own/images --check --repair own/mended.json

Named with image and annotation: boxes outside of their image, objects without area, duplicate ids, missing images,
polygons of fewer than three points, missing masks if other objects have one, run lengths that do not fit their image,
and whatever keeps a file from being read.

The layout of COCO 2017, which --data expects:

    annotations/instances_train2017.json, instances_val2017.json     train2017/     val2017/
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from videovit.data.readers.coco import Flaw, read_content, structure
from videovit.errors import UserError
from videovit.messages import plural, printable, table_cell
from videovit.preparation.coco import find_flaws, mend
from videovit.preparation.command import exit_code

SPLITS = ("train2017", "val2017")
MOST_SHOWN = 20  # flaws on the console; the report has all


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder in the layout of COCO 2017; both splits")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="one file of annotations instead")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of its images")
    parser.add_argument("--check", action="store_true", help="list all flaws; exits with code 1 if there are any")
    parser.add_argument("--open", action="store_true", help="with --check, also read every image and compare its size")
    parser.add_argument("--repair", type=Path, metavar="FILE", help="write a copy of --annotations without the flaws")
    parser.add_argument(
        "--report", type=Path, metavar="CSV", help="all flaws (default: check.csv beside the annotations)"
    )
    args = parser.parse_args(argv)
    if (args.data is None) == (args.annotations is None):
        parser.error("expected either --data or --annotations")
    if args.repair and not args.annotations:
        parser.error("--repair needs --annotations")
    if args.repair and args.repair.resolve() == args.annotations.resolve():
        parser.error("--repair would overwrite --annotations")
    return args


def summarize(path: Path, images: Path | None) -> str:
    """What a file of annotations holds, in a line."""
    content = read_content(path)
    if next(structure(content), None) is not None:
        raise UserError("the annotations have flaws", where=path, hint="Run with --check")
    counts = [plural(len(content.get(name, [])), name[:-1]) for name in ("images", "annotations")]
    crowds = sum(row.get("iscrowd", 0) for row in content.get("annotations", []))
    counts += [plural(len(content["categories"]), "category", "categories"), plural(crowds, "crowd")]
    missing = ""
    if images is not None:
        absent = sum(not os.path.exists(images / row["file_name"]) for row in content["images"])
        missing = f", {absent} missing in {images}"
    return f"{path}: {', '.join(counts)}{missing}"


def check(path: Path, images: Path | None, args: argparse.Namespace) -> list[Flaw]:
    """List the flaws of a file, and write the report and the mended copy."""
    content = read_content(path)
    flaws = list(find_flaws(content, images, open_images=args.open))
    for flaw in flaws[:MOST_SHOWN]:
        print(printable(f"{flaw.kind}: {flaw}"))
    if len(flaws) > MOST_SHOWN:
        print(f"... and {len(flaws) - MOST_SHOWN:,} more")
    counts = Counter(flaw.kind for flaw in flaws)
    listed = ", ".join(f"{number:,} {kind}" for kind, number in counts.most_common()) or "no flaws"
    print(f"{path}: {listed}")
    report = args.report or path.with_name(f"{path.stem}_check.csv")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["kind", "image", "annotation", "text"])
    for flaw in flaws:
        table.writerow(map(table_cell, (flaw.kind, flaw.image_id, flaw.annotation_id, flaw.text)))
    replace_text(report, text.getvalue())
    print(f"report: {report}")
    if args.repair:
        mended = mend(content, flaws)
        if not mended.content["images"]:
            raise UserError("no image would be left", where=args.repair, hint=f"The flaws are listed in {report}")
        replace_text(args.repair, json.dumps(mended.content))
        done = ", ".join(f"{what}: {number:,}" for what, number in mended.changes.items()) or "nothing to mend"
        print(f"written: {args.repair} ({done})")
    return flaws


def replace_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all.

    Raises:
        UserError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"could not be written: {error.strerror}", where=path) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    args = parse(argv)
    files: list[tuple[Path, Path | None]] = [(args.annotations, args.images)]
    if args.data:
        files = [(args.data / f"annotations/instances_{split}.json", args.data / split) for split in SPLITS]
    for _, images in files:
        if images is not None and not images.is_dir():
            raise UserError("the folder of images does not exist", where=images)
    if not (args.check or args.repair):
        for path, images in files:
            print(summarize(path, images))
        return 0
    flaws = [flaw for path, images in files for flaw in check(path, images, args)]
    return 1 if flaws and not args.repair else 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
