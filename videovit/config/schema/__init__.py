"""What can be configured: one frozen dataclass per YAML section, one field per key.

Names and defaults are SlowFast's, so that its YAML files load unchanged; fields marked *ours* have no counterpart
there. Lists become tuples, so a loaded `Config` cannot be changed at all. A field's annotation carries its `limits`.
The sections of the models are in `schema_models`, those of detection in `schema_detection`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..limits import (
    AboveZero,
    AtLeastZero,
    Choice,
    Colour,
    ColourScale,
    DropRate,
    Fraction,
    Natural,
    Positive,
    Range,
    Size,
)
from .detection import Ava, Detection
from .models import Mvit, Pit, PsVit, Psvit, Supernet, Vit

DECODERS = ("decord", "pyav", "torchcodec", "frames", "image")
OPTIMIZERS = ("sgd", "adam", "adamw", "adamp")
LOSSES = ("cross_entropy", "soft_cross_entropy", "bce", "bce_logit")


@dataclass(frozen=True)
class Train:
    """TRAIN: what is trained on, how much at a time, and where weights come from."""

    ENABLE: bool = True
    DATASET: str = "kinetics"
    BATCH_SIZE: Positive = 64  # videos a step and shard
    EVAL_PERIOD: Positive = 10  # epochs
    CHECKPOINT_PERIOD: Positive = 10  # epochs
    CHECKPOINT_MINUTES: AtLeastZero = 0.0  # ours; also within an epoch, so often; 0: never
    CHECKPOINT_KEEP: Natural = 5  # ours; newest files of whole epochs that stay; 0: all
    AUTO_RESUME: bool = True
    CHECKPOINT_FILE_PATH: str = ""
    CHECKPOINT_TYPE: Annotated[str, Choice(("pytorch",))] = "pytorch"
    MIXED_PRECISION: bool = False
    MIXED_PRECISION_DTYPE: Annotated[str, Choice(("bf16", "fp16"))] = "bf16"  # ours
    GRAD_ACCUM_STEPS: Positive = 1  # ours
    MAX_STEPS: Natural = 0  # ours; optimiser steps, 0: no limit
    EMA_DECAY: DropRate = 0.0  # ours; moving average of the weights, 0: none; DeiT: 0.99996
    DETERMINISTIC: bool = True  # ours; on GPUs only kernels that give the same bits in every run
    NONFINITE: Annotated[str, Choice(("raise", "skip"))] = "raise"  # ours; a loss or gradient norm that is not finite
    NONFINITE_IN_A_ROW: Positive = 10  # ours; steps that `skip` leaves out in a row
    TRACE: bool = False  # ours; what every step trained on, in OUTPUT_DIR/trace_rank<N>.jsonl
    FIND_UNUSED_PARAMETERS: bool = False  # ours; for models that leave parameters out of some steps, on several ranks
    SHARD_MODEL: bool = False  # ours; weights, gradients, moments spread over the processes, see docs/scaling.md
    GRAD_COMPRESSION: Annotated[str, Choice(("none", "bf16", "fp16"))] = "none"  # ours; of gradients between ranks


@dataclass(frozen=True)
class Test:
    """TEST: the multi-view test."""

    __test__ = False  # not a test case, whatever a collector makes of the name

    ENABLE: bool = True
    DATASET: str = "kinetics"
    BATCH_SIZE: Positive = 8  # clips a step and shard
    CHECKPOINT_FILE_PATH: str = ""
    CHECKPOINT_TYPE: Annotated[str, Choice(("pytorch",))] = "pytorch"
    NUM_ENSEMBLE_VIEWS: Positive = 10  # clips of a video
    NUM_SPATIAL_CROPS: Annotated[int, Choice((1, 3))] = 3
    NUM_TEMPORAL_CLIPS: tuple[Positive, ...] = ()
    SAVE_RESULTS_PATH: str = ""
    SPLIT: Annotated[str, Choice(("", "val", "test"))] = ""  # ours; which list the test reads, "": the usual one
    SKIP_UNREADABLE: bool = False  # ours
    USE_EMA: bool = False  # ours; the moving average (TRAIN.EMA_DECAY) in validation, test and prediction
    MIXED_PRECISION: bool = False  # ours


@dataclass(frozen=True)
class ShuffleEval:
    """SHUFFLE_EVAL (ours): the test repeated with the frames of each clip in another order."""

    ENABLE: bool = False
    ORDERS: tuple[str, ...] = ("ordered", "reversed", "shuffled", "static")
    WINDOWS: tuple[Positive, ...] = ()  # frames
    NUM_SEEDS: Positive = 3
    SEED: Natural = 0
    CLASS_GROUPS_FILE: str = ""


@dataclass(frozen=True)
class Predict:
    """PREDICT (ours): prediction on single videos."""

    TOP_K: Positive = 5
    WINDOW_STRIDE_S: AtLeastZero = 0.0  # 0: windows back to back


@dataclass(frozen=True)
class Data:
    """DATA: files, clips, geometry."""

    PATH_TO_DATA_DIR: str = ""
    PATH_LABEL_SEPARATOR: str = " "
    PATH_PREFIX: str = ""
    SKIP_ROWS: Natural = 0
    CLASS_NAMES_FILE: str = ""  # ours
    MAX_BAD_FRACTION: Fraction = 0.1  # ours
    NUM_FRAMES: Positive = 8
    SAMPLING_RATE: Positive = 8  # frames
    TARGET_FPS: AboveZero = 30.0
    TRAIN_JITTER_FPS: AtLeastZero = 0.0
    USE_OFFSET_SAMPLING: bool = False
    DECODING_BACKEND: Annotated[str, Choice(DECODERS, aliases=(("torchvision", "decord"),))] = "decord"
    DECODE_TIMEOUT_S: AtLeastZero = 120.0  # ours; a video, opened and decoded; 0: no limit
    DECODE_SHORT_SIDE: Natural = 0  # ours; training: larger frames are scaled down to it while decoding; 0: never
    TEST_DECODE_SHORT_SIDE: Natural = 0  # ours; the same in validation and test
    MAX_PIXELS: Positive = 7680 * 4320  # ours; of a frame; larger ones are refused
    MAX_FRAMES: Positive = 1_000_000  # ours; of a video; longer ones are refused
    FRAMES_FPS: AboveZero = 30.0  # ours; frame rate of folders and lists of images
    MEAN: Colour = (0.45, 0.45, 0.45)
    STD: ColourScale = (0.225, 0.225, 0.225)
    INPUT_CHANNEL_NUM: Annotated[tuple[Positive, ...], Size((1, 2))] = (3, 3)  # the first counts
    REVERSE_INPUT_CHANNEL: bool = False
    TRAIN_JITTER_SCALES: Annotated[tuple[Positive, ...], Size((2,))] = (256, 320)
    TRAIN_JITTER_SCALES_RELATIVE: Annotated[tuple[AboveZero, ...], Size((0, 2))] = ()
    TRAIN_JITTER_ASPECT_RELATIVE: Annotated[tuple[AboveZero, ...], Size((0, 2))] = ()
    INV_UNIFORM_SAMPLE: bool = False
    RANDOM_FLIP: bool = True
    TRAIN_CROP_SIZE: Positive = 224
    TEST_CROP_SIZE: Positive = 256
    TEST_SHORT_SIDE: Natural = 0  # ours; 0: SlowFast's rule
    IN_VAL_CROP_RATIO: Annotated[float, Range(above=0.0, high=1.0)] = 0.875
    MULTI_LABEL: bool = False
    ENSEMBLE_METHOD: Annotated[str, Choice(("sum", "max"))] = "sum"


@dataclass(frozen=True)
class DataLoader:
    """DATA_LOADER: worker processes."""

    NUM_WORKERS: Natural = 8
    PIN_MEMORY: bool = True
    TIMEOUT: AtLeastZero = 0.0  # ours; seconds, 0: wait for ever


@dataclass(frozen=True)
class Aug:
    """AUG: RandAugment, random erasing, repeated augmentation."""

    ENABLE: bool = False
    NUM_SAMPLE: Positive = 1  # clips a video and step
    AA_TYPE: str = "rand-m9-mstd0.5-inc1"
    INTERPOLATION: Annotated[str, Choice(("bicubic", "bilinear", "nearest", "random"))] = "bicubic"
    BACKEND: Annotated[str, Choice(("fast", "pil"))] = "fast"  # ours; how RandAugment is computed, see docs
    COLOR_JITTER: AtLeastZero | None = 0.4  # in the place of RandAugment, when AA_TYPE is empty
    RE_PROB: Fraction = 0.25
    RE_MODE: Annotated[str, Choice(("pixel", "const", "rand"))] = "pixel"
    RE_COUNT: Positive = 1


@dataclass(frozen=True)
class Mixup:
    """MIXUP: mixup and CutMix."""

    ENABLE: bool = False
    ALPHA: AtLeastZero = 0.8
    CUTMIX_ALPHA: AtLeastZero = 1.0
    PROB: Fraction = 1.0
    SWITCH_PROB: Fraction = 0.5
    LABEL_SMOOTH_VALUE: DropRate = 0.1


@dataclass(frozen=True)
class Model:
    """MODEL: which model, its head and its loss.

    SlowFast's defaults of ARCH and MODEL_NAME name a convolutional network; here they name MViT.
    """

    ARCH: str = "mvit"
    MODEL_NAME: str = "MViT"
    NUM_CLASSES: Positive = 400
    LOSS_FUNC: Annotated[str, Choice(LOSSES)] = "cross_entropy"
    LABEL_SMOOTHING: DropRate = 0.0  # ours; without MIXUP
    DROPOUT_RATE: DropRate = 0.5
    HEAD_ACT: Annotated[str, Choice(("softmax", "sigmoid", "none"))] = "softmax"
    ACT_CHECKPOINT: bool = False
    FREEZE_LAYERS: Natural = 0  # ours; the embedding and the first layers up to this number minus one are not trained


@dataclass(frozen=True)
class Solver:
    """SOLVER: learning rate, optimiser, gradient clipping."""

    BASE_LR: AtLeastZero = 0.1
    BASE_LR_SCALE_NUM_SHARDS: bool = False
    LR_POLICY: Annotated[str, Choice(("cosine", "steps_with_relative_lrs"))] = "cosine"
    COSINE_END_LR: AtLeastZero = 0.0
    COSINE_AFTER_WARMUP: bool = False
    STEPS: tuple[AtLeastZero, ...] = ()  # epochs; for steps_with_relative_lrs
    LRS: tuple[AtLeastZero, ...] = ()  # factors of BASE_LR from each of STEPS on
    MAX_EPOCH: Positive = 300
    WARMUP_EPOCHS: AtLeastZero = 0.0
    WARMUP_START_LR: AtLeastZero = 0.01
    OPTIMIZING_METHOD: Annotated[str, Choice(OPTIMIZERS, aliases=(("mt_adamw", "adamw"),))] = "sgd"
    MOMENTUM: DropRate = 0.9
    DAMPENING: Fraction = 0.0
    NESTEROV: bool = True
    BETAS: Annotated[tuple[DropRate, ...], Size((2,))] = (0.9, 0.999)
    WEIGHT_DECAY: AtLeastZero = 1e-4
    ZERO_WD_1D_PARAM: bool = False
    CLIP_GRAD_VAL: AboveZero | None = None
    CLIP_GRAD_L2NORM: AboveZero | None = None
    LAYER_DECAY: Annotated[float, Range(above=0.0, high=1.0)] = 1.0


@dataclass(frozen=True)
class Distill:
    """DISTILL (ours): training with a teacher, a trained model with a config of its own."""

    TYPE: Annotated[str, Choice(("none", "soft", "hard"))] = "none"
    TEACHER_CFG: str = ""
    CHECKPOINT_FILE_PATH: str = ""  # of the teacher: a file, or the OUTPUT_DIR of its run
    ALPHA: Fraction = 0.5  # share of the teacher in the loss
    TAU: AboveZero = 1.0  # temperature of the soft form


@dataclass(frozen=True)
class Search:
    """SEARCH (ours): the best plan of a trained PSViTSupernet, by top-1 on the validation list."""

    ENABLE: bool = False
    MAX_GMACS: AtLeastZero = 0.0  # of one image; 0: no limit
    GENERATIONS: Positive = 20
    POPULATION: Positive = 50  # plans of a generation
    PARENTS: Positive = 10
    CROSSOVER: Natural = 25  # plans of a generation; the rest of them are random
    MUTATION: Natural = 25
    MUTATION_PROB: Fraction = 0.1  # of a cell
    RANDOM_BASELINE: bool = True  # as many random plans beside them


@dataclass(frozen=True)
class Benchmark:
    """BENCHMARK: speed of model, training step, averaging gradients, loader, decoding. ENABLE to COMPILE are ours."""

    ENABLE: bool = False
    WHAT: Annotated[str, Choice(("model", "train", "sync", "loader", "decode"))] = "model"
    BATCH_SIZE: Positive = 1  # clips
    NUM_STEPS: Positive = 10  # timed steps, after a warm-up
    COMPILE: bool = False  # also a compiled row on a CPU; on a GPU there always is one


@dataclass(frozen=True)
class Tensorboard:
    """TENSORBOARD: curves and pictures."""

    ENABLE: bool = False
    LOG_DIR: str = ""


@dataclass(frozen=True)
class Config:
    """Everything a run depends on; made by `load_config`, never changed after."""

    TASK: str = ""
    NUM_GPUS: Natural = 1  # of one machine
    NUM_CPU_PROCS: Positive = 1  # ours; processes when NUM_GPUS is 0
    NUM_CPU_THREADS: Natural = 0  # ours; threads of each of them, 0: share the cores
    NUM_SHARDS: Positive = 1  # machines
    SHARD_ID: Natural = 0
    DIST_BACKEND: Annotated[str, Choice(("auto", "nccl", "gloo"))] = "auto"  # SlowFast: nccl
    DIST_INIT_METHOD: str = ""  # ours
    DIST_TIMEOUT_S: AboveZero = 600.0  # ours
    OUTPUT_DIR: str = "."
    RNG_SEED: Natural = 1
    LOG_PERIOD: Positive = 10  # steps
    LOG_MODEL_INFO: bool = True
    TRAIN: Train = Train()
    TEST: Test = Test()
    SHUFFLE_EVAL: ShuffleEval = ShuffleEval()
    PREDICT: Predict = Predict()
    SEARCH: Search = Search()
    BENCHMARK: Benchmark = Benchmark()
    DATA: Data = Data()
    DATA_LOADER: DataLoader = DataLoader()
    AUG: Aug = Aug()
    MIXUP: Mixup = Mixup()
    MODEL: Model = Model()
    MVIT: Mvit = Mvit()
    VIT: Vit = Vit()
    PSVIT: Psvit = Psvit()
    SUPERNET: Supernet = Supernet()
    PIT: Pit = Pit()
    PS_VIT: PsVit = PsVit()
    SOLVER: Solver = Solver()
    DISTILL: Distill = Distill()
    DETECTION: Detection = Detection()
    AVA: Ava = Ava()
    TENSORBOARD: Tensorboard = Tensorboard()
