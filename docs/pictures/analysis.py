"""Draw the pictures of docs/analysis.md from trained demo models, and count sampling points on the objects.

    python datasets/digits/prepare.py --output output/digits/data
    videovit run --cfg Digits/VIT VIT.PATCH_SIZE [1,4,4] VIT.DEPTH 8 SOLVER.MAX_EPOCH 24 OUTPUT_DIR output/vit
    videovit run --cfg Digits/PIT PIT.DEPTHS [2,4,2] SOLVER.MAX_EPOCH 12 OUTPUT_DIR output/pit
    videovit run --cfg Digits/PSVIT "PSVIT.PLAN" "BBBB|BBBB" PSVIT.DIMS [48,96] PSVIT.HEADS [3,3] SOLVER.MAX_EPOCH 12 \
        OUTPUT_DIR output/psvit
    videovit run --cfg Digits/PS_VIT PS_VIT.ITERATIONS 4 PS_VIT.POINTS [7,7] SOLVER.MAX_EPOCH 12 \
        OUTPUT_DIR output/ps_vit
    videovit analyze output/vit output/pit output/psvit output/ps_vit ANALYSIS.NUM_VIDEOS 0
    python docs/pictures/analysis.py --curves output/vit output/pit --maps output/psvit --points output/ps_vit

and those of videos from the models of configs/Demo, the first one trained among still shapes (docs/analysis.md), the
others tested by `videovit use_of_time` and `videovit robustness`:

    python docs/pictures/analysis.py --why output/still/mvit --video 4 --time output/demo/mvit \
        --robust output/demo/mvit output/demo/vit output/demo/pit output/demo/ps_vit

Objects of the digits and of the demo videos are brighter than what surrounds them, so a threshold finds them.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

import videovit
from videovit.analysis import drawing
from videovit.analysis.explain import METHODS
from videovit.analysis.heat_video import overlay
from videovit.analysis.sampling_points import as_fractions, share_inside
from videovit.data.build import build_loader
from videovit.data.transforms.pipeline import build_preparation
from videovit.engine.tasks.analyze import read_report
from videovit.engine.tasks.robustness import read_report as read_robustness
from videovit.engine.tasks.robustness_report import draw_robustness
from videovit.engine.tasks.use_of_time_picture import draw_use_of_time
from videovit.models.progressive_sampling import ProgressiveSamplingViT

BRIGHT = 130  # of 255; backgrounds of the demo videos end at 110
HERE = Path(__file__).parent


def count_points(run: Path) -> tuple[torch.Tensor, float, tuple[np.ndarray, np.ndarray]]:
    """Share of the points of each iteration on bright pixels; share of bright pixels; frames and points of a clip."""
    model = videovit.load(run)
    network, cfg = model.torch, model.config
    assert isinstance(network, ProgressiveSamplingViT)
    prepare = build_preparation(cfg, train=False)
    shares, bright, number = torch.zeros(network.iterations, dtype=torch.float64), 0.0, 0
    for batch in build_loader(cfg, "test"):
        x_BCTHW = prepare(batch.frames_BTHWC, None)
        with torch.inference_mode():
            T, H, W = x_BCTHW.shape[2:]
            points_IBN3 = as_fractions(network.sampling_points(x_BCTHW), (T, H, W))
        masks_BTHW = batch.frames_BTHWC.amax(-1) > BRIGHT
        shares += len(batch) * share_inside(points_IBN3, masks_BTHW)
        bright += len(batch) * masks_BTHW.double().mean().item()
        number += len(batch)
    return shares / number, bright / number, (batch.frames_BTHWC[-1].numpy(), points_IBN3[:, -1].numpy())


def draw_why(run: Path, number: int) -> Figure:
    """Heat maps of a video of the test list for its class: a row per method."""
    model = videovit.load(run)
    sample = build_loader(model.config, "test").dataset.samples[number]
    figure = Figure(figsize=(4.8, 1.15 * (len(METHODS) + 1)), layout="constrained")
    table = figure.subplots(len(METHODS) + 1, 4)
    name = model.class_names[sample.label]
    for row, method in zip(table[1:], METHODS, strict=True):
        found = model.explain(sample.path, class_name=name, method=method)
        chosen = np.linspace(0, len(found.times_s) - 1, len(row)).round().astype(int)
        for axes, image in zip(row, overlay(found.frames_FSS3[chosen], found.heat_FSS[chosen]), strict=True):
            axes.imshow(image)
        row[0].set_ylabel(method, fontsize="small")
    for axes, i in zip(table[0], chosen, strict=True):
        axes.imshow(found.frames_FSS3[i])
        axes.set_title(f"{found.times_s[i]:.2f} s", fontsize="small")
    for axes in table.flat:
        axes.set(xticks=[], yticks=[])
    figure.suptitle(f"why {name}?  score {found.score:.2f}", fontsize="medium")
    return figure


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", nargs="*", type=Path, default=[], help="analyzed runs in one picture of attention")
    parser.add_argument("--maps", type=Path, help="an analyzed run whose maps are compared")
    parser.add_argument("--points", nargs="*", type=Path, default=[], help="runs of PS-ViT; the first one is drawn")
    parser.add_argument("--why", type=Path, help="a run whose heat maps are drawn")
    parser.add_argument("--video", type=int, default=0, help="which video of its test list")
    parser.add_argument("--time", type=Path, help="a run tested by videovit use_of_time")
    parser.add_argument("--robust", nargs="*", type=Path, default=[], help="runs tested by videovit robustness")
    parser.add_argument("--output", type=Path, default=HERE)
    args = parser.parse_args()
    # Small files, the same every time: text instead of outlines of letters, images in their own resolution.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "", "image.interpolation": "none"})
    figures = {}
    if args.curves:
        figures["attention"] = drawing.draw_attention({run.name: read_report(run) for run in args.curves})
    if args.maps:
        figures["similarity"] = drawing.draw_similarity(read_report(args.maps))
    for i, run in enumerate(args.points):
        shares, bright, (frames_THW3, points_IN3) = count_points(run)
        text = ", ".join(f"{100 * share:.1f} %" for share in shares.tolist())
        print(f"{run.name}: points on the object per iteration: {text}; bright pixels: {100 * bright:.1f} %")
        if i == 0:
            figures["points"] = drawing.draw_points(frames_THW3, points_IN3, "")
    if args.why:
        figures["why"] = draw_why(args.why, args.video)
    if args.time:
        changes = json.loads((args.time / "use_of_time.json").read_text(encoding="utf-8"))["changes"]
        figures["time"] = draw_use_of_time({"orders": changes}, list(changes["ordered"]["groups"]))
    if args.robust:
        figures["robustness"] = draw_robustness({run.name: read_robustness(run) for run in args.robust})
    for name, figure in figures.items():
        path = args.output / f"analysis_{name}.svg"
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        shorter = re.sub(r"\d+\.\d\d+", lambda found: f"{float(found[0]):.1f}", text.getvalue())
        path.write_text(re.sub(r" +$", "", shorter, flags=re.M), encoding="utf-8")
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
