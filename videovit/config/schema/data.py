"""Data: DATA, DATA_LOADER, AUG and MIXUP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from videovit.config.limits import (
    AboveZero,
    Aliases,
    AtLeastZero,
    Color,
    ColorScale,
    Crew,
    DropRate,
    Fraction,
    FrameRate,
    Free,
    Natural,
    Positive,
    Range,
    Side,
    Size,
    SpaceTime,
    Stride,
)

Decoder = Literal["decord", "pyav", "torchcodec", "frames", "image"]
EnsembleMethod = Literal["sum", "max"]
Interpolation = Literal["bicubic", "bilinear", "nearest", "random"]
AugBackend = Literal["fast", "pil"]
ErasingMode = Literal["pixel", "const", "rand"]
Sampling = Literal["uniform", "balanced"]


@dataclass(frozen=True)
class Data:
    """DATA: files, clips and their geometry."""

    PATH_TO_DATA_DIR: Free[str] = ""
    PATH_LABEL_SEPARATOR: str = " "
    PATH_PREFIX: Free[str] = ""
    SKIP_ROWS: Natural = 0
    CLASS_NAMES_FILE: Free[str] = ""  # ours
    MAX_BAD_FRACTION: Free[Fraction] = 0.1  # ours
    NUM_FRAMES: Annotated[int, Range(1, 10_000)] = 8
    SAMPLING_RATE: Stride = 8  # frames
    TARGET_FPS: FrameRate = 30.0
    TRAIN_JITTER_FPS: Annotated[float, Range(0.0, 10_000.0)] = 0.0
    USE_OFFSET_SAMPLING: bool = False
    DECODING_BACKEND: Annotated[Decoder, Aliases({"torchvision": "decord"})] = "decord"
    DECODE_TIMEOUT_S: AtLeastZero = 120.0  # seconds; ours; to open and decode a video; 0 sets no limit
    DECODE_SHORT_SIDE: Natural = 0  # pixels; ours; training scales larger frames down while decoding; 0 never does
    TEST_DECODE_SHORT_SIDE: Free[Natural] = 0  # pixels; ours; the same in validation and test
    MAX_PIXELS: Positive = 7680 * 4320  # ours; larger frames are refused
    MAX_FRAMES: Positive = 1_000_000  # ours; longer videos are refused
    MAX_VIDEO_MB: Positive = 4096  # ours; 10^6 bytes; videos whose frames of one sample take more are refused
    REMOTE_CACHE_GB: Free[AboveZero] = 20.0  # 10^9 bytes; ours; room for copies of remote files
    FRAMES_FPS: FrameRate = 30.0  # ours; frame rate of folders and lists of images
    MEAN: Color = (0.45, 0.45, 0.45)
    STD: ColorScale = (0.225, 0.225, 0.225)
    INPUT_CHANNEL_NUM: Annotated[tuple[Positive, ...], Size((1, 2))] = (3, 3)  # [1] converts frames to gray
    REVERSE_INPUT_CHANNEL: bool = False
    TRAIN_JITTER_SCALES: tuple[Side, Side] = (256, 320)  # pixels
    TRAIN_JITTER_SCALES_RELATIVE: Annotated[tuple[AboveZero, ...], Size((0, 2))] = ()
    TRAIN_JITTER_ASPECT_RELATIVE: Annotated[tuple[AboveZero, ...], Size((0, 2))] = ()
    INV_UNIFORM_SAMPLE: bool = False
    RANDOM_FLIP: bool = True
    SSL_COLOR_JITTER: bool = False  # brightness, contrast, saturation and hue, before AUG; the two below limit them
    SSL_COLOR_BRI_CON_SAT: tuple[AtLeastZero, AtLeastZero, AtLeastZero] = (0.4, 0.4, 0.4)
    SSL_COLOR_HUE: Annotated[float, Range(0.0, 0.5)] = 0.1  # of a full turn
    COLOR_RND_GRAYSCALE: Fraction = 0.0  # probability of a gray clip, with SSL_COLOR_JITTER
    TRAIN_CROP_SIZE: Side = 224  # pixels
    TRAIN_CROP_NUM_TEMPORAL: Positive = 1  # clips per video per step, from other moments
    TEST_CROP_SIZE: Free[Side] = 256  # pixels
    TEST_SHORT_SIDE: Free[Annotated[int, Range(0, 16_384)]] = 0  # pixels; ours; 0 follows SlowFast's rule
    IN_VAL_CROP_RATIO: Free[Annotated[float, Range(above=0.0, high=1.0)]] = 0.875
    MULTI_LABEL: bool = False
    SAMPLER: Sampling = "uniform"  # ours; balanced: training draws every class equally often
    ENSEMBLE_METHOD: Free[EnsembleMethod] = "sum"


@dataclass(frozen=True)
class DataLoader:
    """DATA_LOADER: worker processes."""

    NUM_WORKERS: Crew = 8  # per process of the run
    PIN_MEMORY: bool = True
    TIMEOUT: AtLeastZero = 0.0  # seconds; ours; 0 waits forever


@dataclass(frozen=True)
class Aug:
    """AUG: RandAugment, random erasing, repeated augmentation."""

    ENABLE: bool = False
    NUM_SAMPLE: Positive = 1  # clips per video per step
    AA_TYPE: str = "rand-m9-mstd0.5-inc1"
    INTERPOLATION: Interpolation = "bicubic"
    BACKEND: AugBackend = "fast"  # ours; how RandAugment is computed, see docs/performance.md
    COLOR_JITTER: AtLeastZero | None = 0.4  # replaces RandAugment when AA_TYPE is empty
    RE_PROB: Fraction = 0.25
    RE_MODE: ErasingMode = "pixel"
    RE_COUNT: Positive = 1
    MASK_RATIO: DropRate = 0.0  # share of a clip that MASK hides
    MASK_TUBE: bool = False  # hide the same places in all frames
    MASK_FRAMES: bool = False  # hide whole frames of cells
    MASK_WINDOW_SIZE: SpaceTime = (8, 7, 7)  # cells of a clip that are hidden as a whole; of images: tokens
    MAX_MASK_PATCHES_PER_BLOCK: Positive | None = None  # cells of a block that is hidden in an image


@dataclass(frozen=True)
class Mixup:
    """MIXUP: mixup and CutMix."""

    ENABLE: bool = False
    ALPHA: AtLeastZero = 0.8
    CUTMIX_ALPHA: AtLeastZero = 1.0
    PROB: Fraction = 1.0
    SWITCH_PROB: Fraction = 0.5
    LABEL_SMOOTH_VALUE: DropRate = 0.1
