"""The pictures of the demo data set: shapes that move on a drifting texture.

T frames, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

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
CORNERS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))  # x, y of their centers

SIZE = 112  # H = W
NUM_FRAMES = 36
ERRATIC_SHARE = 0.5  # fraction of the videos of appearance classes

Array = np.ndarray


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


@dataclass(frozen=True)
class Shape:
    """An object of a video: one of PLAIN_OBJECTS or APPEARANCE, its path, and its colors (2, 3), 0..255."""

    kind: str
    track: Track
    colors: Array

    def in_corner(self, corner: int) -> Shape:
        """Half as large, in one of CORNERS; its path is shorter still, so that it stays there."""
        x, y = CORNERS[corner]
        track = self.track
        smaller = replace(
            track,
            x_T=x + 0.4 * (track.x_T - 0.5),
            y_T=y + 0.4 * (track.y_T - 0.5),
            radius_T=0.5 * track.radius_T,
        )
        return replace(self, track=smaller)

    def stopped(self, frame: int) -> Shape:
        """As it is in one frame, in all of them."""
        track = self.track
        places = (track.x_T, track.y_T, track.radius_T, track.angle_T)
        return replace(self, track=Track(*(np.full_like(values_T, values_T[frame]) for values_T in places)))


def _kind_and_path(name: str, rng: np.random.Generator) -> tuple[str, str]:
    """The object of a class, and its movement, see `movement`."""
    if name in MOTION:
        kind = PLAIN_OBJECTS[int(rng.integers(len(PLAIN_OBJECTS)))]
        how = next(
            sign + law
            for law, pair in PAIRS.items()
            for sign, member in zip(("", "-"), pair, strict=True)
            if member == name
        )
        return kind, how
    laws = list(PAIRS)
    how = ("", "-")[int(rng.integers(2))] + laws[int(rng.integers(len(laws)))]
    return name, "erratic" if rng.random() < ERRATIC_SHARE else how


def _shape(name: str, kind: str, how: str, rng: np.random.Generator, num_frames: int) -> Shape:
    """An object of this kind that moves and is as large as those of a class."""
    # Brighter than the background, whose colors end at 110.
    bright = rng.uniform(150, 255, 3)
    dark = bright * rng.uniform(0.0, 0.25, 3)
    track = movement(how, rng, num_frames)
    if name in APPEARANCE:  # larger and upright, so that a few videos suffice to learn the patterns
        upright_T = np.full(num_frames, rng.uniform(-0.2, 0.2))
        track = replace(track, radius_T=np.minimum(1.3 * track.radius_T, 0.36), angle_T=upright_T)
    return Shape(kind, track, np.stack([bright, dark]))


def _with_noise(frames_THWC: Array, rng: np.random.Generator) -> Array:
    frames_THWC += rng.uniform(2.0, 8.0) * rng.standard_normal(frames_THWC.shape, dtype=np.float32)
    return np.clip(np.round(frames_THWC), 0, 255).astype(np.uint8)


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
    kind, how = _kind_and_path(name, rng)
    frames_THWC = drifting_texture(rng, num_frames, size)
    shape = _shape(name, kind, how, rng, num_frames)
    draw_object(frames_THWC, shape.kind, shape.track, shape.colors)
    return _with_noise(frames_THWC, rng)


def render_among_still(
    name: str, rng: np.random.Generator, *, num_frames: int = NUM_FRAMES, size: int = SIZE
) -> tuple[Array, int]:
    """Draw one video of a class in one corner, with a plain object that stands still in each of the others.

    Of a motion class, the still ones are objects of the same class that have stopped at some moment. So in any one
    frame, nothing distinguishes the object that decides.

    Returns:
        uint8 (T, H, W, 3), and the corner of the object that decides.
    """
    kind, how = _kind_and_path(name, rng)
    frames_THWC = drifting_texture(rng, num_frames, size)
    corner, *others = rng.permutation(len(CORNERS)).tolist()
    shapes = [_shape(name, kind, how, rng, num_frames).in_corner(corner)]
    for other in others:
        plain = PLAIN_OBJECTS[int(rng.integers(len(PLAIN_OBJECTS)))]
        still = _shape(name, plain, how, rng, num_frames).stopped(int(rng.integers(num_frames)))
        shapes.append(still.in_corner(other))
    for shape in shapes:
        draw_object(frames_THWC, shape.kind, shape.track, shape.colors)
    return _with_noise(frames_THWC, rng), corner
