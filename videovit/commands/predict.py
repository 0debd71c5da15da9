"""Classify videos: print the best classes of each as a table, and write them as JSON. No list file is needed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from videovit import cli
from videovit.config import Config
from videovit.errors import UserError
from videovit.messages import plural, printable


def parse(argv: Sequence[str] | None = None, *, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog="Class names come from DATA.CLASS_NAMES_FILE, or from the files in DATA.PATH_TO_DATA_DIR. A video is "
        "read in windows. Frames, crops and the averaging of scores are those of the test (TEST.DATASET, "
        "TEST.NUM_SPATIAL_CROPS, DATA.ENSEMBLE_METHOD). PREDICT.TOP_K sets how many classes are shown, "
        "PREDICT.WINDOW_STRIDE_S how far apart windows begin. A folder of images counts as one video of frames; any "
        "other folder stands for the videos in it, or for its images if the model classifies still images.",
    )
    parser.add_argument("--cfg", required=True, metavar="CONFIG", help="the config that the model was trained with")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="its weights, or the OUTPUT_DIR of its run")
    parser.add_argument(
        "--json", metavar="FILE", help="also write the predictions to this file, with those of every window"
    )
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="config overrides; must come last, after the videos"
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="files or folders")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args = parse(argv, prog=prog)
    cfg = cli.load(args.cfg, args.opts)
    if args.json:
        if Path(args.json).is_dir():
            raise UserError("is a folder", where=f"--json {args.json}", expected="the name of a file")
        Path(args.json).resolve().parent.mkdir(parents=True, exist_ok=True)
    predict(cfg, args)


def predict(cfg: Config, args: argparse.Namespace) -> None:
    """Print and write the predictions for `args.videos`.

    Raises:
        UserError: some videos could not be read; raised after all others have been predicted.
    """
    import simplejson  # these imports take seconds, which --help and mistakes in a config do not need
    import torch

    from videovit.data.decode import DecodeError
    from videovit.engine.checkpoints.weights import load_all_weights
    from videovit.engine.reporting.json_lines import writing
    from videovit.engine.run_context import set_cpu_threads
    from videovit.engine.tasks.predict import Predictor, format_prediction, list_inputs
    from videovit.models import build_model

    if cfg.NUM_GPUS > 0 and not torch.cuda.is_available():
        cli.warn(f"NUM_GPUS is {cfg.NUM_GPUS}, but this machine has no GPU; predicting on the CPU")
    device = torch.device("cuda" if cfg.NUM_GPUS > 0 and torch.cuda.is_available() else "cpu")
    set_cpu_threads(cfg, device)
    with cli.plain_warnings():
        videos = list_inputs(cfg, args.videos)
    model = build_model(cfg).to(device).eval()
    load_all_weights(model, args.checkpoint, use_ema=cfg.TEST.USE_EMA)
    predictor, predictions, failures = Predictor(cfg, model, device), [], []
    for path in videos:
        try:
            prediction = predictor.predict(path)
        except DecodeError as error:
            cli.say(printable(f"error: {error}"))
            failures.append({"path": path, "error": str(error)})
            continue
        predictions.append(prediction.as_dict())
        print(format_prediction(prediction, in_percent=cfg.MODEL.HEAD_ACT != "none"), end="\n\n")
    if args.json:
        with writing(Path(args.json)):
            Path(args.json).write_text(simplejson.dumps([*predictions, *failures], indent=1) + "\n", encoding="utf-8")
    if failures:
        raise UserError(f"{len(failures)} of {plural(len(videos), 'video')} could not be read")
