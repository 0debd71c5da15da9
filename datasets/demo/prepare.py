"""Render the demo data set: small H.264 videos with lists in the format of Kinetics, reproducible from a seed.

    python datasets/demo/prepare.py --output output/demo/data

Two families of classes share one label space:

    motion       move_left / move_right, move_up / move_down, grow / shrink, orbit_left / orbit_right: a plain object
                 whose movement is the class. Played backwards, a video of one class belongs to the other of its pair.
                 Everything else (places, colors, background, noise) has the same distribution, so only the order of
                 the frames distinguishes the two.
    appearance   checker, stripes, ring, cross: the pattern of the object is the class, visible in a single frame. It
                 moves in any of the ways above, or erratically.

The background is textured and drifts in a random direction. With --among-still, the object that decides is in one
corner, and plain ones stand still in the others. Each video depends only on (seed, split, number), so a larger set
contains the smaller one, and an interrupted run continues where it stopped.

Legend: T frames, H W pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw
from shapes import APPEARANCE, CLASSES, MOTION, NUM_FRAMES, SIZE, render, render_among_still
from tqdm import tqdm

from videovit.errors import UserError
from videovit.messages import labeled, plural

SPLITS = {"train": 960, "val": 120, "test": 240}

FPS = 30

Array = np.ndarray


@dataclass(frozen=True)
class Settings:
    """What the pixels depend on besides the code; saved in the output folder."""

    seed: int
    size: int = SIZE
    num_frames: int = NUM_FRAMES
    among_still: bool = False  # see `render_among_still`
    version: int = 4  # increase it if changes of the code below change pixels


def write_video(path: Path, frames_THWC: Array, fps: int = FPS) -> None:
    """Encode frames as H.264 in mp4, under a temporary name until the file is complete.

    Every frame is a key frame: the first frame of a group has a higher quality than the ones that follow it, which
    would reveal the direction of time.

    Args:
        path: output file.
        frames_THWC: uint8 (T, H, W, 3), H and W even.
        fps: frame rate.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(f".{os.getpid()}.partial")
    with av.open(str(partial_path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "23", "preset": "veryfast", "g": "1"}
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    partial_path.replace(path)


def video_rng(seed: int, split: str, number: int) -> np.random.Generator:
    """The random generator of one video."""
    return np.random.default_rng((seed, list(SPLITS).index(split), number))


def video_path(split: str, number: int) -> Path:
    """Path of a video, relative to the folder of the lists; classes alternate."""
    return Path(split, f"{CLASSES[number % len(CLASSES)]}_{number:05d}.mp4")


def _draw(settings: Settings, split: str, number: int) -> Array:
    name, rng = CLASSES[number % len(CLASSES)], video_rng(settings.seed, split, number)
    sizes = {"num_frames": settings.num_frames, "size": settings.size}
    return render_among_still(name, rng, **sizes)[0] if settings.among_still else render(name, rng, **sizes)


def _make(job: tuple[str, int], output: Path, settings: Settings) -> None:
    split, number = job
    write_video(output / video_path(split, number), _draw(settings, split, number))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    partial_path = path.with_suffix(path.suffix + ".partial")
    partial_path.write_text(text, encoding="utf-8")
    partial_path.replace(path)


def _claim(output: Path, settings: Settings) -> None:
    """Record the settings in the output folder, or reject a folder with other settings."""
    output.mkdir(parents=True, exist_ok=True)
    record = output / "settings.json"
    # Folders of earlier versions have no such setting.
    written = {key: value for key, value in asdict(settings).items() if value is not False}
    wanted = json.dumps(written, indent=1) + "\n"
    if record.exists() and record.read_text(encoding="utf-8") != wanted:
        raise UserError(
            f"contains a demo data set with the settings {' '.join(record.read_text(encoding='utf-8').split())}",
            where=output,
            expected=" ".join(wanted.split()),
            hint="Choose another --output or delete that folder",
        )
    write_text(record, wanted)


def prepare(
    output: Path,
    counts: dict[str, int],
    *,
    seed: int = 0,
    among_still: bool = False,
    workers: int = 1,
    quiet: bool = False,
) -> int:
    """Render missing videos, then write the lists.

    Args:
        output: folder of the lists, with one folder of videos per split.
        counts: split -> number of videos.
        seed: seed of the data set.
        among_still: with objects that stand still, see `render_among_still`.
        workers: number of processes.
        quiet: hide the progress bar.

    Returns:
        Number of rendered videos; existing ones are kept.

    Raises:
        UserError: the folder contains a data set with other settings.
    """
    settings = Settings(seed, among_still=among_still)
    _claim(output, settings)
    jobs = [(split, number) for split, count in counts.items() for number in range(count)]
    missing = [job for job in jobs if not (output / video_path(*job)).exists()]
    make = partial(_make, output=output, settings=settings)
    pause_s = 0.2 if sys.stderr.isatty() else 10.0  # keeps log files short
    with tqdm(
        total=len(jobs),
        initial=len(jobs) - len(missing),
        desc="rendering",
        unit="video",
        mininterval=pause_s,
        disable=quiet,
    ) as bar:
        for _ in _run(make, missing, workers):
            bar.update()
    for split, count in counts.items():
        rows = [f"{video_path(split, number).as_posix()} {number % len(CLASSES)}\n" for number in range(count)]
        write_text(output / f"{split}.csv", "".join(rows))
    write_text(output / "classes.json", json.dumps({name: i for i, name in enumerate(CLASSES)}, indent=1) + "\n")
    groups = {"motion": list(MOTION), "appearance": list(APPEARANCE)}
    write_text(output / "groups.json", json.dumps(groups, indent=1) + "\n")
    return len(missing)


def _run(make: partial[None], jobs: Sequence[tuple[str, int]], workers: int) -> Iterator[None]:
    if workers <= 1:
        yield from map(make, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(make, jobs, chunksize=8)


def montage(path: Path, settings: Settings, *, num_columns: int = 8) -> None:
    """Write a contact sheet: one row per class, with frames of its first video from left to right.

    Args:
        path: PNG file.
        settings: of the data set; the videos are from its test split.
        num_columns: frames per class.
    """
    margin, gap = 84, 2
    sheet = Image.new("RGB", (margin + num_columns * (SIZE + gap), len(CLASSES) * (SIZE + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, name in enumerate(CLASSES):
        frames = _draw(settings, "test", row)
        pen.text((4, row * (SIZE + gap) + SIZE // 2), name, fill="black")
        for column, index in enumerate(np.linspace(0, NUM_FRAMES - 1, num_columns).astype(int)):
            sheet.paste(Image.fromarray(frames[index]), (margin + column * (SIZE + gap), row * (SIZE + gap)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the lists and videos")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the data set (default: 0)")
    for split, count in SPLITS.items():
        parser.add_argument(
            f"--{split}", type=int, default=count, metavar="N", help=f"number of {split} videos (default: {count})"
        )
    parser.add_argument(
        "--among-still", action="store_true", help="add three objects that stand still (docs/analysis.md)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(os.cpu_count() or 1, 8),
        metavar="N",
        help="number of processes (default: number of cores, at most 8)",
    )
    parser.add_argument(
        "--preview",
        type=Path,
        metavar="PNG",
        help="contact sheet, one video per class (default: preview.png in --output)",
    )
    args = parser.parse_args(argv)
    counts = {split: getattr(args, split) for split in SPLITS}
    if args.seed < 0 or min(counts.values()) < 1:
        parser.error("--seed must be at least 0, and --train, --val and --test at least 1")
    try:
        num_rendered = prepare(args.output, counts, seed=args.seed, among_still=args.among_still, workers=args.workers)
    except UserError as error:
        print(labeled("error", error), file=sys.stderr)
        return 1
    num_kept = sum(counts.values()) - num_rendered
    print(f"rendered {plural(num_rendered, 'video')} in {args.output}, {num_kept} already existed")
    preview = args.preview or args.output / "preview.png"
    montage(preview, Settings(args.seed, among_still=args.among_still))
    print(f"preview: {preview}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
