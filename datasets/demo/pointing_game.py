"""Do heat maps lie on the moving shape? The pointing game on the demo data set, with trained and with random weights.

    python datasets/demo/pointing_game.py output/demo/run --method grad_cam --method occlusion

For each method: the share of clips whose hottest pixel, of all frames, lies on the shape; the share of the heat that
lies on it; and both again for the same architecture with random weights (the sanity check of Adebayo et al., arXiv
1810.03292), with the rank correlation between the two maps of a clip. Chance is the share of pixels on the shape.

Source: pointing game of Zhang et al. (arXiv 1608.00507), section 4.2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from prepare import CLASSES, FPS, render_with_mask, video_rng
from torch import Tensor

import videovit
from videovit.analysis.explain import METHODS
from videovit.analysis.pointing import pointing_game, rank_correlation
from videovit.errors import UserError
from videovit.messages import labeled
from videovit.models import build_model


class Clip(NamedTuple):
    """A clip of the test split.

    Attributes:
        x_1CTHW: the input of the model.
        mask_THW: bool, the pixels of the shape in it.
        label: number of its class.
    """

    x_1CTHW: Tensor
    mask_THW: Tensor
    label: int


def read_clips(model: videovit.Model, number: int, seed: int) -> Iterator[Clip]:
    """The first clips of the first `number` videos of the test split, rendered without compression."""
    for i in range(number):
        name = CLASSES[i % len(CLASSES)]
        frames_THWC, mask_THW = render_with_mask(name, video_rng(seed, "test", i))
        (_, x_VCTHW) = next(model.predictor.prepared(frames_THWC, fps=FPS))
        # The mask goes through the same resizing and cropping as a video.
        white_THWC = (255 * mask_THW.astype(np.uint8))[..., None].repeat(3, axis=-1)
        (clip, _) = next(model.predictor.prepared(white_THWC, fps=FPS))
        middle = len(x_VCTHW) // 2
        yield Clip(x_VCTHW[middle : middle + 1], clip.crops_VTSSC[middle, ..., 0] > 127, model.class_names.index(name))


def measure(model: videovit.Model, method: str, clips: Sequence[Clip], batch: int = 8) -> dict[str, float]:
    """Both shares of a method in percent, for the model and for random weights."""
    torch.manual_seed(0)
    random = build_model(model.config).eval()
    maps: dict[str, list[Tensor]] = {"trained": [], "random": []}
    rest = iter(clips)
    while group := list(islice(rest, batch)):
        x_BCTHW = torch.cat([clip.x_1CTHW for clip in group])
        labels_B = torch.tensor([clip.label for clip in group])
        maps["trained"] += METHODS[method](model.torch, x_BCTHW, labels_B).unbind()
        maps["random"] += METHODS[method](random, x_BCTHW, labels_B).unbind()
    masks_BTHW = torch.stack([clip.mask_THW for clip in clips])
    found = {}
    for weights, heats in maps.items():
        hits_B, shares_B = pointing_game(torch.stack(heats), masks_BTHW)
        found[f"hits_{weights}"] = 100 * hits_B.float().mean().item()
        found[f"heat_{weights}"] = 100 * shares_B.mean().item()
    pairs = zip(maps["trained"], maps["random"], strict=True)
    found["correlation"] = float(np.mean([rank_correlation(one, two) for one, two in pairs]))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of runs on the demo data set")
    parser.add_argument("--method", action="append", choices=list(METHODS), help="again for more (default: all)")
    parser.add_argument("--clips", type=int, default=240, metavar="N", help="test videos (default: 240)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the data set (default: 0)")
    args = parser.parse_args(argv)
    try:
        for run in args.runs:
            model = videovit.load(run)
            clips = list(read_clips(model, args.clips, args.seed))
            chance = 100 * float(np.mean([clip.mask_THW.float().mean().item() for clip in clips]))
            for method in args.method or METHODS:
                row = {"run": run, "method": method, "clips": len(clips), "chance": chance}
                row |= measure(model, method, clips)
                print(
                    json.dumps({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}), flush=True
                )
    except UserError as error:
        print(labeled("error", error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
