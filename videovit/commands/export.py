"""Export a trained model: as a network for other programs, or its weights under this or another project's names."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from videovit import cli
from videovit.errors import UserError
from videovit.messages import plural, printable

if TYPE_CHECKING:
    from videovit.model import Model, ObjectModel

DETAILS = """examples:
  videovit export output/mine --format onnx                       -> mine.onnx
  videovit export mvitv2_s_16x4_k400 --format openvino --half bf16
  videovit export output/mine --format openvino --int8 data/test.csv
  videovit export output/mine --format pt2 --batch 1 --output served.pt2
  videovit export output/coco --format onnx --size 800 1344       a detector of objects in images
  videovit export --cfg CONFIG --checkpoint FILE --output weights.pth --layout timm

networks (--format):
  Frames go in as uint8 (B, T, S, S, 3), RGB, and logits come out; normalization is inside. Class names, sampling and
  preprocessing of frames are in the metadata of the file. Before the file gets its name, its answers are compared with
  PyTorch's, on several inputs and numbers of clips. docs/export.md shows how to run each format.
  A detector of objects in images takes one image, uint8 (H, W, 3), and returns boxes, labels, scores and masks; only
  onnx.

weights (no --format):
  The file can be given as TRAIN.CHECKPOINT_FILE_PATH, to start training from it, and as TEST.CHECKPOINT_FILE_PATH.

TEST.USE_EMA True selects the moving average that TRAIN.EMA_DECAY maintains.
"""
NEEDS_MODEL = "name a model, or give --cfg and --checkpoint"


def parse(argv: Sequence[str] | None = None, *, prog: str | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        prog=prog, description=__doc__, epilog=DETAILS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg", metavar="CONFIG", help="in place of MODEL: the config that the model was trained with")
    parser.add_argument("--checkpoint", metavar="FILE", help="other weights than those of MODEL; required with --cfg")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="weights: .safetensors, or .pyth, .pth or .pt of PyTorch; (default with --format: the name of the model)",
    )
    network = parser.add_argument_group("networks")
    network.add_argument("--format", type=_format, metavar="FORMAT", help="pt2, onnx, openvino or safetensors")
    network.add_argument("--batch", type=_batch, default=0, metavar="N", help="clips per call: dynamic (default), or N")
    network.add_argument("--half", choices=("bf16",), help="compute in bf16, and store half as many bytes")
    network.add_argument(
        "--int8",
        metavar="LIST",
        help="openvino: products in int8, the rest in fp32, or with --half in bf16. Videos of the list (path, and "
        "class if known) or folder set the ranges of numbers; others of them show the loss of accuracy and the gain",
    )
    network.add_argument(
        "--clips",
        type=_above_0,
        metavar="N",
        help="with --int8: most clips that set the ranges, and most that are compared (default: 300)",
    )
    network.add_argument(
        "--size",
        nargs=2,
        type=_side,
        metavar=("H", "W"),
        help="images of a detector of objects; default: one that holds all wide images of the test",
    )
    parser.add_argument(
        "--layout",
        default="own",
        type=_layout,
        help="project whose names the weights get: own (default), timm, torchvision, pytorchvideo, ...",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="MODEL KEY VALUE",
        help="the model: OUTPUT_DIR of a run, zoo:NAME, or a folder of Model.save; then config overrides",
    )
    args = parser.parse_args(argv)
    if args.cfg and not args.checkpoint:
        parser.error("--cfg needs --checkpoint")
    if not args.cfg and not args.words:
        parser.error(NEEDS_MODEL)
    if not args.format and not (args.cfg and args.output):
        parser.error("weights need --cfg, --checkpoint and --output; a network needs --format")
    if args.format and args.layout != "own":
        parser.error("--layout is about weights; leave out --format")
    if args.int8 and args.format != "openvino":
        parser.error("--int8 needs --format openvino")
    if args.clips and not args.int8:
        parser.error("--clips needs --int8")
    args.model, args.opts = (args.cfg, args.words) if args.cfg else (args.words[0], args.words[1:])
    return args


def _batch(text: str) -> int:
    return 0 if text == "dynamic" else _above_0(text, "a number above 0, or dynamic")


def _above_0(text: str, expected: str = "a number above 0") -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"invalid value: {text!r} ({expected})")
    return int(text)


def _side(text: str) -> int:
    return _above_0(text, "pixels, a number above 0")


# Not `choices`: the tables come with PyTorch, which --help does not need.
def _format(text: str) -> str:
    from videovit.engine.exported.formats import FORMATS

    return _one_of(text, FORMATS)


def _layout(text: str) -> str:
    from videovit.engine.tasks.export import OWN
    from videovit.models.convert.export import EXPORTERS

    return _one_of(text, (OWN, *EXPORTERS))


def _one_of(text: str, names: Iterable[str]) -> str:
    if text not in names:
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {', '.join(names)})")
    return text


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args = parse(argv, prog=prog)
    if args.format:
        export_network(args)
        return
    cfg = cli.load(args.cfg, args.opts)
    from videovit.engine.tasks.export import export_weights

    source = export_weights(cfg, args.checkpoint, args.output, layout=args.layout)
    what = "moving average of the weights" if cfg.TEST.USE_EMA else "weights"
    print(f"{what} of {source} -> {args.output} ({args.layout})")


def export_network(args: argparse.Namespace) -> None:
    """Export the network of `args.model`, see `parse`.

    Raises:
        UserError: it cannot be loaded or exported, or the file cannot be written.
    """
    from videovit.engine.exported.formats import FORMATS
    from videovit.loading import load
    from videovit.model import ObjectModel

    with cli.plain_warnings():
        model = load(args.model, args.checkpoint, device="cpu", opts=args.opts)
    name = args.model.removeprefix("zoo:").rstrip("/")
    path = Path(args.output or f"{Path(name).stem if args.cfg else Path(name).name}{FORMATS[args.format].suffix}")
    if not args.output and path.exists():
        raise UserError("exists already", where=path, hint="Give --output to replace it, or another name")
    start = time.monotonic()
    if isinstance(model, ObjectModel):
        lines = _export_objects(args, model, path)
    else:
        lines = (_export_int8 if args.int8 else _export_logits)(args, model, path)
    for line in lines:
        print(printable(line))
    print(f"{time.monotonic() - start:.0f} s")


def _export_int8(args: argparse.Namespace, model: Model, path: Path) -> list[str]:
    from videovit.engine.tasks.int8 import NUM_CLIPS, write_int8

    _refuse_size(args)
    done = write_int8(
        model.config,
        model.torch,
        model.class_names,
        path,
        args.int8,
        batch=args.batch,
        half=args.half is not None,
        most=args.clips or NUM_CLIPS,
    )
    return [*map(_line, done.paths), *done.lines]


def _refuse_size(args: argparse.Namespace) -> None:
    if args.size:
        hint = "The size of clips is DATA.TEST_CROP_SIZE"
        raise UserError("is for detectors of objects in images", where="--size", hint=hint)


def _export_logits(args: argparse.Namespace, model: Model, path: Path) -> list[str]:
    from videovit.engine.tasks.export import write_network

    _refuse_size(args)
    done = write_network(
        model.config, model.torch, model.class_names, path, args.format, batch=args.batch, half=args.half is not None
    )
    clips = ", ".join(map(str, done.batches))
    return [
        *map(_line, done.paths),
        f"checked with {clips} clips: logits differ from PyTorch's by {done.difference:.1e} of their standard "
        f"deviation (allowed: {done.tolerance:.0e})",
    ]


def _export_objects(args: argparse.Namespace, model: ObjectModel, path: Path) -> list[str]:
    from videovit.engine.tasks.export import write_object_network

    if args.format != "onnx":
        found = f"--format {args.format}"
        raise UserError("detectors of objects in images are exported as ONNX alone", found=found, expected="onnx")
    if args.batch > 1 or args.half:
        raise UserError("detectors of objects take one image, in full precision", hint="Leave out --batch and --half")
    size = tuple(args.size) if args.size else None
    num, difference = write_object_network(model.config, model.torch, model.class_names, path, size=size)
    checked = (
        f"checked with {plural(num, 'object')}: scores and masks differ from PyTorch's by at most {difference:.1e}"
    )
    if not num:
        checked = (
            "checked in part: neither the file nor PyTorch finds an object in the drawn images; train longer, or set "
        )
        checked += f"DETECTOR.MIN_SCORE below {model.config.DETECTOR.MIN_SCORE:g}, to compare objects"
    return [_line(path), checked]


def _line(path: Path) -> str:
    return f"{path}  {path.stat().st_size / 1e6:.1f} MB"
