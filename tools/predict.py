#!/usr/bin/env python3
"""Say what is in videos: the best classes of each, as a table and as JSON; no list file needed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from videovit import cli
from videovit.config import Config


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Class names come from DATA.CLASS_NAMES_FILE, or from what stands in DATA.PATH_TO_DATA_DIR. Videos "
        "are read in windows, with the frames, crops and joining of scores of the test (TEST.DATASET, "
        "TEST.NUM_SPATIAL_CROPS, DATA.ENSEMBLE_METHOD); PREDICT.TOP_K and PREDICT.WINDOW_STRIDE_S change how "
        "many classes are shown and how windows overlap. A folder of images is a video of frames, of any other "
        "all videos count; for a model of still images, all images.",
    )
    parser.add_argument("--cfg", required=True, metavar="FILE", help="the config that the model was trained with")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="its weights, or the OUTPUT_DIR of its run")
    parser.add_argument("--json", metavar="FILE", help="also write the predictions here, per window too")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="config overrides; last, behind the videos"
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="files or folders")
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    cfg = cli.load(args.cfg, args.opts)
    if args.json:
        if Path(args.json).is_dir():
            raise cli.ArgumentError(f"--json {args.json}: is a folder, expected the name of a file")
        Path(args.json).resolve().parent.mkdir(parents=True, exist_ok=True)
    predict(cfg, args)


def predict(cfg: Config, args: argparse.Namespace) -> None:
    """What stands in `args.videos`, printed and written.

    Raises:
        SomeFailedError: at the end, when videos could not be read.
    """
    import simplejson  # these take seconds, which --help and a mistake in a config can do without
    import torch

    from videovit.data.decode import DecodeError
    from videovit.engine.checkpoints.weights import load_checkpoint_for_test
    from videovit.engine.tasks.predict import Predictor, format_prediction, list_inputs
    from videovit.models import build_model

    if cfg.NUM_GPUS > 0 and not torch.cuda.is_available():
        print(f"warning: NUM_GPUS {cfg.NUM_GPUS}, and no GPU is here: on the CPU", file=sys.stderr)
    device = torch.device("cuda" if cfg.NUM_GPUS > 0 and torch.cuda.is_available() else "cpu")
    videos = list_inputs(cfg, args.videos)
    model = build_model(cfg).to(device).eval()
    load_checkpoint_for_test(model, args.checkpoint, use_ema=cfg.TEST.USE_EMA)
    predictor, predictions, failures = Predictor(cfg, model, device), [], []
    for path in videos:
        try:
            prediction = predictor.predict(path)
        except DecodeError as error:
            print(f"error: {error}", file=sys.stderr)
            failures.append({"path": path, "error": str(error)})
            continue
        predictions.append(prediction.as_dict())
        print(format_prediction(prediction, in_percent=cfg.MODEL.HEAD_ACT != "none"), end="\n\n")
    if args.json:
        Path(args.json).write_text(simplejson.dumps([*predictions, *failures], indent=1) + "\n", encoding="utf-8")
    if failures:
        raise cli.SomeFailedError(f"{len(failures)} of {len(videos)} videos could not be read")


if __name__ == "__main__":
    sys.exit(cli.exit_code(main))
