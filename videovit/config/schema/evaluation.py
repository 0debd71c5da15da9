"""Evaluation: TEST, SHUFFLE_EVAL, USE_OF_TIME, ROBUSTNESS, ANALYSIS, PREDICT, FEATURES and SEARCH."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from videovit.config.limits import AboveZero, AtLeastZero, Fraction, Natural, Positive, Range
from videovit.config.schema.training import CheckpointType, DatasetName

Split = Literal["", "val", "test"]
WhichCheckpoint = Literal["last", "best"]
EngineName = Literal["torch", "onnxruntime", "openvino"]
FrameOrder = Literal["ordered", "reversed", "shuffled", "static"]
ORDERS: tuple[FrameOrder, ...] = get_args(FrameOrder)
"""The frame orders that have a name of their own; `window<frames>` exists for any number of frames."""

Analyzed = Literal["attention", "similarity", "points"]
ANALYSES: tuple[Analyzed, ...] = get_args(Analyzed)
Distance = Literal["l1", "l2"]
Views = Annotated[int, Range(low=1, high=10_000)]

RobustnessTest = Literal["occlusion", "fgsm", "pgd", "corruptions"]
CorruptionName = Literal["noise", "blur", "brightness", "h264", "frame_drop", "frame_freeze"]
Severity = Literal[1, 2, 3, 4, 5]
Fill = Literal["mean", "black"]
FeatureLayer = Literal["pooled", "tokens", "stage1", "stage2", "stage3", "stage4", "stage5"]
FeatureDtype = Literal["f32", "f16"]
FeatureFormat = Literal["npy", "safetensors", "hdf5"]
Change = Annotated[float, Range(above=0.0, high=255.0)]  # of a pixel, on a scale from 0 to 255


@dataclass(frozen=True)
class Test:
    """TEST: the multi-view test."""

    __test__ = False  # keeps pytest from collecting the class because of its name

    ENABLE: bool = True
    DATASET: DatasetName = "kinetics"
    BATCH_SIZE: Positive = 8  # clips per step per shard
    CHECKPOINT_FILE_PATH: str = ""  # a file, the OUTPUT_DIR of a run, zoo:NAME, or a URL
    CHECKPOINT: WhichCheckpoint = "last"  # ours; of a run: its newest, or the best by TRAIN.BEST
    CHECKPOINT_TYPE: CheckpointType = "pytorch"
    NUM_ENSEMBLE_VIEWS: Views = 10  # clips per video
    NUM_SPATIAL_CROPS: Literal[1, 3] = 3
    NUM_TEMPORAL_CLIPS: tuple[Views, ...] = ()
    SAVE_RESULTS_PATH: str = ""
    SPLIT: Split = ""  # ours; the list that the test reads; empty: the data set's default
    SKIP_UNREADABLE: bool = False  # ours
    USE_EMA: bool = False  # ours; use the moving average (TRAIN.EMA_DECAY) in validation, test and prediction
    MIXED_PRECISION: bool = False  # ours
    ENGINE: EngineName = "torch"  # ours; what runs the model in test, frame-order evaluation and prediction, on a CPU


@dataclass(frozen=True)
class ShuffleEval:
    """SHUFFLE_EVAL (ours): the test, repeated with the frames of each clip in other orders."""

    ENABLE: bool = False
    ORDERS: tuple[str, ...] = ORDERS
    WINDOWS: tuple[Positive, ...] = ()  # frames
    NUM_SEEDS: Positive = 3
    SEED: Natural = 0  # of the permutations and of the bootstrap
    NUM_RESAMPLES: Positive = 10_000  # of the videos, for the interval of a drop
    CLASS_GROUPS_FILE: str = ""


@dataclass(frozen=True)
class UseOfTime:
    """USE_OF_TIME (ours): the test, repeated with frames reordered, dropped or covered, and at other speeds."""

    ENABLE: bool = False
    NUM_VIDEOS: Natural = 0  # evenly spaced in the list; 0 takes all
    PARTS: Positive = 4  # of a clip, which are covered one by one
    KEEP_EVERY: tuple[Positive, ...] = (2, 4)  # frames; every second, then every fourth frame is kept
    SPEEDS: tuple[AboveZero, ...] = (0.5, 2.0)
    NUM_SEEDS: Positive = 3  # of the shuffled order
    SEED: Natural = 0  # of the permutations and of the bootstrap
    NUM_RESAMPLES: Positive = 10_000  # of the videos, for the interval of a drop


@dataclass(frozen=True)
class Robustness:
    """ROBUSTNESS (ours): the test under occlusion, attacks and corruptions, and on data sets that are made for it."""

    ENABLE: bool = False
    WHAT: tuple[RobustnessTest, ...] = get_args(RobustnessTest)
    NUM_VIDEOS: Natural = 0  # evenly spaced in the list; 0 takes all
    SEED: Natural = 0  # of noise, lost frames and the start of PGD
    OCCLUSION: Fraction = 0.5  # share of height and width that is covered
    FILL: Fill = "mean"  # what covers it: the mean color (zero after normalization), or black
    EPS: tuple[Change, ...] = (1.0, 8.0)  # largest change of a pixel of 0 to 255; one column each
    PGD_STEPS: Positive = 5  # of half of EPS each, from a random start
    CORRUPTIONS: tuple[CorruptionName, ...] = get_args(CorruptionName)
    SEVERITIES: tuple[Severity, ...] = get_args(Severity)
    REFERENCE: str = ""  # OUTPUT_DIR of the run that mean corruption errors are relative to
    IMAGENET_A: str = ""  # folder of ImageNet-A: a folder of images per class, named by its WordNet id
    IMAGENET_R: str = ""  # the same of ImageNet-R
    CLASS_IDS_FILE: str = ""  # WordNet ids of all classes, one per line; empty: the folders of train or val
    BACKGROUNDS: str = ""  # folder of the Backgrounds Challenge
    CHALLENGE_IMAGES: Natural = 0  # foregrounds, evenly spaced; 0 takes all


@dataclass(frozen=True)
class Analysis:
    """ANALYSIS (ours): what the model does with the videos of the test list."""

    ENABLE: bool = False
    WHAT: tuple[Analyzed, ...] = ANALYSES  # those that do not apply to the model are left out
    NUM_VIDEOS: Natural = 200  # evenly spaced in the list; 0 takes all
    BATCH_SIZE: Positive = 4  # clips at once; attention maps take memory
    DISTANCE: Distance = "l1"  # l1 adds differences of rows and columns, l2 is the Euclidean length
    LAST_BLOCK: bool = False  # include the last attention layer in the curves, which PiT's paper leaves out
    NUM_PICTURES: Natural = 4  # videos whose sampling points are drawn


@dataclass(frozen=True)
class Predict:
    """PREDICT (ours): prediction on single videos."""

    TOP_K: Positive = 5
    WINDOW_STRIDE_S: AtLeastZero = 0.0  # seconds; 0 puts windows back to back


@dataclass(frozen=True)
class Features:
    """FEATURES (ours): what a model computes from videos, written to files in OUTPUT_DIR."""

    ENABLE: bool = False
    VIDEOS: tuple[str, ...] = ()  # lists (paths relative to DATA.PATH_PREFIX), folders and files
    LAYER: FeatureLayer = "pooled"  # tokens, stage1, ...: maps; pooled: what the classifier reads
    WINDOW_S: AtLeastZero = 0.0  # seconds; one row per window; 0: one row per video
    STRIDE_S: AtLeastZero = 0.0  # seconds between the starts of two windows; 0 puts windows back to back
    DTYPE: FeatureDtype = "f32"
    FORMAT: FeatureFormat = "npy"  # npy: a file per video; else a file per PER_SHARD videos
    PER_SHARD: Natural = 0  # videos; 0 chooses


@dataclass(frozen=True)
class Search:
    """SEARCH (ours): find the best plan of a trained PSViTSupernet, by top-1 on the validation list."""

    ENABLE: bool = False
    MAX_GMACS: AtLeastZero = 0.0  # 10^9 multiply-adds per image; 0 sets no limit
    GENERATIONS: Positive = 20
    POPULATION: Positive = 50  # plans per generation
    PARENTS: Positive = 10
    CROSSOVER: Natural = 25  # plans per generation; those that are neither crossed nor mutated are random
    MUTATION: Natural = 25
    MUTATION_PROB: Fraction = 0.1  # per cell
    RANDOM_BASELINE: bool = True  # also try as many random plans, for comparison
