"""Show where and when a model sees a class in a video: heat over the frames, and a curve over time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from videovit import cli
from videovit.errors import UserError
from videovit.messages import printable

DETAILS = """examples:
  videovit explain video.mp4 --model output/mine --output why
  videovit explain video.mp4 --model mvitv2_s_16x4_k400 --class "playing guitar" --method occlusion --output why
  videovit explain film.mp4 --model output/ava --box 0.2,0.1,0.5,0.9 --time 12.5 --class stand --output why

output:
  heat.mp4          the frames that the model saw, under their heat
  heat.png          some of them, with and without heat
  curve.png         the share of every frame in all heat: which moments decide
  explanation.json  the curve as numbers
  For an image, heat.png and explanation.json.

methods:
  grad_cam   which parts of the last tokens raise the score of the class (Grad-CAM); unreliable with attention
  hires_cam  the same without its mean over tokens (HiResCAM)
  rollout    what attention looks at through all layers; the same for every class
  occlusion  what the score needs: parts of the clip are covered one by one; takes hundreds of predictions
  gradient   which pixels the score depends on (gradient x input): the default

How to read and trust them: docs/analysis.md
"""


def parse(argv: Sequence[str] | None = None, *, prog: str | None = None) -> argparse.Namespace:
    parser = cli.Parser(
        prog=prog, description=__doc__, epilog=DETAILS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_model_arguments(parser)
    parser.add_argument(
        "--method",
        default="gradient",
        metavar="NAME",
        help="gradient (default), grad_cam, hires_cam, rollout or occlusion",
    )
    parser.add_argument(
        "--class", dest="class_name", metavar="NAME", help="the class (default: the one with the highest score)"
    )
    parser.add_argument(
        "--box",
        metavar="X1,Y1,X2,Y2",
        help="of a detector, the person whose class is explained: corners as fractions of the frame",
    )
    parser.add_argument(
        "--time", dest="time_s", type=float, metavar="SECONDS", help="when the person is there (default: in the middle)"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("video", metavar="VIDEO", help="a video, a folder of frames, or an image for a model of images")
    return parser.parse_args(argv)


def parse_box(text: str) -> tuple[float, float, float, float]:
    """Four numbers with commas between them.

    Raises:
        UserError: it is something else.
    """
    try:
        x1, y1, x2, y2 = (float(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(where="--box", found=text, expected="X1,Y1,X2,Y2, such as 0.2,0.1,0.5,0.9") from error
    return x1, y1, x2, y2


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """See `videovit.cli.Main`."""
    args = parse(argv, prog=prog)
    box = parse_box(args.box) if args.box is not None else None
    # Takes seconds, which --help and wrong arguments do not need.
    from videovit.analysis.explain import warn_of_limits
    from videovit.engine.reporting.json_lines import make_folder
    from videovit.loading import load

    with cli.plain_warnings():
        model = load(args.model, args.checkpoint)
        warn_of_limits(args.method, model.torch)
        make_folder(Path(args.output))  # occlusion takes minutes
        explanation = model.explain(
            args.video, class_name=args.class_name, method=args.method, box=box, time_s=args.time_s
        )
    written = explanation.write(Path(args.output))
    print(
        printable(f"{explanation.class_name}  score {explanation.score:.3f}  most heat at {explanation.peak_s:.2f} s")
    )
    for path in written:
        print(printable(str(path)))
