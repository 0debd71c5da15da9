"""Render the demo data set: small H.264 videos with lists in the format of Kinetics, reproducible from a seed.

    python datasets/demo/prepare.py --output output/demo/data

Two families of classes share one label space:

    motion       move_left / move_right, move_up / move_down, grow / shrink, orbit_left / orbit_right: a plain object
                 whose movement is the class. Played backwards, a video of one class belongs to the other of its pair.
                 Everything else (places, colors, background, noise) has the same distribution, so only the order of
                 the frames distinguishes the two.
    appearance   checker, stripes, ring, cross: the pattern of the object is the class, visible in a single frame. It
                 moves in any of the ways above, or erratically.

The background is textured and drifts in a random direction. Each video depends only on (seed, split, number), so a
larger set contains the smaller one, and an interrupted run continues where it stopped.

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

from videovit.errors import UserError
from videovit.messages import labeled, plural

PAIRS = {  # movement -> (class if it runs forwards, class if it runs backwards)
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
ERRATIC_SHARE = 0.5  # fraction of the videos of appearance classes

Array = np.ndarray


@dataclass(frozen=True)
class Settings:
    """What the pixels depend on besides the code; saved in the output folder."""

    seed: int
    size: int = SIZE
    num_frames: int = NUM_FRAMES
    version: int = 4  # increase it if changes of the code below change pixels


@dataclass(frozen=True)
class Track:
    """Position of the object in every frame: center and radius (in sides of the frame), and angle (radians)."""

    x_T: Array
    y_T: Array
    radius_T: Array
    angle_T: Array


def movement(name: str, rng: np.random.Generator, num_frames: int) -> Track:
    """Draw the path of a moving object.

    Every path is a function of a phase that rises from 0 to 1. Reversing the phase reverses the video; all other draws
    have the same distribution for both directions of time.

    Args:
        name: key of PAIRS for the forward direction, the key prefixed with "-" for the backward one, or "erratic".
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
        held_T = np.arange(num_frames) // int(rng.integers(2, 6))  # a new position every few frames
        x_T, y_T = (rng.uniform(0.25, 0.75, num_frames)[held_T] for _ in range(2))
        radius_T = rng.uniform(0.12, 0.28, num_frames)[held_T]
    return Track(x_T, y_T, radius_T, angle_T)


def drifting_texture(rng: np.random.Generator, num_frames: int, size: int) -> Array:
    """Draw a background: smooth periodic noise between two colors, drifting in a random direction.

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
    # tanh gives two colors with soft transitions.
    texture_HW = 0.5 + 0.5 * np.tanh(texture_HW / texture_HW.std())
    colors = rng.uniform(20, 110, (2, 3))
    picture_HWC = (colors[0] + texture_HW[..., None] * (colors[1] - colors[0])).astype(np.float32)
    direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 1.2)  # pixels per frame
    # Whole pixels, because interpolation would blur the texture differently per frame.
    shifts = np.round(np.outer(np.arange(num_frames), speed * np.array([np.sin(direction), np.cos(direction)])))
    return np.stack([np.roll(picture_HWC, tuple(shift), axis=(0, 1)) for shift in shifts.astype(int)])


def inside(kind: str, u: Array, v: Array) -> Array:
    """Distance of points from the edge of an object, in radii; negative outside.

    Args:
        kind: one of PLAIN_OBJECTS or APPEARANCE.
        u: first coordinate relative to the object, in radii.
        v: second coordinate.

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
    """The pattern on an object: 0 for its first color, 1 for its second, with soft edges.

    Args:
        kind: one of PLAIN_OBJECTS or APPEARANCE.
        u: see `inside`.
        v: see `inside`.

    Returns:
        Same shape as `u`, 0..1.
    """
    if kind == "checker":
        wave = np.cos(u * np.pi / 0.567) * np.cos(v * np.pi / 0.567)  # three by three squares
    elif kind == "stripes":
        wave = np.cos(u * np.pi / 0.4)
    elif kind == "ring":
        wave = 3 * (np.abs(np.hypot(u, v) - 0.58) - 0.22)
    elif kind == "cross":
        wave = 3 * (np.minimum(np.abs(u), np.abs(v)) - 0.22)
    else:
        return np.zeros_like(u)
    return 0.5 + 0.5 * np.tanh(4 * wave)


def draw_object(frames_THWC: Array, kind: str, track: Track, colors: Array) -> None:
    """Draw an object into every frame, in place.

    Args:
        frames_THWC: float32 (T, H, W, 3), 0..255; overwritten inside the object.
        kind: one of PLAIN_OBJECTS or APPEARANCE.
        track: T positions.
        colors: (2, 3), 0..255.
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
        # Anti-aliased edge of one pixel.
        coverage = np.clip(0.5 + inside(kind, u, v) * pixels, 0.0, 1.0)[..., None]
        color = colors[0] + paint(kind, u, v)[..., None] * (colors[1] - colors[0])
        window = frame[top:bottom, left:right]
        window += coverage * (color - window)


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
    return render_with_mask(name, rng, num_frames=num_frames, size=size)[0]


def render_with_mask(
    name: str, rng: np.random.Generator, *, num_frames: int = NUM_FRAMES, size: int = SIZE
) -> tuple[Array, Array]:
    """As `render`, and the pixels of the object, bool (T, H, W)."""
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
    # Brighter than the background, whose colors end at 110.
    bright = rng.uniform(150, 255, 3)
    dark = bright * rng.uniform(0.0, 0.25, 3)
    track = movement(how, rng, num_frames)
    if name in APPEARANCE:  # larger and upright, so that a few videos suffice to learn the patterns
        upright_T = np.full(num_frames, rng.uniform(-0.2, 0.2))
        track = replace(track, radius_T=np.minimum(1.3 * track.radius_T, 0.36), angle_T=upright_T)
    draw_object(frames_THWC, kind, track, np.stack([bright, dark]))
    covered_THWC = np.zeros_like(frames_THWC)
    draw_object(covered_THWC, kind, track, np.ones((2, 3)))
    frames_THWC += rng.uniform(2.0, 8.0) * rng.standard_normal(frames_THWC.shape, dtype=np.float32)
    return np.clip(np.round(frames_THWC), 0, 255).astype(np.uint8), covered_THWC[..., 0] > 0.5


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
    """Write a text file atomically."""
    partial_path = path.with_suffix(path.suffix + ".partial")
    partial_path.write_text(text, encoding="utf-8")
    partial_path.replace(path)


def _claim(output: Path, settings: Settings) -> None:
    """Record the settings in the output folder, or reject a folder with other settings."""
    output.mkdir(parents=True, exist_ok=True)
    record = output / "settings.json"
    wanted = json.dumps(asdict(settings), indent=1) + "\n"
    if record.exists() and record.read_text(encoding="utf-8") != wanted:
        raise UserError(
            f"contains a demo data set with the settings {' '.join(record.read_text(encoding='utf-8').split())}",
            where=output,
            expected=" ".join(wanted.split()),
            hint="Choose another --output or delete that folder",
        )
    write_text(record, wanted)


def prepare(output: Path, counts: dict[str, int], *, seed: int = 0, workers: int = 1, quiet: bool = False) -> int:
    """Render missing videos, then write the lists.

    Args:
        output: folder of the lists, with one folder of videos per split.
        counts: split -> number of videos.
        seed: seed of the data set.
        workers: number of processes.
        quiet: hide the progress bar.

    Returns:
        Number of rendered videos; existing ones are kept.

    Raises:
        UserError: the folder contains a data set with other settings.
    """
    settings = Settings(seed)
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


def montage(path: Path, *, seed: int = 0, num_columns: int = 8) -> None:
    """Write a contact sheet: one row per class, with frames of its first video from left to right.

    Args:
        path: PNG file.
        seed: seed of the data set; the videos are from its test split.
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the lists and videos")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the data set (default: 0)")
    for split, count in SPLITS.items():
        parser.add_argument(
            f"--{split}", type=int, default=count, metavar="N", help=f"number of {split} videos (default: {count})"
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
        num_rendered = prepare(args.output, counts, seed=args.seed, workers=args.workers)
    except UserError as error:
        print(labeled("error", error), file=sys.stderr)
        return 1
    num_kept = sum(counts.values()) - num_rendered
    print(f"rendered {plural(num_rendered, 'video')} in {args.output}, {num_kept} already existed")
    preview = args.preview or args.output / "preview.png"
    montage(preview, seed=args.seed)
    print(f"preview: {preview}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
