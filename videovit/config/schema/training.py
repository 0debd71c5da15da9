"""Training: TRAIN, SOLVER and DISTILL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from videovit.config.limits import AboveZero, Aliases, AtLeastZero, DropRate, Fraction, Free, Natural, Positive, Range

CheckpointType = Literal["pytorch", "caffe2"]  # read from the file itself
HalfPrecision = Literal["bf16", "fp16"]
NonfinitePolicy = Literal["raise", "skip"]
GradCompression = Literal["none", "bf16", "fp16"]
LrPolicy = Literal["cosine", "steps_with_relative_lrs"]
Optimizer = Literal["sgd", "adam", "adamw", "adamp"]
Distillation = Literal["none", "soft", "hard"]
Frozen = Literal["none", "backbone"]
# Under the names that begin with ptv, PySlowFast reads the same lists through pytorchvideo.
DatasetName = Annotated[
    str,
    Aliases({"ptvkinetics": "kinetics", "ptvcharades": "charades", "ptvssv2": "ssv2"}),
]
BestMeasure = Literal[
    "", "auto", "top1_acc", "top5_acc", "mean_class_acc", "macro_f1", "map", "box_ap", "mask_ap", "loss"
]


@dataclass(frozen=True)
class Train:
    """TRAIN: the data, batches, checkpoints and precision of training, and the weights it starts from."""

    ENABLE: bool = True
    DATASET: DatasetName = "kinetics"
    OBJECTIVE: str = "auto"  # ours; row of OBJECTIVES; auto: by DETECTOR.NAME, MASK.ENABLE and DISTILL.TYPE
    BATCH_SIZE: Positive = 64  # videos per step per shard
    EVAL_PERIOD: Free[Natural] = 10  # epochs between validations; 0 never validates
    BEST: Free[BestMeasure] = (
        "auto"  # ours; of validation, for checkpoint_best.pyth; auto: top1_acc, map, box_ap or loss; '' for none
    )
    EARLY_STOP_EPOCHS: Free[Natural] = 0  # ours; a validation this long after the best one ends training; 0 never does
    FREEZE: Frozen | Natural = "none"  # ours; layers that are not trained: all but the head, or the first N
    CHECKPOINT_PERIOD: Free[Positive] = 10  # epochs
    CHECKPOINT_MINUTES: Free[AtLeastZero] = 0.0  # minutes between mid-epoch checkpoints; ours; 0 disables them
    CHECKPOINT_KEEP: Free[Natural] = 5  # ours; how many end-of-epoch checkpoints are kept, the newest; 0 keeps all
    AUTO_RESUME: Free[bool] = True
    CHECKPOINT_FILE_PATH: str = ""  # a file, the OUTPUT_DIR of a run, zoo:NAME, or a URL
    CHECKPOINT_TYPE: CheckpointType = "pytorch"
    MIXED_PRECISION: bool = False
    MIXED_PRECISION_DTYPE: HalfPrecision = "bf16"  # ours
    GRAD_ACCUM_STEPS: Positive = 1  # ours; parts that a batch is computed in
    MAX_STEPS: Free[Natural] = 0  # optimizer steps; ours; 0 sets no limit
    EMA_DECAY: DropRate = 0.0  # ours; moving average of the weights; 0 disables it; DeiT uses 0.99996
    DETERMINISTIC: bool = True  # ours; on GPUs use only kernels that give the same bits in every run
    NONFINITE: NonfinitePolicy = "raise"  # ours; reaction to a loss or gradient norm that is not finite
    NONFINITE_IN_A_ROW: Positive = 10  # steps; ours; `skip` gives up after so many in a row
    TRACE: Free[bool] = False  # ours; write the samples of every step to OUTPUT_DIR/trace_rank<N>.jsonl
    FIND_UNUSED_PARAMETERS: bool = False  # ours; for models that leave parameters out of some steps, on several ranks
    SHARD_MODEL: bool = False  # ours; spread weights, gradients, moments over the processes, see docs/scaling.md
    GRAD_COMPRESSION: GradCompression = "none"  # ours; of gradients sent between ranks


@dataclass(frozen=True)
class Solver:
    """SOLVER: learning rate, optimizer and gradient clipping."""

    BASE_LR: AtLeastZero = 0.1
    BASE_LR_SCALE_NUM_SHARDS: bool = False
    LR_POLICY: LrPolicy = "cosine"
    COSINE_END_LR: AtLeastZero = 0.0
    COSINE_AFTER_WARMUP: bool = False
    STEPS: tuple[AtLeastZero, ...] = ()  # epochs; for steps_with_relative_lrs
    LRS: tuple[AtLeastZero, ...] = ()  # factors of BASE_LR, each from the epoch in STEPS on; more than steps are spare
    MAX_EPOCH: Positive = 300
    WARMUP_EPOCHS: AtLeastZero = 0.0
    WARMUP_START_LR: AtLeastZero = 0.01
    OPTIMIZING_METHOD: Annotated[Optimizer, Aliases({"mt_adamw": "adamw"})] = "sgd"
    MOMENTUM: DropRate = 0.9
    DAMPENING: Fraction = 0.0
    NESTEROV: bool = True
    BETAS: tuple[DropRate, DropRate] = (0.9, 0.999)
    WEIGHT_DECAY: AtLeastZero = 1e-4
    ZERO_WD_1D_PARAM: bool = False
    CLIP_GRAD_VAL: AboveZero | None = None
    CLIP_GRAD_L2NORM: AboveZero | None = None
    LAYER_DECAY: Annotated[float, Range(above=0.0, high=1.0)] = 1.0


@dataclass(frozen=True)
class Distill:
    """DISTILL (ours): training with a teacher, which is a trained model with a config of its own."""

    TYPE: Distillation = "none"
    TEACHER_CFG: str = ""  # may be empty for a teacher of the zoo
    CHECKPOINT_FILE_PATH: str = ""  # the teacher's: a file, the OUTPUT_DIR of its run, zoo:NAME, or a URL
    ALPHA: Fraction = 0.5  # share of the teacher in the loss
    TAU: AboveZero = 1.0  # temperature of soft distillation
