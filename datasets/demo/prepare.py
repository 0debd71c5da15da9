"""Render the demo data set: small H.264 videos, in the list format of Kinetics, the same from the same seed.

    python datasets/demo/prepare.py --output output/demo/data

Two families of classes share one label space:

    motion       move_left / move_right, move_up / move_down, grow / shrink, orbit_left / orbit_right: a plain object
                 whose movement makes the class. Played backwards, a video of one belongs to the other of its pair, and
                 everything else (places, colours, background, noise) is drawn alike, so no set of frames tells which
                 of the two it is: only their order does.
    appearance   checker, stripes, ring, cross: the object makes the class, and one frame shows it. It moves in any of
                 the ways above, or erratically.

The background is textured and drifts in a random direction. Each video depends on (seed, split, number) only, so a
larger set contains the smaller one, and a run that was cut short goes on where it stopped.

Legend: T frames, H W pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

PAIRS = {  # movement -> (class when it runs forwards, class when it runs backwards)
    "horizontal": ("move_right", "move_left"),
    "vertical": ("move_down", "move_up"),
    "scale": ("grow", "shrink"),
    "orbit": ("orbit_right", "orbit_left"),
}
MOTION = tuple(name for pair in PAIRS.values() for name in pair)
APPEARANCE = ("checker", "stripes", "ring", "cross")
CLASSES = MOTION + APPEARANCE
PLAIN_OBJECTS = ("disc", "square", "triangle")
SPLITS = {"train": 960, "val": 120, "test": 240}

SIZE = 112  # H = W
NUM_FRAMES = 36
FPS = 30
ERRATIC_SHARE = 0.5  # of the videos of appearance classes

Array = np.ndarray


class DemoError(ValueError):
    """The output folder cannot be used as it is."""


@dataclass(frozen=True)
class Settings:
    """What the pixels depend on, beside the code; kept in the output folder."""

    seed: int
    size: int = SIZE
    num_frames: int = NUM_FRAMES
    version: int = 4  # raise it when the code below draws other pixels


@dataclass(frozen=True)
class Track:
    """Where the object is: centre, radius (in sides of the frame) and angle (radians), one value per frame."""

    x_T: Array
    y_T: Array
    radius_T: Array
    angle_T: Array


def movement(name: str, rng: np.random.Generator, num_frames: int) -> Track:
    """Draw the path of a moving object.

    Every path is made from a phase that rises from 0 to 1, and reversing the phase reverses the video: apart from the
    phase, all draws are alike for both directions of time.

    Args:
        name: key of PAIRS for the forward direction, "-" before it for the backward one, or "erratic".
        rng: source of randomness.
        num_frames: T.

    Returns:
        A Track of T frames.
    """
    time_T = np.linspace(0.0, 1.0, num_frames)
    phase_T = time_T + rng.uniform(-0.5, 0.5) * np.sin(2 * np.pi * time_T) / (2 * np.pi)  # uneven speed, symmetric
    if name.startswith("-"):
        phase_T = 1.0 - phase_T
    angle_T = rng.uniform(0, 2 * np.pi) + rng.uniform(-1.0, 1.0) * (time_T - 0.5)
    radius_T = np.full(num_frames, rng.uniform(0.16, 0.21))
    x_T, y_T = (np.full(num_frames, rng.uniform(0.42, 0.58)) for _ in range(2))
    along_T = 0.5 + rng.uniform(-0.04, 0.04) + rng.uniform(0.5, 0.64) * (phase_T - 0.5)
    across = rng.uniform(0.3, 0.7)
    law = name.removeprefix("-")
    if law == "horizontal":
        x_T, y_T = along_T, np.full(num_frames, across)
    elif law == "vertical":
        x_T, y_T = np.full(num_frames, across), along_T
    elif law == "scale":
        radius_T = rng.uniform(0.09, 0.11) * np.exp(phase_T * rng.uniform(1.1, 1.3))
    elif law == "orbit":
        turn_T = rng.uniform(0, 2 * np.pi) + phase_T * rng.uniform(1.3, 2.0) * np.pi
        reach = rng.uniform(0.22, 0.27)
        x_T, y_T = 0.5 + reach * np.cos(turn_T), 0.5 + reach * np.sin(turn_T)
    else:
        held_T = np.arange(num_frames) // int(rng.integers(2, 6))  # a new place every few frames
        x_T, y_T = (rng.uniform(0.25, 0.75, num_frames)[held_T] for _ in range(2))
        radius_T = rng.uniform(0.12, 0.28, num_frames)[held_T]
    return Track(x_T, y_T, radius_T, angle_T)


def drifting_texture(rng: np.random.Generator, num_frames: int, size: int) -> Array:
    """Draw a background: smooth periodic noise between two colours, drifting in a random direction.

    Args:
        rng: source of randomness.
        num_frames: T.
        size: side of the frame in pixels.

    Returns:
        float32 (T, H, W, 3), 0..255.
    """
    frequency = np.fft.fftfreq(size) * size
    power = np.exp(-(np.hypot(*np.meshgrid(frequency, frequency)) ** 2) / rng.uniform(10, 60))
    spectrum = np.fft.fft2(rng.normal(size=(size, size))) * power
    texture_HW = np.real(np.fft.ifft2(spectrum))
    texture_HW = 0.5 + 0.5 * np.tanh(texture_HW / texture_HW.std())
    colours = rng.uniform(20, 110, (2, 3))
    picture_HWC = (colours[0] + texture_HW[..., None] * (colours[1] - colours[0])).astype(np.float32)
    direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 1.2)  # pixels a frame
    shifts = np.round(np.outer(np.arange(num_frames), speed * np.array([np.sin(direction), np.cos(direction)])))
    return np.stack([np.roll(picture_HWC, tuple(shift), axis=(0, 1)) for shift in shifts.astype(int)])


def inside(kind: str, u: Array, v: Array) -> Array:
    """How far a point lies inside an object, in radii; negative outside.

    Args:
        kind: one of PLAIN_OBJECTS or APPEARANCE.
        u: coordinate in the frame of the object, in radii.
        v: the other one.

    Returns:
        Same shape as `u`.
    """
    if kind in ("disc", "stripes", "ring", "cross"):
        return 1.0 - np.hypot(u, v)
    if kind in ("square", "checker"):
        return 0.85 - np.maximum(np.abs(u), np.abs(v))
    sides = [0.55 - (u * np.cos(a) + v * np.sin(a)) for a in (0.0, 2 * np.pi / 3, 4 * np.pi / 3)]  # triangle
    return np.minimum.reduce(sides)


def paint(kind: str, u: Array, v: Array) -> Array:
    """The pattern on an object: 0 for its first colour, 1 for its second, with soft edges.

    Args:
        kind: one of PLAIN_OBJECTS or APPEARANCE.
        u: see `inside`.
        v: see `inside`.

    Returns:
        Same shape as `u`, 0..1.
    """
    if kind == "checker":
        wave = np.cos(u * np.pi / 0.567) * np.cos(v * np.pi / 0.567)  # three by three fields
    elif kind == "stripes":
        wave = np.cos(u * np.pi / 0.4)
    elif kind == "ring":
        wave = 3 * (np.abs(np.hypot(u, v) - 0.58) - 0.22)
    elif kind == "cross":
        wave = 3 * (np.minimum(np.abs(u), np.abs(v)) - 0.22)
    else:
        return np.zeros_like(u)
    return 0.5 + 0.5 * np.tanh(4 * wave)


def draw_object(frames_THWC: Array, kind: str, track: Track, colours: Array) -> None:
    """Draw an object into every frame, in place.

    Args:
        frames_THWC: float32 (T, H, W, 3), 0..255; overwritten where the object is.
        kind: one of PLAIN_OBJECTS or APPEARANCE.
        track: T places.
        colours: (2, 3), 0..255.
    """
    size = frames_THWC.shape[1]
    for frame, x, y, radius, angle in zip(
        frames_THWC, track.x_T, track.y_T, track.radius_T, track.angle_T, strict=True
    ):
        pixels = radius * size
        top, left = (max(0, int((place - 1.5 * radius) * size)) for place in (y, x))
        bottom, right = (min(size, int((place + 1.5 * radius) * size) + 2) for place in (y, x))
        rows = (np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - y * size) / pixels
        columns = (np.arange(left, right, dtype=np.float32)[None, :] + 0.5 - x * size) / pixels
        u, v = columns * np.cos(angle) + rows * np.sin(angle), rows * np.cos(angle) - columns * np.sin(angle)
        coverage = np.clip(0.5 + inside(kind, u, v) * pixels, 0.0, 1.0)[..., None]
        colour = colours[0] + paint(kind, u, v)[..., None] * (colours[1] - colours[0])
        window = frame[top:bottom, left:right]
        window += coverage * (colour - window)


def render(name: str, rng: np.random.Generator, *, num_frames: int = NUM_FRAMES, size: int = SIZE) -> Array:
    """Draw one video of a class.

    Args:
        name: one of CLASSES.
        rng: source of all randomness.
        num_frames: T.
        size: side of the frame in pixels.

    Returns:
        uint8 (T, H, W, 3).
    """
    if name in MOTION:
        kind = PLAIN_OBJECTS[int(rng.integers(len(PLAIN_OBJECTS)))]
        how = next(
            sign + law
            for law, pair in PAIRS.items()
            for sign, member in zip(("", "-"), pair, strict=True)
            if member == name
        )
    else:
        kind = name
        laws = list(PAIRS)
        how = ("", "-")[int(rng.integers(2))] + laws[int(rng.integers(len(laws)))]
        if rng.random() < ERRATIC_SHARE:
            how = "erratic"
    frames_THWC = drifting_texture(rng, num_frames, size)
    bright = rng.uniform(150, 255, 3)
    dark = bright * rng.uniform(0.0, 0.25, 3)
    track = movement(how, rng, num_frames)
    if name in APPEARANCE:  # larger and upright, so that few videos are enough to learn the patterns
        upright_T = np.full(num_frames, rng.uniform(-0.2, 0.2))
        track = replace(track, radius_T=np.minimum(1.3 * track.radius_T, 0.36), angle_T=upright_T)
    draw_object(frames_THWC, kind, track, np.stack([bright, dark]))
    frames_THWC += rng.uniform(2.0, 8.0) * rng.standard_normal(frames_THWC.shape, dtype=np.float32)
    return np.clip(np.round(frames_THWC), 0, 255).astype(np.uint8)


def write_video(path: Path, frames_THWC: Array, fps: int = FPS) -> None:
    """Encode frames as H.264 in mp4, written to a temporary name first.

    Every frame is a key frame: the first frame of a group is coded better than the ones that follow it, and that
    would tell which way time runs.

    Args:
        path: of the file.
        frames_THWC: uint8 (T, H, W, 3), H and W even.
        fps: frames per second.
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
    """The generator that draws one video; depends on nothing else."""
    return np.random.default_rng((seed, list(SPLITS).index(split), number))


def video_path(split: str, number: int) -> Path:
    """Path of a video, from the folder of the lists; classes take turns."""
    return Path(split, f"{CLASSES[number % len(CLASSES)]}_{number:05d}.mp4")


def _make(job: tuple[str, int], output: Path, settings: Settings) -> None:
    split, number = job
    frames = render(
        CLASSES[number % len(CLASSES)],
        video_rng(settings.seed, split, number),
        num_frames=settings.num_frames,
        size=settings.size,
    )
    write_video(output / video_path(split, number), frames)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    partial_path = path.with_suffix(path.suffix + ".partial")
    partial_path.write_text(text, encoding="utf-8")
    partial_path.replace(path)


def _claim(output: Path, settings: Settings) -> None:
    """Make the folder ours, or refuse one that holds something rendered from other settings."""
    output.mkdir(parents=True, exist_ok=True)
    record = output / "settings.json"
    wanted = json.dumps(asdict(settings), indent=1) + "\n"
    if record.exists() and record.read_text(encoding="utf-8") != wanted:
        raise DemoError(
            f"{output} holds a demo data set made with {' '.join(record.read_text(encoding='utf-8').split())}, "
            f"asked for {' '.join(wanted.split())}: choose another --output or delete that folder"
        )
    write_text(record, wanted)


def prepare(output: Path, counts: dict[str, int], *, seed: int = 0, workers: int = 1, quiet: bool = False) -> int:
    """Render what is missing, then write the lists.

    Args:
        output: folder for the lists and, below it, a folder of videos per split.
        counts: split -> number of videos.
        seed: of the whole data set.
        workers: processes.
        quiet: no progress bar.

    Returns:
        Number of videos that were rendered; those already there are kept.

    Raises:
        DemoError: the folder holds a data set made with other settings.
    """
    settings = Settings(seed)
    _claim(output, settings)
    jobs = [(split, number) for split, count in counts.items() for number in range(count)]
    missing = [job for job in jobs if not (output / video_path(*job)).exists()]
    make = partial(_make, output=output, settings=settings)
    pause_s = 0.2 if sys.stderr.isatty() else 10.0  # a log file wants few lines
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


def montage(path: Path, *, seed: int = 0, num_columns: int = 8) -> None:
    """Write a contact sheet: one row per class, frames of its first video from left to right.

    Args:
        path: PNG file.
        seed: of the data set; the videos are those of its test split.
        num_columns: frames per class.
    """
    margin, gap = 84, 2
    sheet = Image.new("RGB", (margin + num_columns * (SIZE + gap), len(CLASSES) * (SIZE + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, name in enumerate(CLASSES):
        frames = render(name, video_rng(seed, "test", row))
        pen.text((4, row * (SIZE + gap) + SIZE // 2), name, fill="black")
        for column, index in enumerate(np.linspace(0, NUM_FRAMES - 1, num_columns).astype(int)):
            sheet.paste(Image.fromarray(frames[index]), (margin + column * (SIZE + gap), row * (SIZE + gap)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description="Render the demo data set.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the lists and videos")
    parser.add_argument("--seed", type=int, default=0, help="of the whole data set (default 0)")
    for split, count in SPLITS.items():
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N", help=f"videos (default {count})")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8), help="processes")
    parser.add_argument(
        "--preview", type=Path, metavar="PNG", help="contact sheet, one video per class (DIR/preview.png)"
    )
    args = parser.parse_args(argv)
    counts = {split: getattr(args, split) for split in SPLITS}
    if args.seed < 0 or min(counts.values()) < 1:
        parser.error("--seed must be at least 0, and --train, --val and --test at least 1")
    try:
        num_rendered = prepare(args.output, counts, seed=args.seed, workers=args.workers)
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{num_rendered} videos rendered, {sum(counts.values()) - num_rendered} were there: {args.output}")
    preview = args.preview or args.output / "preview.png"
    montage(preview, seed=args.seed)
    print(f"preview: {preview}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
