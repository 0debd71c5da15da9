"""List published weights, show one of them, download it, or verify it. `zoo:NAME` stands for its file everywhere."""

from __future__ import annotations

import argparse
import fnmatch
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from videovit import cli
from videovit.errors import UserError
from videovit.messages import labeled, plural, printable

if TYPE_CHECKING:
    from videovit.models.zoo import ZooModel


def parse(argv: Sequence[str] | None = None, *, prog: str | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        prog=prog,
        description=__doc__,
        epilog="Files are kept in VIDEOVIT_CACHE (default ~/.cache/videovit). Published accuracies are those of the "
        "authors; `measured` is what this project's test gave, if it has been run.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="rows, also as patterns such as 'mvitv2*'; default all"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--download", action="store_true", help="download the files, unless they are in the cache")
    action.add_argument(
        "--verify",
        action="store_true",
        help="download, check hash and layout, load, run, and compare with the package that published the weights",
    )
    args = parser.parse_args(argv)
    if args.download and not args.names:
        parser.error("--download needs a NAME, or '*' for all")
    return args


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args = parse(argv, prog=prog)
    entries = select(args.names)
    if args.verify:
        verify(entries, as_json=args.json)
    elif args.download:
        download(entries)
    elif args.json:
        _print_json([describe(entry) for entry in entries])
    elif len(entries) == 1 and args.names:
        print(details(entries[0]))
    else:
        print(table(entries))


def select(names: Sequence[str]) -> list[ZooModel]:
    """The rows of names and patterns in the order of the table; all without names.

    Raises:
        UserError: a name or pattern without a row.
    """
    from videovit.models.zoo import ZOO, find

    chosen: set[str] = set()
    for name in names or ["*"]:
        matching = fnmatch.filter(ZOO, name)
        chosen.update(matching or [find(name).name])
    return [entry for entry in ZOO.values() if entry.name in chosen]


def table(entries: Sequence[ZooModel]) -> str:
    """A line per row."""
    from videovit.engine.reporting.log import format_table
    from videovit.models.download import find_cached
    from videovit.models.zoo import PREFIX, read_measured

    measured = read_measured()
    head = ["name", "M params", "trained on", "top-1 / top-5", "views", "measured", "MB", "license", "cached"]
    rows = []
    for entry in entries:
        path = find_cached(PREFIX + entry.name)
        size = path.stat().st_size if path else entry.num_bytes
        rows.append([
            entry.name, f"{entry.params / 1e6:.1f}", entry.data_set, _accuracy(entry.top1, entry.top5), entry.protocol,
            _accuracy(*measured.get(entry.name, (None, None))), f"{'' if path else '~'}{size / 1e6:.0f}", entry.license,
            "yes" if path else "",
        ])  # fmt: skip
    return format_table(head, rows) + f"\n\n{plural(len(rows), 'model')}. One of them: videovit zoo NAME"


def _accuracy(top1: float | None, top5: float | None) -> str:
    return "" if top1 is None else f"{top1:.1f} / {'-' if top5 is None else f'{top5:.1f}'}"


def describe(entry: ZooModel) -> dict[str, Any]:
    """Everything about a row, as JSON has it."""
    from videovit.models.download import cached_path, find_cached
    from videovit.models.zoo import PREFIX, read_measured

    found = find_cached(PREFIX + entry.name)
    return {
        **asdict(entry),
        "sha256": entry.sha256,
        "num_bytes": found.stat().st_size if found else entry.num_bytes,
        "measured": read_measured().get(entry.name),
        "path": str(found or cached_path(entry.urls[0])),
        "is_cached": found is not None,
        "commands": commands(entry),
    }


def commands(entry: ZooModel) -> list[str]:
    """How to use a row."""
    from videovit.models.zoo import ENCODER

    source, overrides = f"zoo:{entry.name}", shlex.join(entry.overrides)
    data = "DATA.PATH_TO_DATA_DIR path/to/data"
    if entry.note == ENCODER:
        run = f"videovit run --cfg {entry.config} TRAIN.ENABLE True TRAIN.CHECKPOINT_FILE_PATH {source} {data}"
        return [f"{run} {overrides}".rstrip()]
    test = f"videovit run --cfg {entry.config} TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH {source} {data} {overrides}"
    media, folder = ("image.jpg", "my_images") if entry.protocol == "center crop" else ("video.mp4", "my_videos")
    return [
        f"videovit predict {media} --model {source}",
        f"videovit finetune {folder} --model {source}",
        test.rstrip(),
    ]


def _views(protocol: str) -> str:
    clips, times, crops = protocol.partition(" x ")
    return f"{plural(int(clips), 'clip')} x {plural(int(crops), 'crop')} per video" if times else protocol


def details(entry: ZooModel) -> str:
    """Everything about a row, as text."""
    known = describe(entry)
    lines = {
        "config": " ".join([entry.config, *entry.overrides]),
        "parameters": f"{entry.params:,}",
        "trained on": entry.data_set,
        "class names": entry.classes or "not known here",
        "published": f"{_accuracy(entry.top1, entry.top5) or '-'} (top-1 / top-5; {_views(entry.protocol)})",
        "measured": _accuracy(*(known["measured"] or (None, None))) or "not yet",
        "license": entry.license,
        "layout": entry.layout,
        **({"note": entry.note} if entry.note else {}),
        **{f"URL {i}" if len(entry.urls) > 1 else "URL": url for i, url in enumerate(entry.urls, start=1)},
        "SHA-256": f"begins with {entry.sha256}" if entry.sha256 else "not published",
        "cached" if known["is_cached"] else "not cached": f"{known['path']} ({known['num_bytes'] / 1e6:.0f} MB)",
    }
    text = "\n".join(f"  {name:<12} {value}" for name, value in lines.items())
    return printable("\n".join([entry.name, text, "", *commands(entry)]), keep_lines=True)


def download(entries: Sequence[ZooModel]) -> None:
    """Download the files of rows and print where they are.

    Raises:
        UserError: some could not be downloaded; raised after all others have been.
    """
    from videovit.models.download import local_file

    failed = 0
    for entry in entries:
        try:
            print(f"{entry.name}: {local_file(f'zoo:{entry.name}')}", flush=True)
        except UserError as error:
            cli.say(labeled("error", error))
            failed += 1
    if failed:
        raise UserError(f"{failed} of {plural(len(entries), 'file')} could not be downloaded")


def verify(entries: Sequence[ZooModel], *, as_json: bool) -> None:
    """Verify rows, and print a line for each as soon as it is done.

    Raises:
        UserError: some failed; raised after the last one.
    """
    from videovit.engine.tasks.verify import Verified
    from videovit.engine.tasks.verify import verify as verify_rows

    def line(result: Verified) -> str:
        if result.error:
            return f"{result.name}: FAILED: {result.error}"
        hash_ = f"SHA-256 {result.sha256} ({'as stated' if result.is_stated else 'none stated'})"
        loaded = f"{result.loaded} tensors loaded as {result.layout}, logits finite"
        peer = f"logits of {result.peer}: difference {result.difference:.1e}" if result.peer else "no other package"
        return f"{result.name}: good: {hash_}; {loaded}; {peer}; {result.seconds:.1f} s"

    results = []
    for result in verify_rows(entries):
        results.append(result)
        if not as_json:
            print(printable(line(result), keep_lines=True), flush=True)
    if as_json:
        _print_json([result.as_dict() for result in results])
    failed = [result.name for result in results if result.error]
    if failed:
        raise UserError(f"{len(failed)} of {plural(len(results), 'model')} failed: {', '.join(failed)}")


def _print_json(value: object) -> None:
    import simplejson

    print(simplejson.dumps(value, indent=1))
