"""All tensors of a step on a GPU are on the GPU. Only shapes and devices are computed, so no GPU is needed."""

import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.swa_utils import AveragedModel

from tests.helpers.project import CONFIGS
from tests.helpers.runs import exit_codes, renew_threads
from videovit.config import Config, load_config
from videovit.data.records import Batch
from videovit.data.transforms.pipeline import build_mixup, build_preparation
from videovit.engine.objectives import build_loss
from videovit.engine.tasks.shuffle_eval import reorder_frames
from videovit.engine.training.optim import build_optimizer, build_schedule, clip_gradients, set_lr
from videovit.models import build_model

CUDA = torch.device("cuda", 0)
# AdamP computes with the values of weights, and these have none.
OPTIONS = ["NUM_GPUS", "0", "SOLVER.OPTIMIZING_METHOD", "adamw"]
FILES = [
    "AVA/MVITv2_S_16x4",
    "Charades/MVIT_B_16x4_CONV",
    "Digits/PSVIT",
    "Digits/PSVIT_SUPERNET",
    "ImageNet/MVITv2_T",
    "ImageNet/PIT_TI_DISTILLED",
    "ImageNet/PS_VIT_TI_14",
    "Kinetics/MVIT_B_16x4_CONV",
    "Kinetics/MVITv2_S_16x4",
    "Kinetics/VIT_B_8x8",
]


@contextmanager
def on_gpu() -> Iterator[None]:
    """Tensors have shapes and devices but no content; operations across devices are errors."""
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
        warnings.simplefilter("ignore")  # cached weights look at the address of their sources
        yield


def exit_code(target: Callable[[], object]) -> int | None:
    """Exit code of a fork, since a process that has used such tensors cannot fork any more."""

    def main() -> None:
        renew_threads()
        target()

    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    return exit_codes([process], seconds=120)[0]


def check_fake_gpu() -> None:
    """Some versions of PyTorch need a driver for such tensors."""
    outside = torch.zeros(1)
    try:
        with on_gpu():
            outside.to(CUDA)
    except RuntimeError:
        sys.exit(1)


pytestmark = pytest.mark.skipif(exit_code(check_fake_gpu) != 0, reason="this PyTorch needs a driver for it")


def moved(model: nn.Module) -> nn.Module:
    """The model with parameters and buffers on the GPU; other tensors stay where they are."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                here = torch.empty(parameter.shape, device=CUDA)
                module._parameters[name] = nn.Parameter(here, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA)
    return model


def batch(cfg: Config) -> Batch:
    """A batch as from the loader."""
    side, detects = cfg.DATA.TRAIN_CROP_SIZE, cfg.DETECTION.ENABLE
    labels = torch.zeros(2, dtype=torch.long)
    if detects or cfg.MODEL.LOSS_FUNC in ("bce", "bce_logit"):
        labels = torch.zeros(2, cfg.MODEL.NUM_CLASSES)
    return Batch(
        frames_BTHWC=torch.zeros(2, cfg.DATA.NUM_FRAMES, side, side, 3, dtype=torch.uint8),
        labels=labels,
        videos_B=torch.arange(2),
        views_B=torch.zeros(2, dtype=torch.long),
        erase_seeds_B=torch.zeros(2, dtype=torch.long),
        failures=[],
        boxes_R5=torch.zeros(2, 5) if detects else None,
    )


def prepared(cfg: Config, whole: Batch, *, train: bool) -> tuple[Batch, Tensor]:
    moved_batch = whole.to(CUDA)
    x_BCTHW = build_preparation(cfg, train=train)(moved_batch.frames_BTHWC, moved_batch.erase_seeds_B)
    return moved_batch, x_BCTHW


def outputs(found: object) -> list[Tensor]:
    return list(found) if isinstance(found, tuple) else [found]  # type: ignore[list-item]


def train(name: str) -> None:
    """A training step without its backward pass, which needs a driver."""
    cfg = load_config(CONFIGS / f"{name}.yaml", OPTIONS)
    whole = batch(cfg)
    with torch.device("meta"):
        model, ema = build_model(cfg), build_model(cfg)
    with on_gpu():
        model = moved(model).train()
        here, x_BCTHW = prepared(cfg, whole, train=True)
        targets, mixup = here.labels, build_mixup(cfg)
        if mixup is not None:
            x_BCTHW, targets = mixup(x_BCTHW, targets, np.random.default_rng(0))
        loss = build_loss(cfg.MODEL.LOSS_FUNC, label_smoothing=cfg.MODEL.LABEL_SMOOTHING)
        for logits in outputs(model(x_BCTHW, here.boxes_R5)):
            assert loss(logits, targets).device == CUDA
        optimizer = build_optimizer(cfg, model)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        set_lr(optimizer, build_schedule(cfg)(0.5))
        assert clip_gradients(model, max_norm=1.0, max_value=None).device == CUDA
        optimizer.step()
        average = AveragedModel(moved(ema))
        average.update_parameters(model)
    for tensor in (*model.state_dict().values(), *average.module.state_dict().values()):
        assert tensor.device == CUDA


def infer(name: str) -> None:
    """Inference with reordered frames."""
    cfg = load_config(CONFIGS / f"{name}.yaml", OPTIONS)
    whole = batch(cfg)
    with torch.device("meta"):
        model = build_model(cfg)
    with on_gpu(), torch.no_grad():
        model = moved(model).eval()
        here, x_BCTHW = prepared(cfg, whole, train=False)
        x_BCTHW = reorder_frames("reversed", seed=0, num_crops=1)(x_BCTHW, here)
        for _ in range(2):  # the second call uses what the first one cached
            for logits in outputs(model(x_BCTHW, here.boxes_R5)):
                assert logits.device == CUDA


@pytest.mark.parametrize("work", [train, infer])
@pytest.mark.parametrize("name", FILES)
def test_all_tensors_are_on_the_gpu(name: str, work: Callable[[str], None]) -> None:
    assert exit_code(lambda: work(name)) == 0
