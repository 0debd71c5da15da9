"""What can be configured: one frozen dataclass per YAML section, one field per key.

Names and defaults are SlowFast's, so that its YAML files load unchanged. Fields marked *ours* do not exist there. A
field's annotation carries its choices and limits, and whether a resumed run may change it (`Free`); its comment begins
with the unit. Lists become tuples, so that a loaded `Config` is immutable throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from videovit.config.limits import AboveZero, Crew, Free, Natural, Positive
from videovit.config.schema.convolutional import BatchNorm, NonLocal, ResNet, SlowFast, X3d
from videovit.config.schema.data import Aug, Data, DataLoader, Mixup
from videovit.config.schema.detection import Ava, Coco, Detection
from videovit.config.schema.detectors import Detector
from videovit.config.schema.evaluation import (
    Analysis,
    Features,
    Predict,
    Robustness,
    Search,
    ShuffleEval,
    Test,
    UseOfTime,
)
from videovit.config.schema.masking import Mask
from videovit.config.schema.models import (
    HuggingFace,
    ImageResnet,
    Model,
    Mvit,
    Pit,
    PoolingSharing,
    ProgressiveSampling,
    Supernet,
    Vit,
)
from videovit.config.schema.run import Benchmark, Tensorboard
from videovit.config.schema.training import Distill, Solver, Train

DistBackend = Literal["auto", "nccl", "gloo"]


@dataclass(frozen=True)
class Config:
    """Everything a run depends on. Made by `load_config`, never changed afterwards."""

    TASK: Free[str] = ""
    NUM_GPUS: Free[Natural] = 1  # per machine; 0 runs on the CPU
    NUM_CPU_PROCS: Free[Positive] = 1  # ours; processes per machine when NUM_GPUS is 0
    NUM_CPU_THREADS: Free[Crew] = 0  # ours; threads per CPU process; 0 divides the cores among the processes
    NUM_SHARDS: Positive = 1  # machines
    SHARD_ID: Free[Natural] = 0  # which of them this is, from 0
    DIST_BACKEND: Free[DistBackend] = "auto"  # SlowFast's default is nccl
    DIST_INIT_METHOD: Free[str] = ""  # ours; where the machines meet, tcp://HOST:PORT
    DIST_TIMEOUT_S: Free[AboveZero] = 600.0  # seconds; ours; a collective that takes longer fails
    OUTPUT_DIR: Free[str] = "."
    RNG_SEED: Natural = 1
    LOG_PERIOD: Free[Positive] = 10  # steps between two records of the loss in stats.jsonl
    LOG_MODEL_INFO: Free[bool] = True
    LOG_JSON: Free[bool] = False  # ours; PySlowFast's json_stats lines in the log; stats.jsonl always has them
    TRAIN: Train = Train()
    TEST: Free[Test] = Test()
    SHUFFLE_EVAL: Free[ShuffleEval] = ShuffleEval()
    USE_OF_TIME: Free[UseOfTime] = UseOfTime()
    ROBUSTNESS: Free[Robustness] = Robustness()
    ANALYSIS: Free[Analysis] = Analysis()
    PREDICT: Free[Predict] = Predict()
    FEATURES: Free[Features] = Features()
    SEARCH: Free[Search] = Search()
    BENCHMARK: Free[Benchmark] = Benchmark()
    DATA: Data = Data()
    DATA_LOADER: Free[DataLoader] = DataLoader()
    AUG: Aug = Aug()
    MIXUP: Mixup = Mixup()
    MODEL: Model = Model()
    MVIT: Mvit = Mvit()
    BN: BatchNorm = BatchNorm()
    RESNET: ResNet = ResNet()
    SLOWFAST: SlowFast = SlowFast()
    X3D: X3d = X3d()
    NONLOCAL: NonLocal = NonLocal()
    VIT: Vit = Vit()
    PSVIT: PoolingSharing = PoolingSharing()
    SUPERNET: Supernet = Supernet()
    PIT: Pit = Pit()
    PS_VIT: ProgressiveSampling = ProgressiveSampling()
    IMAGE_RESNET: ImageResnet = ImageResnet()
    MASK: Mask = Mask()
    HF: HuggingFace = HuggingFace()
    SOLVER: Solver = Solver()
    DISTILL: Distill = Distill()
    DETECTION: Detection = Detection()
    DETECTOR: Detector = Detector()
    AVA: Ava = Ava()
    COCO: Coco = Coco()
    TENSORBOARD: Free[Tensorboard] = Tensorboard()
