r"""Draw training and validation accuracy of ResNet-50 in its own and in a ViT's dimensions, for docs/models.md.

    python datasets/digits/prepare.py --output output/digits/data
    for width in 8 16 24; do videovit run --cfg Digits/RESNET IMAGE_RESNET.WIDTH $width OUTPUT_DIR output/r$width; done
    for width in 9 18 26; do
        videovit run --cfg Digits/RESNET_VIT_STYLE IMAGE_RESNET.WIDTH $width OUTPUT_DIR output/v$width
    done
    python docs/pictures/resnet_dimensions.py --resnet output/r8 output/r16 output/r24 \
        --vit output/v9 output/v18 output/v26

Accuracies are those of the trained models on whole images, without augmentation, of train/ and of val/.

Source: PiT (arXiv 2103.16302), Figure 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure

import videovit
from videovit.data.readers.image_folder import read
from videovit.models import count_macs, count_params

Row = tuple[int, float, float, float]
"""Parameters, 1e6 multiply-adds, and accuracies in % on train and on val."""
HERE = Path(__file__).parent


def measure(folder: str) -> Row:
    """What a run has reached."""
    model = videovit.load(folder)
    data, side = model.config.DATA, model.config.DATA.TRAIN_CROP_SIZE
    accuracies = []
    for split in ("train", "val"):
        samples = read(Path(data.PATH_TO_DATA_DIR) / split, num_classes=model.config.MODEL.NUM_CLASSES)
        found = model.predict([sample.path for sample in samples], batch_size=64)
        right = [int(one.scores.argmax()) == sample.label for one, sample in zip(found, samples, strict=True)]
        accuracies.append(100 * sum(right) / len(right))
    params, macs = count_params(model.torch), count_macs(model.torch, (1, 3, 1, side, side)) / 1e6
    return params, macs, accuracies[0], accuracies[1]


def draw(rows: dict[str, list[Row]]) -> Figure:
    """Accuracies against multiply-adds, and validation against training."""
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, points in rows.items():
        _, macs, train, val = zip(*points, strict=True)
        (line,) = left.plot(macs, val, "o-", label=f"{name}: validation")
        left.plot(macs, train, "o:", color=line.get_color(), label=f"{name}: training")
        right.plot(train, val, "o-", label=name)
    left.set(xlabel="million multiply-adds", ylabel="top-1 (%)")
    right.set(xlabel="training top-1 (%)", ylabel="validation top-1 (%)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resnet", nargs="+", required=True, metavar="RUN", help="in the dimensions of a ResNet")
    parser.add_argument("--vit", nargs="+", required=True, metavar="RUN", help="in those of a ViT")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = {"ResNet's dimensions": list(map(measure, args.resnet)), "ViT's": list(map(measure, args.vit))}
    for name, points in rows.items():
        for params, macs, train, val in points:
            print(f"| {name} | {params:,} | {macs:.2f} | {train:.1f} | {val:.1f} |", flush=True)
    matplotlib.rcParams["svg.hashsalt"] = "videovit"
    draw(rows).savefig(HERE / "resnet_dimensions.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
