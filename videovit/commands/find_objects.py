"""The part of `videovit predict` that finds objects in images and videos, if the model is a detector of these."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videovit import cli
from videovit.config import Config, load_config
from videovit.errors import UserError
from videovit.messages import plural, printable

CONSOLE = "-"
MOST_SHOWN = 5  # objects of an image in one line


def detector_config(cfg: Config | None, args: argparse.Namespace) -> Config | None:
    """The config of the detector that `videovit predict` is given; None for any other model.

    Args:
        cfg: of `--cfg`; None for `--model`.
        args: of `videovit predict`.
    """
    if cfg is None:
        recorded = Path(args.model or "", "config.yaml")
        if not args.model or not recorded.is_file():
            return None
        with cli.plain_warnings():
            cfg = load_config(recorded, ["OUTPUT_DIR", args.model])
    return cfg if cfg.DETECTOR.NAME else None


def find_objects(cfg: Config, args: argparse.Namespace) -> None:
    """Find the objects in `args.videos`, print them, and write JSON and drawn copies.

    Args:
        cfg: of the detector.
        args: of `videovit predict`.

    Raises:
        UserError: an option that a detector does not have; or some files could not be read, raised after all others.
    """
    import torch

    from videovit.data.decode import DecodeError
    from videovit.data.decode.stream import is_stream
    from videovit.engine.checkpoints.weights import load_all_weights
    from videovit.engine.cpu import prepare_cpu
    from videovit.engine.tasks.find_objects import ObjectFinder
    from videovit.engine.tasks.inputs import list_inputs
    from videovit.loading import load
    from videovit.model import ObjectModel
    from videovit.models import build_detector

    refuse_options(args, any(map(is_stream, args.videos)))
    with cli.plain_warnings():
        files = list_inputs(cfg, args.videos)
    copies = plan_copies(files, args.annotate) if args.annotate else {}
    if args.model:
        with cli.plain_warnings():
            model = load(args.model, args.checkpoint, opts=args.opts)
        assert isinstance(model, ObjectModel)  # its config names a detector
    else:
        device = torch.device("cuda" if cfg.NUM_GPUS > 0 and torch.cuda.is_available() else "cpu")
        module = build_detector(cfg).to(device)
        load_all_weights(module, args.checkpoint, use_ema=cfg.TEST.USE_EMA, which=cfg.TEST.CHECKPOINT)
        model = ObjectModel(cfg, module)
    prepare_cpu(model.config, model.device)
    finder = ObjectFinder(model.config, model.torch, model.device, class_names=model.class_names)
    records: list[dict[str, Any]] = []
    unread = 0
    for path in files:
        try:
            found = list(finder.predict(path, copies.get(path)))
        except DecodeError as error:
            cli.say(printable(f"error: {error}"))
            records.append({"video": path, "error": str(error)})
            unread += 1
            continue
        records += found
        if args.json != CONSOLE:
            print(printable(described(path, found)))
        if path in copies:
            cli.say(printable(f"{copies[path]}: written"))
    if args.json:
        write_json(args.json, records)
    if unread:
        raise UserError(f"{unread} of {plural(len(files), 'file')} could not be read")


def refuse_options(args: argparse.Namespace, streams: bool) -> None:
    """Refuse what detectors of objects do not have.

    Raises:
        UserError: an option or a stream was given.
    """
    wrong = {"--people": args.people, "--csv": args.csv, "a stream": streams}
    for name, given in wrong.items():
        if given:
            raise UserError(
                "the model finds objects in images and videos", where=name, expected="--json, --annotate, and files"
            )


def described(path: str, found: Sequence[dict[str, Any]]) -> str:
    """What was found in a file, on one line."""
    if len(found) == 1:
        rows = found[0]["objects"]
        shown = ", ".join(f"{row['class']} {row['score']:.2f}" for row in rows[:MOST_SHOWN])
        more = f" and {len(rows) - MOST_SHOWN} more" if len(rows) > MOST_SHOWN else ""
        return f"{path}: {shown or 'nothing found'}{more}"
    total = sum(len(one["objects"]) for one in found)
    return f"{path}: {plural(total, 'object')} in {plural(len(found), 'picture')}"


def plan_copies(files: Sequence[str], target: str) -> dict[str, Path]:
    """Where the drawn copy of each file goes: images as images, videos as videos.

    Args:
        files: images, videos, folders of frames.
        target: a file, for one of them; or a folder.

    Raises:
        UserError: one file cannot hold all, or a copy would replace a file.
    """
    from videovit.data.decode.image_backend import SUFFIXES as IMAGE_SUFFIXES
    from videovit.data.files.folders import suffix_of

    def is_image(path: str) -> bool:
        return not os.path.isdir(path) and suffix_of(path) in IMAGE_SUFFIXES

    where, path = f"--annotate {target}", Path(target)
    if path.suffix and not path.is_dir():
        if len(files) > 1:
            raise UserError(f"{len(files)} files do not fit into one", where=where, expected="a folder")
        wanted = (".png", ".jpg", ".jpeg", ".webp") if is_image(files[0]) else (".mp4", ".mov", ".mkv")
        if path.suffix.lower() not in wanted:
            raise UserError("cannot be written", where=where, expected=f"{', '.join(wanted)}, or a folder")
        copies = {files[0]: path}
    else:
        copies, taken = {}, set[Path]()
        for file in files:
            stem, number = Path(os.path.abspath(file)).stem, 1
            suffix = ".png" if is_image(file) else ".mp4"
            while (copy := path / f"{stem}{'' if number == 1 else f'_{number}'}{suffix}") in taken:
                number += 1
            taken.add(copy)
            copies[file] = copy
    for file, copy in copies.items():
        if any(copy.exists() and os.path.exists(other) and os.path.samefile(copy, other) for other in files):
            raise UserError(f"the copy of {printable(file)} would replace {printable(copy)}", where=where)
    return copies


def write_json(name: str, records: Sequence[dict[str, Any]]) -> None:
    """Write what was found: a list, or lines if the name ends in .jsonl or is - for standard output."""
    from videovit.engine.reporting.json_lines import replacing

    lines = "".join(json.dumps(record) + "\n" for record in records)
    if name == CONSOLE:
        print(lines, end="")
        return
    with replacing(Path(name)) as partial:
        partial.write_text(lines if name.endswith(".jsonl") else json.dumps(list(records)) + "\n", encoding="utf-8")
