"""Do heat maps lie on the shape that decides the class? A pointing game among shapes that look alike.

    python datasets/demo/prepare.py --output output/demo/still --among-still
    python datasets/demo/pointing_game.py output/still/mvit --method grad_cam --method occlusion

Every clip has one shape in each of its four corners, and only the one that moves (or that has a pattern) decides the
class. A hit is a clip whose hottest pixel, of all frames, lies in the corner of that shape. Chance is one in four: for
a map that shows any bright shape, for one that prefers a place, and for nearly every network with random weights, of
which several are measured (the sanity check of Adebayo et al., arXiv 1810.03292). Only clips that the trained model
classifies correctly count.

Source: pointing game of Zhang et al. (arXiv 1608.00507), section 4.2; on a grid of several objects, as that of Böhle et
al. (arXiv 2104.00032).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from prepare import FPS, SPLITS, video_rng
from shapes import CLASSES, CORNERS, Array, render_among_still
from torch import Tensor

import videovit
from videovit.analysis.explain import METHODS, Method
from videovit.analysis.pointing import pointing_game
from videovit.errors import UserError
from videovit.messages import labeled, plural
from videovit.models import build_model
from videovit.models.contract import VideoModel

BATCH = 16


class Clips(NamedTuple):
    """Clips of a split, one per entry.

    Attributes:
        x_BCTHW: the inputs of the model.
        corners_BTHW: bool, the corner of the shape that decides.
        labels_B: numbers of the classes.
    """

    x_BCTHW: Tensor
    corners_BTHW: Tensor
    labels_B: Tensor

    def chosen(self, which_B: Tensor) -> Clips:
        """Some of them."""
        return Clips(*(column[which_B] for column in self))


def read_clips(model: videovit.Model, split: str, number: int, seed: int) -> Clips:
    """The first `number` videos of a split, rendered without compression; of each, the first clip."""
    inputs, masks, labels = [], [], []
    for i in range(number):
        name = CLASSES[i % len(CLASSES)]
        frames_THWC, corner = render_among_still(name, video_rng(seed, split, i))
        (_, x_VCTHW) = next(model.predictor.prepared(frames_THWC, fps=FPS))
        # The mask goes through the same resizing and cropping as a video.
        (mask, _) = next(model.predictor.prepared(white_corner(corner, frames_THWC.shape), fps=FPS))
        middle = len(x_VCTHW) // 2
        inputs.append(x_VCTHW[middle])
        masks.append(mask.crops_VTSSC[middle, ..., 0] > 127)
        labels.append(model.class_names.index(name))
    return Clips(torch.stack(inputs), torch.stack(masks), torch.tensor(labels))


def white_corner(corner: int, shape: Sequence[int]) -> Array:
    """Black frames of this shape (T, H, W, 3) with one white corner."""
    _, H, W, _ = shape
    x, y = CORNERS[corner]
    rows_H, columns_W = ((np.arange(side) + 0.5) / side for side in (H, W))
    inside_HW = (np.abs(rows_H - y) < 0.25)[:, None] & (np.abs(columns_W - x) < 0.25)
    return np.broadcast_to(255 * inside_HW.astype(np.uint8)[..., None], shape)


def predicted(network: VideoModel, x_BCTHW: Tensor) -> Tensor:
    """The class with the highest score of every clip."""
    with torch.inference_mode():
        return torch.cat([network(part_BCTHW).argmax(dim=1) for part_BCTHW in x_BCTHW.split(BATCH)])


def play(network: VideoModel, method: Method, clips: Clips) -> tuple[float, float]:
    """Percent of the clips that are hits, and the mean percentage of heat that lies in the corner of the shape."""
    heat_BTHW = torch.cat(
        [
            method(network, x_BCTHW, labels_B)
            for x_BCTHW, labels_B in zip(clips.x_BCTHW.split(BATCH), clips.labels_B.split(BATCH), strict=True)
        ]
    )
    hits_B, shares_B = pointing_game(heat_BTHW, clips.corners_BTHW)
    return 100 * hits_B.float().mean().item(), 100 * shares_B.mean().item()


def measure(model: videovit.Model, method: str, clips: Clips, num_random: int) -> dict[str, float]:
    """Hits and heat of the trained model; and their mean over sets of random weights, with the lowest and highest."""
    found = dict(zip(("hits", "heat"), play(model.torch, METHODS[method], clips), strict=True))
    random = []
    for seed in range(num_random):
        torch.manual_seed(seed)
        random.append(play(build_model(model.config).eval(), METHODS[method], clips))
    for name, values in zip(("hits", "heat"), zip(*random, strict=True), strict=True):
        found[f"{name}_random"] = float(np.mean(values))
        found[f"{name}_random_lowest"], found[f"{name}_random_highest"] = min(values), max(values)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of runs on videos of --among-still")
    parser.add_argument("--method", action="append", choices=list(METHODS), help="again for more (default: all)")
    parser.add_argument("--split", choices=list(SPLITS), default="test", help="videos of this split (default: test)")
    parser.add_argument("--clips", type=int, default=240, metavar="N", help="how many videos (default: 240)")
    parser.add_argument("--random", type=int, default=5, metavar="N", help="sets of random weights (default: 5)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the data set (default: 0)")
    args = parser.parse_args(argv)
    if min(args.clips, args.random) < 1:
        parser.error("--clips and --random must be at least 1")
    try:
        for run in args.runs:
            model = videovit.load(run)
            clips = read_clips(model, args.split, args.clips, args.seed)
            correct = clips.chosen(predicted(model.torch, clips.x_BCTHW) == clips.labels_B)
            if not len(correct.labels_B):
                raise UserError(
                    f"of {plural(len(clips.labels_B), 'clip')}, none is classified correctly: was it trained on "
                    "--among-still?",
                    where=run,
                )
            for method in args.method or METHODS:
                values = measure(model, method, correct, args.random)
                row = {"run": run, "method": method, "clips": len(correct.labels_B), "of": len(clips.labels_B)}
                print(json.dumps(row | {key: round(value, 1) for key, value in values.items()}), flush=True)
    except UserError as error:
        print(labeled("error", error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
