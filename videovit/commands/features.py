"""Write the features of many videos to files: a vector per video, or per window of time, or whole maps of tokens.

A folder that was left in the middle is continued: give the same command again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from videovit import cli
from videovit.commands.analyze import config_of
from videovit.commands.run import only
from videovit.config import Config
from videovit.config.rules import changed
from videovit.config.schema.evaluation import EngineName, FeatureDtype, FeatureFormat, FeatureLayer

DEFAULT_MODEL = "zoo:mvitv2_s_16x4_k400"
DETAILS = f"""examples:
  videovit features my_videos --output features                       one vector per video (npy)
  videovit features list.csv --prefix /data --model output/mine --output features --format safetensors --dtype f16
  videovit features films --window 2 --stride 0.5 --output dense      a vector per 2 s, every 0.5 s
  videovit features films --layer stage3 --output maps                the map of every clip after stage 3
  torchrun --nnodes 4 --nproc-per-node 8 ... -m videovit features list.csv --output features

layers:
  pooled     what the classifier reads, averaged over crops and windows (Model.features in Python)
  tokens     the map of the last layer, (crops, T, H, W, C) per clip; stage1, stage2, ...: after that stage

model (default: {DEFAULT_MODEL}):
  zoo:NAME, the OUTPUT_DIR of a run, a folder written by Model.save, hf://user/name, or a config with its
  TEST.CHECKPOINT_FILE_PATH

Files, restarts, several machines, cost of a million videos: docs/features.md
"""


def parse(argv: Sequence[str] | None = None, *, prog: str | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        prog=prog, description=__doc__, epilog=DETAILS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("videos", nargs="+", metavar="VIDEO", help="lists (.csv, .txt), folders, video files; images for image models")
    add("--model", default=DEFAULT_MODEL, help="see below")
    add("--output", required=True, metavar="FOLDER", help="where the features go")
    add("--layer", default="pooled", choices=get_args(FeatureLayer), metavar="LAYER", help="see below (default pooled)")
    add("--window", type=_seconds, default=0.0, metavar="S", help="seconds of a window; one row per window")
    add("--stride", type=_seconds, default=0.0, metavar="S", help="seconds between the starts of two windows")
    add("--dtype", default="f32", choices=get_args(FeatureDtype), help="type of the files (default f32)")
    add("--format", default="npy", choices=get_args(FeatureFormat), help="a file per video (npy, default), or shards")
    add("--per-shard", type=int, default=0, metavar="N", help="videos per shard (default: up to 1,000; of maps 20)")
    add(
        "--prefix",
        default="",
        metavar="FOLDER",
        help="folder, shards:FOLDER or URL that paths in lists are relative to",
    )
    add("--workers", type=int, default=2, metavar="N", help="videos decoded at once per process (default 2)")
    add("--engine", choices=get_args(EngineName), help="what runs the model, on a CPU (default: TEST.ENGINE, torch)")
    add("--processes", type=int, default=0, metavar="N", help="on this machine (default: one per GPU, or one)")
    add("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config overrides; must come last")
    args = parser.parse_args(argv)
    if min(args.per_shard, args.workers, args.processes) < 0:
        parser.error("--per-shard, --workers and --processes must be at least 0")
    return args


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, expected seconds above 0")
    return number


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args = parse(argv, prog=prog)
    import torch  # imports that --help does not need

    from videovit.engine import launch
    from videovit.engine.distributed import preemption

    # Other engines compute on a CPU.
    num_gpus = torch.cuda.device_count() if args.engine in (None, "torch") else 0
    num_gpus = min(args.processes or num_gpus, num_gpus)
    opts = ["NUM_GPUS", num_gpus, "NUM_CPU_PROCS", max(1, args.processes), "NUM_SHARDS", 1, "SHARD_ID", 0]
    opts += ["DATA_LOADER.NUM_WORKERS", args.workers, "FEATURES.PER_SHARD", args.per_shard]
    opts += ["FEATURES.LAYER", args.layer, "FEATURES.DTYPE", args.dtype, "FEATURES.FORMAT", args.format]
    opts += ["FEATURES.WINDOW_S", args.window, "FEATURES.STRIDE_S", args.stride]
    opts += ["TEST.ENGINE", args.engine] if args.engine else []
    cfg = config_of_model(args.model, [*only("FEATURES"), *map(str, opts), *args.opts])
    # Not as text: names may hold commas and quotes.
    paths = {"FEATURES.VIDEOS": tuple(args.videos), "DATA.PATH_PREFIX": args.prefix, "OUTPUT_DIR": args.output}
    with preemption.install():
        launch.run(changed(cfg, paths))


def config_of_model(model: str, opts: Sequence[str]) -> Config:
    """The config of a trained model, which names its weights by TEST.CHECKPOINT_FILE_PATH.

    Args:
        model: as in `videovit.load`, but a config brings its own weights.
        opts: KEY VALUE pairs.

    Raises:
        UserError: there is no such model.
    """
    from videovit.engine.checkpoints import hub
    from videovit.engine.checkpoints.saved_model import CONFIG, WEIGHTS, is_saved, read_saved
    from videovit.engine.checkpoints.sources import NETWORKS, find_source

    folder = hub.download(model) if model.startswith(hub.PREFIX) else Path(model)
    if folder.is_dir() and is_saved(folder):
        read_saved(folder)  # names what is missing
        return cli.load(str(folder / CONFIG), ["TEST.CHECKPOINT_FILE_PATH", str(folder / WEIGHTS), *opts])
    if folder.is_file() and folder.suffix in (".safetensors", *NETWORKS):
        return changed(find_source(model, opts, named=False).cfg, {"TEST.CHECKPOINT_FILE_PATH": model})
    cfg = config_of(model, opts)
    if folder.is_dir() and not cfg.TEST.CHECKPOINT_FILE_PATH:
        cfg = changed(cfg, {"TEST.CHECKPOINT_FILE_PATH": str(folder)})
    return cfg
