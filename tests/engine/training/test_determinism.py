"""Training on a GPU needs no operation that adds numbers in nondeterministic order; no GPU is needed to check that."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.project import CONFIGS
from videovit.config import load_config
from videovit.engine.objectives import build_loss
from videovit.engine.training.determinism import deterministic
from videovit.errors import UserError
from videovit.models import build_network
from videovit.models.contract import LayeredModel
from videovit.models.masked.model import MaskedModel
from videovit.models.mvit.model import MViT

CUDA = torch.device("cuda")
# Of those that `torch.use_deterministic_algorithms` refuses on CUDA, what a video model may come to use (max_pool3d in
# older versions only); and RoIAlign of torchvision, which then takes a way that needs much memory.
REFUSED = """
    _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward _roi_align_backward adaptive_max_pool2d_backward
    adaptive_max_pool3d_backward avg_pool3d_backward bincount grid_sampler_2d_backward grid_sampler_3d_backward histc
    kthvalue max_pool3d_with_indices_backward median nll_loss2d_forward put_ reflection_pad1d_backward
    reflection_pad2d_backward reflection_pad3d_backward scatter_reduce upsample_bicubic2d_backward
    upsample_bilinear2d_backward upsample_linear1d_backward upsample_trilinear3d_backward
""".split()
FILES = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.glob("*/*.yaml"))


CONVOLUTIONAL = ("ResNet", "SlowFast", "X3D", "ImageResNet")


class Operations(TorchDispatchMode):
    """The names of all operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def without_repetitions(model: LayeredModel) -> LayeredModel:
    """The model with the last one of equal blocks in a row, which needs the operations of all."""
    if isinstance(model, MViT):
        kept = [i for i, spec in enumerate(model.specs) if spec not in model.specs[i + 1 : i + 2]]
        model.blocks = nn.ModuleList(model.blocks[i] for i in kept)
        model.specs = tuple(model.specs[i] for i in kept)
    return model


def operations(config: str, opts: str = "") -> set[str]:
    """Of the forward and backward pass of a batch of two, on shapes."""
    cfg = load_config(CONFIGS / f"{config}.yaml" if config else None, opts.split())
    size, num_classes = cfg.DATA.TRAIN_CROP_SIZE, cfg.MODEL.NUM_CLASSES
    with torch.device("meta"):
        model = without_repetitions(build_network(cfg)).train()
    with torch.device("meta"), Operations() as seen, deterministic(cfg, model, CUDA):
        x = torch.zeros(2, 3, cfg.DATA.NUM_FRAMES, size, size)
        if isinstance(model, MaskedModel):
            hidden_BM = torch.zeros(2, 4, dtype=torch.long)
            model(x, hidden_BM).losses().sum().backward()
            return seen.names
        output = model(x, torch.zeros(3, 5) if cfg.DETECTION.ENABLE else None)
        logits: Tensor = sum(output) if isinstance(output, tuple) else output
        is_index = cfg.MODEL.LOSS_FUNC == "cross_entropy"
        targets = torch.zeros(len(logits), dtype=torch.long) if is_index else torch.zeros(len(logits), num_classes)
        build_loss(cfg.MODEL.LOSS_FUNC, label_smoothing=cfg.MODEL.LABEL_SMOOTHING)(logits, targets).backward()
    return seen.names


class Model(nn.Module):
    is_deterministic_on_gpu = True


@pytest.fixture(autouse=True)
def same_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "1")
    yield
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("config", FILES)
def test_models_need_no_refused_operation(config: str) -> None:
    cfg = load_config(CONFIGS / f"{config}.yaml")
    if cfg.MODEL.MODEL_NAME.startswith("ptv_"):
        pytest.skip("pytorchvideo's networks need refused operations; training warns of it")
    if cfg.DETECTOR.NAME:
        pytest.skip("detectors choose what they compute by the values of a batch, which shapes do not have")
    if cfg.MODEL.MODEL_NAME.startswith("hf_"):
        pytest.importorskip("transformers")
    names = operations(config)
    norm = "batch" if cfg.MODEL.MODEL_NAME in CONVOLUTIONAL else "layer"
    # A masked autoencoder embeds the visible patches alone, by a linear layer.
    stem = "addmm" if cfg.MASK.MAE_ON else "convolution_backward"
    assert {stem, f"native_{norm}_norm_backward"} <= names
    assert names.isdisjoint(REFUSED), sorted(names & set(REFUSED))


@pytest.mark.parametrize(
    ("config", "opts"),
    [
        ("AVA/MVITv2_S_16x4", "DATA.TRAIN_CROP_SIZE 312 DATA.TRAIN_JITTER_SCALES [356,446]"),
        ("Kinetics/MVIT_B_16x4_CONV", "DATA.NUM_FRAMES 9"),
    ],
)
def test_stretched_tables_need_no_refused_operation(config: str, opts: str) -> None:
    assert operations(config, opts).isdisjoint(REFUSED)


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_pooling_modes_need_no_refused_operation(mode: str) -> None:
    names = operations("Kinetics/MVIT_B_16x4_CONV", f"MVIT.MODE {mode}")
    assert f"{mode}_pool2d{'_with_indices' if mode == 'max' else ''}_backward" in names
    assert names.isdisjoint(REFUSED)


def test_refused_operations_are_detected() -> None:
    names = operations("ImageNet/PS_VIT_TI_14", "TRAIN.DETERMINISTIC False")
    assert names & set(REFUSED) == {"grid_sampler_2d_backward"}
    assert "avg_pool3d_backward" in operations("", "MODEL.MODEL_NAME ptv_slow_r50")


def test_deterministic_holds_on_gpus_within_the_block() -> None:
    cfg = load_config()
    with deterministic(cfg, Model(), torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(load_config(None, ["TRAIN.DETERMINISTIC", "False"]), Model(), CUDA):
        assert not torch.are_deterministic_algorithms_enabled()
    del os.environ["CUBLAS_WORKSPACE_CONFIG"]
    with deterministic(cfg, Model(), CUDA):
        assert (
            torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
        )
        assert not torch.utils.deterministic.fill_uninitialized_memory
        assert (os.environ["CUBLAS_WORKSPACE_CONFIG"], os.environ["NCCL_NVLS_ENABLE"]) == (":4096:8", "1")
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_operation_without_deterministic_version_names_the_key() -> None:
    with (
        pytest.raises(UserError, match="put_.*\nTRAIN.DETERMINISTIC False"),
        deterministic(load_config(), Model(), CUDA),
    ):
        torch.zeros(3).put_(torch.tensor([1, 1]), torch.ones(2))
    with pytest.raises(RuntimeError, match="shape"), deterministic(load_config(), Model(), CUDA):
        torch.zeros(3).view(2)


def test_model_without_deterministic_operations_warns(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(None, ["MODEL.MODEL_NAME", "ptv_x3d_m"])
    with torch.device("meta"):
        model = build_network(cfg)
    assert not model.is_deterministic_on_gpu
    with deterministic(cfg, model, CUDA):
        assert not torch.are_deterministic_algorithms_enabled()
    assert "ptv_x3d_m cannot be trained to the same bits twice" in caplog.text
