"""What the command-line tools share: SlowFast's way of giving a config, one-message errors, exit codes."""

from __future__ import annotations

import argparse
import errno
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from videovit.config import Config, load_config
from videovit.engine.distributed.preemption import INTERRUPTED, Preempted
from videovit.errors import UserError

# A disk is full or read-only, or a folder is not ours: nothing that the program could do better.
NOT_OURS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
)


class SomeFailedError(UserError):
    """A tool went through its inputs and some of them failed; they were named before."""


class ArgumentError(UserError):
    """Arguments that are fine one by one and do not go together."""


CONFIG_HELP = """config:
  --cfg takes YAML files with SlowFast's keys; several files are run one after the other. Any key can be set on the
  command line as KEY VALUE pairs, with or without --opts in front of them:
    --cfg configs/Kinetics/MVIT_B_16x4_CONV.yaml NUM_GPUS 1 TRAIN.BATCH_SIZE 8 DATA.PATH_TO_DATA_DIR /data/k400
  Keys that matter first: DATA.PATH_TO_DATA_DIR, OUTPUT_DIR, NUM_GPUS (0: CPU), TRAIN.ENABLE, TEST.ENABLE,
  SHUFFLE_EVAL.ENABLE, TRAIN.BATCH_SIZE, TEST.CHECKPOINT_FILE_PATH. All keys: videovit/config/schema.py
"""


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """--cfg FILE [FILE...] [KEY VALUE ...] and --opts KEY VALUE ..."""
    parser.add_argument(
        "--cfg",
        dest="cfg",
        nargs="+",
        required=True,
        metavar="FILE",
        help="YAML config(s); KEY VALUE pairs may follow",
    )
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")


def split_config_arguments(words: Sequence[str], opts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take the words after --cfg apart: config files first, then KEY VALUE pairs.

    Args:
        words: what followed --cfg.
        opts: what followed --opts; comes last, so it wins.

    Returns:
        Config files, and the overrides in order.
    """
    num_files = 1
    while num_files < len(words) and (words[num_files].endswith((".yaml", ".yml")) or Path(words[num_files]).is_file()):
        num_files += 1
    rest = [word for word in [*words[num_files:], *opts] if word != "--opts"]
    return list(words[:num_files]), rest


def parse_with_config(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Parse with a parser that has `add_config_arguments`, where KEY VALUE pairs may stand between the options.

    Returns:
        The arguments, the config files, and the KEY VALUE pairs.
    """
    args, others = parser.parse_known_args(argv)
    unknown = [word for word in others if word.startswith("--")]
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}; see --help")
    files, opts = split_config_arguments(args.cfg, [*others, *args.opts])
    return args, files, opts


def load(path: str, opts: Sequence[str]) -> Config:
    """load_config, with its warnings as plain lines on stderr instead of Python's two-line form."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cfg = load_config(path, opts)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return cfg


def exit_code(main: Callable[[], None], *, hint: str = "") -> int:
    """Call `main` and say how it went.

    0: it returned; 1: an error of the user's making or of the machine (its message is printed); 130: Ctrl-C; 75: a
    signal of a scheduler ended it after training was saved, and the same command goes on.

    Other errors are bugs and keep their traceback.

    Args:
        hint: what to say after Ctrl-C and such signals.
    """
    try:
        main()
    except UserError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except Preempted as stop:
        print(f"\n{stop}{hint and '; '}{hint}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print(f"\ninterrupted{hint and '; '}{hint}", file=sys.stderr)
        return INTERRUPTED
    return 0
