"""Keys of SlowFast and of earlier versions that do not exist here.

They are ignored with a warning (IGNORED), or refused when they are used (REFUSED).

A name that ends in `.*` stands for all keys of that section that are not listed themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from videovit.config.schema.models import Loss

_CNN = "MODEL.MODEL_NAME determines it"
_SELF_SUPERVISED = "belongs to contrastive training"
_LOADER = "belongs to SlowFast's loader benchmark; see BENCHMARK.WHAT"
_AVA_COLOR = "belongs to AVA.TRAIN_USE_COLOR_AUGMENTATION, which is not supported"
_STEPS = "no learning-rate policy uses it"
_PICTURES = "see `videovit report` for confusions, mistakes and curves; `videovit analyze` and `explain` for models"

IGNORED: dict[str, str] = {
    "MODEL.SINGLE_PATHWAY_ARCH": _CNN,
    "MODEL.MULTI_PATHWAY_ARCH": _CNN,
    "MODEL.DROPCONNECT_RATE": "no network here drops connections",
    "RESNET.INPLACE_RELU": "saves memory there; results are the same",
    "MODEL.FROZEN_BN": "TRAIN.FREEZE freezes layers together with their batch norms",
    "MODEL.FP16_ALLREDUCE": "TRAIN.GRAD_COMPRESSION sets the precision in which gradients are averaged",
    "TRAIN.CHECKPOINT_INFLATE": "image weights are inflated automatically",
    "TRAIN.CHECKPOINT_IN_INIT": "image weights are recognized by their shapes",
    "TRAIN.CHECKPOINT_EPOCH_RESET": "TRAIN.CHECKPOINT_FILE_PATH loads only weights; training starts at epoch 0",
    "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN": "prefixes of wrappers are recognized and removed",
    "TRAIN.KILL_LOSS_EXPLOSION_FACTOR": "see TRAIN.NONFINITE",
    "DATA.DECODING_SHORT_SIZE": "see DATA.DECODE_SHORT_SIDE",
    "BENCHMARK.NUM_EPOCHS": _LOADER,
    "BENCHMARK.LOG_PERIOD": _LOADER,
    "BENCHMARK.SHUFFLE": _LOADER,
    "CONTRASTIVE.*": _SELF_SUPERVISED,
    "VIS_MASK.ENABLE": "every validation draws reconstructions, see MASK.NUM_PICTURES",
    "AUG.GEN_MASK_LOADER": "MASK.MAE_RND_MASK alone says which kind of mask is drawn",
    "DATA.SSL_BLUR_SIGMA_MIN": _SELF_SUPERVISED,
    "DATA.SSL_BLUR_SIGMA_MAX": _SELF_SUPERVISED,
    "DETECTION.SPATIAL_SCALE_FACTOR": "the model determines it: 32 for MViT, for which SlowFast's 16 is wrong",
    "AVA.TRAIN_PCA_JITTER_ONLY": _AVA_COLOR,
    "AVA.IMG_PROC_BACKEND": "there is only one image backend",
    "DATA.TRAIN_PCA_EIGVAL": _AVA_COLOR,
    "DATA.TRAIN_PCA_EIGVEC": _AVA_COLOR,
    "MULTIGRID.*": "belongs to multigrid training",
    "DEMO.*": "see `videovit predict --cfg CONFIG --checkpoint FILE VIDEO`; --annotate writes classes into a copy",
    "SOLVER.GAMMA": _STEPS,
    "SOLVER.STEP_SIZE": _STEPS,
    "SOLVER.WARMUP_FACTOR": _STEPS,
    "PREFETCH.*": "SlowFast does not know it either; see DATA_LOADER.NUM_WORKERS",
    "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE": "each worker decodes with one thread",
    "DATA.PATH_TO_PRELOAD_IMDB": "image folders are listed at every start",
    "DATA.IN22k_VAL_IN1K": "belongs to ImageNet-21K training",
    "DATA.LOADER_CHUNK_OVERALL_SIZE": "list files are read completely",
    "TENSORBOARD.MODEL_VIS.*": _PICTURES,
    "TENSORBOARD.CONFUSION_MATRIX.*": _PICTURES,
    "TENSORBOARD.HISTOGRAM.*": _PICTURES,
    "TENSORBOARD.PREDICTIONS_PATH": _PICTURES,
    "TENSORBOARD.CLASS_NAMES_PATH": _PICTURES,
    "TENSORBOARD.CATEGORIES_PATH": _PICTURES,
    "TENSORBOARD.WRONG_PRED_VIS.*": _PICTURES,
}


@dataclass(frozen=True)
class Refusal:
    """A key of a feature that is not supported.

    Attributes:
        why: why it is refused.
        off: values that leave the feature off; if empty, all values that are not in `on`.
        on: values that switch it on; if empty, all values that are not in `off`.
        instead: values to use; if empty, the first of `off`.
    """

    why: str
    off: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why it is refused, and what to set instead."""
        return f"{self.why}; set it to {' or '.join(self.instead or self.off[:1])}"

    def applies_to(self, text: str) -> bool:
        """Whether a value, as written in the file, switches the feature on."""
        return _among(text, self.on) if self.on else not _among(text, self.off)


def _among(text: str, values: tuple[str, ...]) -> bool:
    return any(_same(text.strip(), value) for value in values)


def _same(text: str, value: str) -> bool:
    if text.lower() == value.lower():
        return True
    try:
        return float(text) == float(value)
    except ValueError:
        return False


def _switch(reason: str) -> Refusal:
    return Refusal(reason, off=("False", "no", "off"))


_NO_POOLED_DECODER = "decoders do not pool here"
_NO_MULTIGRID = (
    "multigrid training is not supported: the sizes of its batches and clips change within an epoch, but here a step "
    "costs the same throughout, and what a clip is follows from (seed, epoch, index) alone"
)
_NO_CONTRASTIVE = (
    "contrastive pre-training is not supported: its queues and second networks would be part of every checkpoint; "
    "the weights of such a training can be fine-tuned (TRAIN.CHECKPOINT_FILE_PATH)"
)

REFUSED: dict[str, Refusal] = {
    "MODEL.MODEL_NAME": Refusal(
        f"this model is not supported; {_NO_CONTRASTIVE}",
        on=("ContrastiveModel",),
        instead=("MViT", "ResNet", "SlowFast", "X3D"),
    ),
    "MODEL.LOSS_FUNC": Refusal(
        "only classification and masked pre-training (multi_mse) are supported",
        on=("mse", "contrastive_loss"),
        instead=tuple(name for name in get_args(Loss) if name != "multi_mse"),
    ),
    "MODEL.FREEZE_LAYERS": Refusal("TRAIN.FREEZE has taken its place", off=("0",)),
    "MASK.DEC_KV_KERNEL": Refusal(_NO_POOLED_DECODER, off=("[]", "()")),
    "MASK.DEC_KV_STRIDE": Refusal(_NO_POOLED_DECODER, off=("[]", "()")),
    "DATA.SSL_MOCOV2_AUG": _switch(_NO_CONTRASTIVE),
    "DATA.TIME_DIFF_PROB": Refusal(_NO_CONTRASTIVE, off=("0",)),
    "DATA.TRAIN_CROP_NUM_SPATIAL": Refusal("several crops per clip are not supported in training", off=("1",)),
    "DATA.TRAIN_JITTER_MOTION_SHIFT": _switch("crops that move within a clip are not supported"),
    "DATA.LOADER_CHUNK_SIZE": Refusal("list files are read completely", off=("0",)),
    "DATA.IN22K_TRAINVAL": _switch("ImageNet-21K is not supported"),
    "DATA.DUMMY_LOAD": _switch("dummy input is not supported; datasets/demo renders small videos"),
    "AVA.TRAIN_USE_COLOR_AUGMENTATION": _switch("color augmentation of AVA is not supported"),
    "AVA.TEST_FORCE_FLIP": _switch("testing on mirrored clips is not supported"),
    "MULTIGRID.SHORT_CYCLE": _switch(_NO_MULTIGRID),
    "MULTIGRID.LONG_CYCLE": _switch(_NO_MULTIGRID),
    "SOLVER.LARS_ON": _switch("LARS is not supported, SOLVER.OPTIMIZING_METHOD names other optimizers"),
    "AUG.RE_SPLIT": _switch("erasing in only a part of the batch is not supported"),
}


IMPLIED: dict[tuple[str, str], tuple[str, str]] = {
    ("MODEL.ARCH", "slowfast"): ("MODEL.MODEL_NAME", "SlowFast"),
}
"""A key and its value -> a key that SlowFast's files then leave out, because its default there is this value."""


def ignored_reason(key: str) -> str | None:
    """Why a key has no effect; None if the table does not list it."""
    if key in IGNORED:
        return IGNORED[key]
    section = key
    while section:
        if f"{section}.*" in IGNORED:
            return IGNORED[f"{section}.*"]
        section = section.rpartition(".")[0]
    return None
