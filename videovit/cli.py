"""The command `videovit`, and what its subcommands share: configs on the command line, errors, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol, cast

import videovit
from videovit.config import Config, find_shipped, load_config
from videovit.engine.reporting import console
from videovit.errors import UserError
from videovit.interrupt import after_imports
from videovit.messages import did_you_mean, labeled, printable, problem

INTERRUPTED = 130  # exit code after Ctrl-C
USAGE = 2  # exit code after wrong arguments, as argparse's
# A disk is full or read-only, or a folder belongs to somebody else: the machine's fault, not a bug.
MACHINE_ERRORS = frozenset(
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EROFS EACCES EPERM EISDIR ENOTDIR EEXIST ENAMETOOLONG ELOOP EMFILE ENFILE ENOMEM "
    "EIO ESTALE EPIPE ETXTBSY EAGAIN".split()
)


class Main(Protocol):
    """The function `main` of a module in `videovit.commands`."""

    def __call__(self, argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
        """Run the command.

        Args:
            argv: its arguments; None: those of this process.
            prog: the name that its help shows; None: the name of the script that was started.
        """


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        help: one line for `videovit --help`.
        module: imported only when the command is used; PyTorch alone takes seconds.
        hint: what to say after Ctrl-C and after the signals of a scheduler.
    """

    help: str
    module: str
    hint: str = ""

    def load(self) -> Main:
        """Import the module; done for the command that runs, so that `videovit --help` stays quick."""
        return cast(Main, importlib.import_module(self.module).main)


COMMANDS: dict[str, Command] = {
    "run": Command(
        "train, test and shuffle-test a model: everything that a config enables",
        "videovit.commands.run",
        hint="the same command continues from the newest checkpoint (TRAIN.AUTO_RESUME)",
    ),
    "finetune": Command(
        "train a classifier of your own videos, from a folder per class or a table",
        "videovit.commands.finetune",
        hint="the same command continues",
    ),
    "predict": Command("classify videos with a trained model", "videovit.commands.predict"),
    "features": Command(
        "write what a model computes from many videos to files",
        "videovit.commands.features",
        hint="the same command continues",
    ),
    "similar": Command("find the videos most similar to one, by their features", "videovit.commands.similar"),
    "explain": Command("show where and when a model sees a class in a video", "videovit.commands.explain"),
    "analyze": Command(
        "analyze trained models: reach of attention, similarity of its maps, sampling points",
        "videovit.commands.analyze",
    ),
    "robustness": Command(
        "test trained models under occlusion, attacks, corruptions of video, and on misleading images",
        "videovit.commands.robustness",
    ),
    "use_of_time": Command(
        "measure whether trained models use time: frames reordered, dropped, covered, at other speeds",
        "videovit.commands.use_of_time",
    ),
    "report": Command(
        "write one page about a run: results, errors, worst mistakes, analyses", "videovit.commands.report"
    ),
    "app": Command("serve a page in the browser: drop a video, see its classes", "videovit.commands.app"),
    "zoo": Command(
        "list, show, download and verify published weights",
        "videovit.commands.zoo",
        hint="the same command continues what it has downloaded",
    ),
    "compare": Command("compare tested runs: cost, accuracy, drops by frame order, speed", "videovit.commands.compare"),
    "submit": Command("submit a run, or a sweep of runs, to a Slurm cluster", "videovit.commands.submit"),
    "export": Command(
        "export a model to ONNX, OpenVINO or torch.export, or its weights under other names", "videovit.commands.export"
    ),
    "probe": Command("check which videos can be read, and what decoding them costs", "videovit.commands.probe"),
    "reencode": Command("re-encode videos so that they decode quickly", "videovit.commands.reencode"),
    "pack": Command(
        "pack videos into tar shards, which shared file systems and object stores read faster than small files",
        "videovit.commands.pack",
        hint="the same command continues",
    ),
    "benchmark": Command("measure the speed of a model or a part of training", "videovit.commands.benchmark"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `videovit COMMAND ...`; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    first = words[0] if words else ""
    if first in ("-h", "--help"):
        print(usage())
        return 0
    if first in ("-V", "--version"):
        print(f"videovit {videovit.__version__}")
        return 0
    if first in COMMANDS:
        return run_command(first, words[1:], prog=f"videovit {first}")
    if first:
        near = did_you_mean(first, COMMANDS)
        text = problem(f"{first!r} is not a command", near=near, hint="See videovit --help")
        print(f"videovit: {text}", file=sys.stderr)
    else:
        print(usage(), file=sys.stderr)
    return USAGE


def usage() -> str:
    """The text of `videovit --help`."""
    rows = "\n".join(f"  {name:<11} {command.help}" for name, command in COMMANDS.items())
    return f"""usage: videovit COMMAND ...

Video understanding with multiscale vision transformers.

commands:
{rows}

options:
  -h, --help     show this text; `videovit COMMAND --help` explains a command
  -V, --version  show the version

Examples:
  videovit finetune my_videos
  videovit run --cfg Kinetics/MVITv2_S_16x4 DATA.PATH_TO_DATA_DIR /data/k400 OUTPUT_DIR output/k400
  videovit predict video.mp4 --model output/k400

Exit codes: 0 done, 1 error, 2 wrong arguments, 75 stopped by a signal after saving, 130 stopped by Ctrl-C."""


def run_command(name: str, argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run one subcommand; returns the exit code. Arguments as in `Main`."""
    command = COMMANDS[name]
    return exit_code(lambda: command.load()(argv, prog=prog), hint=command.hint)


def exit_code(main: Callable[[], None], *, hint: str = "") -> int:
    """Call `main` and turn its outcome into an exit code.

    Errors of the user and of the machine are printed without a traceback; other errors are bugs and keep theirs.

    Args:
        hint: what to say after Ctrl-C and after the signals of a scheduler.

    Returns:
        0: it returned; 1: an error; 130: Ctrl-C; 75: a scheduler's signal ended it after training was saved, and the
        same command continues.
    """
    code = _outcome(main, hint)
    _flush_console()
    return code


def _outcome(main: Callable[[], None], hint: str) -> int:
    try:
        with after_imports():
            main()
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in MACHINE_ERRORS:
            raise
        say("\n" + labeled("error", error))
        return 1
    except KeyboardInterrupt:
        say(f"\ninterrupted{hint and '; '}{hint}")
        return INTERRUPTED
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "videovit":
            raise
        install = f"Install videovit with its dependencies: {sys.executable} -m pip install -e CHECKOUT"
        say("\n" + labeled("error", f"{error}. {install}"))
        return 1
    except Exception as error:
        # Imported only now: it brings PyTorch, which commands that fail early never need.
        from videovit.engine.distributed.preemption import Preempted

        if not isinstance(error, Preempted):
            raise
        say(f"\n{error}{hint and '; '}{hint}")
        return error.exit_code
    return 0


def say(text: str) -> None:
    """Print a line on stderr, unless the console is gone or nobody reads it."""
    with contextlib.suppress(*console.CONSOLE_ERRORS):
        console.write_line(text, console.WAIT_S)


def _flush_console() -> None:
    """Flush stdout and stderr; if the console is gone, drop what is left, so that the exit code stays."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                # The interpreter flushes once more when it ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# Configs on the command line

CONFIG_HELP = """configs:
  --cfg takes YAML files with SlowFast's keys, or names of the configs that come with videovit, such as
  Kinetics/MVIT_B_16x4_CONV. Several configs run one after the other. Any key can be set on the command line by
  KEY VALUE pairs, with or without --opts before them:
    --cfg Kinetics/MVIT_B_16x4_CONV NUM_GPUS 1 TRAIN.BATCH_SIZE 8 DATA.PATH_TO_DATA_DIR /data/k400
  The most important keys: DATA.PATH_TO_DATA_DIR, OUTPUT_DIR, NUM_GPUS (0: CPU), TRAIN.ENABLE, TEST.ENABLE,
  SHUFFLE_EVAL.ENABLE, TRAIN.BATCH_SIZE, TEST.CHECKPOINT_FILE_PATH. All keys: videovit/config/schema/
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors suggest the nearest option, and show what would act on a terminal as an escape."""

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice:
            near = did_you_mean(choice[1], choice[2].replace("'", "").split(", "))
        else:
            known = re.findall(r"--[a-z][\w-]*", self.format_help())
            options = [word for word in re.split(r"[\s=:,]+", message) if word.startswith("--")]
            near = next((did_you_mean(word, known) for word in options if word not in known), "")
        super().error(printable(problem(message, near=near), keep_lines=True))


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --cfg CONFIG [CONFIG...] [KEY VALUE ...] and --opts KEY VALUE ..."""
    parser.add_argument(
        "--cfg",
        dest="cfg",
        nargs="+",
        required=True,
        metavar="CONFIG",
        help="YAML files or names of shipped configs; KEY VALUE pairs may follow",
    )
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments `--model` and `--checkpoint` of a command that passes them to `videovit.load`."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="zoo:NAME, hf://user/name, the OUTPUT_DIR of a run, a folder of Model.save, or a config "
        "(with --checkpoint)",
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="weights, if --model is a config")


def split_config_arguments(words: Sequence[str], opts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate configs, which come first, from KEY VALUE pairs.

    Args:
        words: the words after --cfg. The first one is a config whatever it looks like.
        opts: the words after --opts; they come last and therefore win.

    Returns:
        Configs, and the overrides in order.
    """

    def is_config(word: str) -> bool:
        return word.endswith((".yaml", ".yml")) or Path(word).is_file() or find_shipped(word) is not None

    num_files = 1
    while num_files < len(words) and is_config(words[num_files]):
        num_files += 1
    rest = [word for word in [*words[num_files:], *opts] if word != "--opts"]
    return list(words[:num_files]), rest


def parse_with_config(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Parse with a parser that has `add_config_arguments`; KEY VALUE pairs may stand between the options.

    Returns:
        The arguments, the configs, and the KEY VALUE pairs.
    """
    args, others = parser.parse_known_args(argv)
    unknown = [word for word in others if word.startswith("--")]
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}; see --help")
    files, opts = split_config_arguments(args.cfg, [*others, *args.opts])
    return args, files, opts


def load(path: str, opts: Sequence[str]) -> Config:
    """`load_config`, with its warnings as plain lines on stderr."""
    with plain_warnings():
        return load_config(path, opts)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Print the warnings of the block after it, as plain lines on stderr instead of Python's two-line form."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        warn(str(warning.message))


def warn(text: str) -> None:
    """Print a warning before a run, and with it the log, has started."""
    say(labeled("warning", text))
