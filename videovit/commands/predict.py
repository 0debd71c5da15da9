"""Classify videos and streams: print the best classes, write JSON or CSV, or draw labels into a copy of the video."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from videovit import cli
from videovit.commands import find_objects
from videovit.config import Config
from videovit.errors import UserError
from videovit.messages import labeled, plural, printable

if TYPE_CHECKING:
    import torch

    from videovit.engine.evaluation.stream_windows import StreamWindows
    from videovit.engine.tasks.labelers import Labeler
    from videovit.engine.tasks.live import LiveWindows
    from videovit.engine.tasks.prediction_files import Outputs
    from videovit.models.contract import VideoModel

CONSOLE = "-"
DEFAULT_MODEL = "zoo:mvitv2_s_16x4_k400"
DETAILS = """examples:
  videovit predict video.mp4                                 MViTv2-S, 400 classes of Kinetics, downloaded once
  videovit predict my_videos --model output/mine --csv found.csv     every video of a folder, with a model of yours
  videovit predict video.mp4 --annotate labeled.mp4          draw the classes over time; the copy has no sound
  videovit predict 0                                         camera number 0; end with Ctrl-C
  videovit predict rtsp://camera/stream --json -             one JSON line per window, as it is predicted
  ffmpeg -i input -f mpegts - | videovit predict -           standard input; a named pipe works, too
  videovit predict video.mp4 --people --model output/ava     what every person does; needs a detector
  videovit predict --cfg config.yaml --checkpoint weights.pyth video.mp4 --opts PREDICT.TOP_K 3
  videovit predict image.jpg --model output/mine --annotate found.png    objects, if the model is a detector of these

videos:
  A video is read in windows. Frames, crops and the averaging of scores are those of the test (TEST.DATASET,
  TEST.NUM_SPATIAL_CROPS, DATA.ENSEMBLE_METHOD). PREDICT.TOP_K sets how many classes are shown, PREDICT.WINDOW_STRIDE_S
  how far apart windows begin. A folder of images counts as one video of frames; any other folder stands for the videos
  in it, or for its images if the model classifies still images. A folder with images and videos is refused.

streams:
  A camera number, an rtsp:// or http(s):// address, a named pipe, or - for standard input. Windows are printed as they
  are predicted. While the model is busy with one window, at most one other waits; older ones are skipped and counted.
  Pipes wait for the model instead, unless --live is given.

Class names come with the model, from DATA.CLASS_NAMES_FILE, or from the files in DATA.PATH_TO_DATA_DIR.
All of this in detail: docs/predict.md
"""


def parse(argv: Sequence[str] | None = None, *, prog: str | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        prog=prog, description=__doc__, epilog=DETAILS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        metavar="MODEL",
        help="zoo:NAME, the OUTPUT_DIR of a run, a folder written by Model.save, or an exported file: .onnx, .xml or "
        f".safetensors (default: {DEFAULT_MODEL})",
    )
    model.add_argument(
        "--cfg",
        metavar="CONFIG",
        help="in place of --model: the config that the model was trained with; needs --checkpoint",
    )
    model.add_argument("--checkpoint", metavar="FILE", help="weights of the model, or the OUTPUT_DIR of its run")
    model.add_argument(
        "--engine",
        choices=("torch", "onnxruntime", "openvino"),
        help="what runs the model; the last two on a CPU, each with its extra (default: TEST.ENGINE)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json",
        metavar="FILE",
        help="write the predictions to this file, with those of every window; as lines if it ends in .jsonl, for "
        "streams, and for - (standard output, in place of tables)",
    )
    output.add_argument(
        "--csv", metavar="FILE", help="write a table: one row per class of every video and window; - is standard output"
    )
    output.add_argument(
        "--annotate",
        metavar="FILE",
        help="write a copy of the video with labels (.mp4, .mov, .mkv); otherwise a folder for the copies",
    )
    people = parser.add_argument_group("people")
    people.add_argument("--people", action="store_true", help="find people and label each; the model is a detector")
    people.add_argument(
        "--person-finder",
        choices=("accurate", "fast"),
        default="accurate",
        help="Faster R-CNN with ResNet-50 (default) or MobileNet",
    )
    people.add_argument(
        "--person-weights", default="", metavar="FILE", help="weights of the person finder: a file or URL"
    )
    people.add_argument(
        "--person-score",
        type=float,
        default=0.8,
        metavar="SCORE",
        help="least score of a person, 0 to 1 (default: 0.8)",
    )
    parser.add_argument("--live", action="store_true", help="skip windows of a pipe, too, rather than make it wait")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="config overrides; must come last, after the videos"
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="files, folders or streams")
    args = parser.parse_args(argv)
    if args.engine:
        args.opts = [*args.opts, "TEST.ENGINE", args.engine]
    if args.engine not in (None, "torch"):
        args.opts += ["NUM_GPUS", "0"]
    if args.cfg and args.model:
        parser.error("--model brings its own config; leave out --cfg, or --model")
    if args.cfg and not args.checkpoint:
        parser.error("--cfg needs --checkpoint")
    if args.people and not (args.cfg or args.model):
        parser.error("--people needs a detector (--model): the default model classifies whole videos")
    if not 0 <= args.person_score <= 1:
        parser.error(f"--person-score: found {args.person_score:g}, expected 0 to 1")
    if args.json == args.csv == "-":
        parser.error("--json and --csv cannot both be standard output")
    return args


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args = parse(argv, prog=prog)
    cfg = cli.load(args.cfg, args.opts) if args.cfg else None
    for option, path in (("--json", args.json), ("--csv", args.csv)):
        if path and Path(path).is_dir():
            raise UserError("is a folder", where=f"{option} {path}", expected="the name of a file")
    predict(cfg, args)


def predict(cfg: Config | None, args: argparse.Namespace) -> None:
    """Predict `args.videos`.

    Args:
        cfg: of `--cfg`; None for `--model`.
        args: see `parse`.

    Raises:
        UserError: some videos could not be read; raised after all others have been predicted.
    """
    detector = find_objects.detector_config(cfg, args)
    if detector is not None:
        find_objects.find_objects(detector, args)
        return
    # These imports take seconds, which --help and mistakes in a config do not need.
    from videovit.data.decode.stream import is_stream, shown_name
    from videovit.engine.cpu import prepare_cpu
    from videovit.engine.tasks.annotate import plan_copies
    from videovit.engine.tasks.predict import list_inputs
    from videovit.engine.tasks.prediction_files import Outputs

    streams = [video for video in args.videos if is_stream(video)]
    if streams and len(args.videos) > 1:
        raise UserError("a stream is predicted alone", where=shown_name(streams[0]), hint="Start one process for each")
    if streams and args.annotate:
        hint = "Record a part of the stream to a file, and annotate that"
        raise UserError("a stream cannot be annotated", where=f"--annotate {args.annotate}", hint=hint)
    cfg, model, device, names = load_model(cfg, args)
    prepare_cpu(cfg, device)
    with cli.plain_warnings():
        videos = [] if streams else list_inputs(cfg, args.videos, people=args.people)
    copies = plan_copies(cfg, args.annotate, videos) if args.annotate else {}
    check_files(args, videos or streams, copies.values())
    labeler = build_labeler(cfg, model, device, names, args)
    in_percent = cfg.MODEL.HEAD_ACT != "none"
    with Outputs(args.json or "", args.csv or "", in_percent=in_percent, as_lines=bool(streams)) as outputs:
        if streams:
            predict_stream(streams[0], labeler, outputs, live=True if args.live else None)
        else:
            predict_files(videos, labeler, outputs, copies)


def check_files(args: argparse.Namespace, videos: Iterable[str], copies: Iterable[Path]) -> None:
    """Make sure that no table replaces what is read, or another output.

    Args:
        args: see `parse`.
        videos: all of them.
        copies: labeled copies, which are known to replace no video.

    Raises:
        UserError: one would.
    """
    read = [*videos, *filter(None, (args.cfg, args.checkpoint, args.model, args.person_weights))]
    taken = {Path(path).resolve(): path for path in [*read, *map(str, copies)] if path != CONSOLE}
    for option, path in (("--json", args.json), ("--csv", args.csv)):
        if not path or path == CONSOLE:
            continue
        file = Path(path).resolve()
        # Frames of a video lie in its folder.
        other = taken.get(file) or (taken.get(file.parent) if file.exists() else None)
        if other:
            raise UserError(f"would replace {printable(other)}", where=f"{option} {path}", expected="another name")
        taken[file] = f"the file of {option}"


def load_model(
    cfg: Config | None, args: argparse.Namespace
) -> tuple[Config, VideoModel, torch.device, list[str] | None]:
    """The config, the model, its device, and its class names, if it brings them along."""
    import torch

    if cfg is None:
        from videovit.loading import load

        with cli.plain_warnings():
            loaded = load(args.model or DEFAULT_MODEL, args.checkpoint, opts=args.opts)
        return loaded.config, loaded.torch, loaded.device, loaded.class_names
    from videovit.engine.checkpoints.weights import load_all_weights
    from videovit.models import build_model

    if cfg.NUM_GPUS > 0 and not torch.cuda.is_available():
        cli.warn(f"NUM_GPUS is {cfg.NUM_GPUS}, but this machine has no GPU; predicting on the CPU")
    device = torch.device("cuda" if cfg.NUM_GPUS > 0 and torch.cuda.is_available() else "cpu")
    model = build_model(cfg).to(device).eval()
    load_all_weights(model, args.checkpoint, use_ema=cfg.TEST.USE_EMA)
    return cfg, model, device, None


def build_labeler(
    cfg: Config, model: VideoModel, device: torch.device, names: list[str] | None, args: argparse.Namespace
) -> Labeler:
    """What labels windows: people with --people, else whole frames."""
    if args.people:
        from videovit.engine.tasks.people import PeoplePredictor, PersonFinder, refuse_classifier

        refuse_classifier(cfg)  # before the person finder is downloaded
        finder = PersonFinder(args.person_finder, args.person_weights, device, min_score=args.person_score)
        return PeoplePredictor(cfg, model, device, finder, class_names=names)
    from videovit.engine.tasks.labelers import ClassLabeler
    from videovit.engine.tasks.predict import Predictor

    return ClassLabeler(Predictor(cfg, model, device, class_names=names))


def predict_files(videos: Sequence[str], labeler: Labeler, outputs: Outputs, copies: Mapping[str, Path]) -> None:
    """Predict files one after the other, and write labeled copies of them.

    Args:
        videos: files, folders of frames, or images.
        labeler: labels them.
        outputs: take what it finds.
        copies: video -> its labeled copy.

    Raises:
        UserError: some could not be read or written; raised after all others are done.
    """
    from videovit.data.decode import DecodeError
    from videovit.engine.tasks.annotate import annotate

    unread = uncopied = 0
    for path in videos:
        try:
            found = labeler.predict(path)
        except DecodeError as error:
            cli.say(labeled("error", error))
            outputs.add_error(path, str(error))
            unread += 1
            continue
        outputs.add_video(found)
        if path in copies:
            try:
                annotate(found, copies[path], labeler.decoding)
                cli.say(printable(f"{copies[path]}: written, without sound"))
            except UserError as error:
                cli.say(labeled("error", error))
                uncopied += 1
    if unread:
        raise UserError(f"{unread} of {plural(len(videos), 'video')} could not be read")
    if uncopied:
        raise UserError(f"{uncopied} of {plural(len(videos), 'video')} could not be annotated")


def predict_stream(name: str, labeler: Labeler, outputs: Outputs, *, live: bool | None) -> None:
    """Predict the windows of a stream until it ends.

    Args:
        name: of the stream.
        labeler: labels windows.
        outputs: take what it finds.
        live: see `LiveWindows`.

    Raises:
        DecodeError: it cannot be opened.
        UserError: it was lost, or had no pictures.
    """
    from videovit.engine.tasks.live import LiveWindows

    def cutter(fps: float) -> StreamWindows:
        return labeler.reader.cutter(fps, max_mb=labeler.decoding.max_mb)

    number = 0
    with LiveWindows(name, cutter, labeler.reader.keep, labeler.decoding, live=live, report=cli.warn) as windows:
        try:
            for number, found in enumerate(windows, start=1):
                labels = labeler.label(labeler.reader.joined(found.window), windows.name)
                outputs.add_window(windows.name, number, labels, delay_s=found.delay_s, num_skipped=windows.num_skipped)
        finally:
            if number:
                cli.say(printable(describe_end(windows, number)))
    if windows.lost:
        raise UserError(f"the stream was lost: {windows.why_ended}", where=windows.name)
    if not number:
        raise UserError("the stream ended before its first picture", where=windows.name)


def describe_end(windows: LiveWindows, num_windows: int) -> str:
    """Why a stream ended, and what was left out of it."""
    parts = [f"{windows.name}: {windows.why_ended or 'stopped'} after {plural(num_windows, 'window')}"]
    if windows.num_skipped:
        parts.append(f"{windows.num_skipped} skipped, because the model is slower than the stream")
    if windows.num_damaged:
        parts.append(f"{plural(windows.num_damaged, 'damaged packet')} left out")
    return "; ".join(parts)
