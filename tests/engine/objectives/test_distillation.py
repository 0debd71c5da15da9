"""Distillation: losses against a direct formula, in a training step, and a teacher from a config and a checkpoint."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from videovit.config import ConfigError, load_config
from videovit.data.records import Batch
from videovit.data.transforms.mixup import Mixup
from videovit.engine.objectives import (
    Classification,
    Distillation,
    Example,
    PathSampling,
    Teacher,
    build_loss,
    build_objective,
)
from videovit.engine.objectives.distillation import build_teacher
from videovit.engine.training.step import Training, train_step
from videovit.errors import UserError
from videovit.models import build_model

LOSS = build_loss("soft_cross_entropy")
TEACHER = """
DATA: {NUM_FRAMES: 1, TRAIN_CROP_SIZE: 16, INPUT_CHANNEL_NUM: [3]}
PSVIT: {PLAN: BS, DIMS: [16], HEADS: [2], PATCH_SIZE: 8}
MODEL: {MODEL_NAME: PSViT, NUM_CLASSES: 4}
"""


class Seen(nn.Module):
    """Keeps its last input."""

    def __init__(self, logits_BK: Tensor) -> None:
        super().__init__()
        self.logits_BK = logits_BK

    def forward(self, x: Tensor) -> Tensor:
        self.x, self.had_grad = x, torch.is_grad_enabled()
        return self.logits_BK


class Pair(nn.Module):
    """A distilled model: two classifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(48, 4), nn.Linear(48, 4)

    def forward(self, x: Tensor, boxes_R5: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.first(x.flatten(1)), self.second(x.flatten(1))


def normal(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def log_probabilities(x: Tensor) -> Tensor:
    return x - x.exp().sum(-1, keepdim=True).log()


class Fixed(nn.Module):
    """Returns the same logits for every input."""

    def __init__(self, logits_BK: Tensor) -> None:
        super().__init__()
        self.logits_BK = logits_BK

    def forward(self, x: Tensor, boxes_R5: Tensor | None = None) -> Tensor:
        return self.logits_BK


def losses(teacher: Teacher, logits_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Total, of the labels, and of the teacher."""
    objective = Distillation(Classification(build_loss("cross_entropy")), teacher)
    found = objective(Fixed(logits_BK), Example(torch.zeros(6, 3, 1, 4, 4), torch.arange(6) % 4))
    return found.total, found.terms["labels"], found.terms["teacher"]


def test_hard_loss_is_that_of_the_paper() -> None:
    logits, theirs = normal(6, 4, seed=0), normal(6, 4, seed=1)
    cross_entropy = -log_probabilities(logits)[torch.arange(6), theirs.argmax(-1)].mean()
    total, labels, teacher = losses(Teacher(Seen(theirs), "hard"), logits)
    torch.testing.assert_close(labels, -log_probabilities(logits)[torch.arange(6), torch.arange(6) % 4].mean())
    torch.testing.assert_close(teacher, cross_entropy)
    torch.testing.assert_close(total, 0.5 * labels + 0.5 * cross_entropy)


def test_soft_loss_is_that_of_the_paper() -> None:
    logits, theirs = normal(6, 4, seed=0), normal(6, 4, seed=1)
    p, q = log_probabilities(theirs / 3), log_probabilities(logits / 3)
    divergence = (p.exp() * (p - q)).sum(-1).mean()
    total, labels, _ = losses(Teacher(Seen(theirs), "soft", alpha=0.1, tau=3.0), logits)
    torch.testing.assert_close(total, 0.9 * labels + 0.1 * 9 * divergence)
    same, _, _ = losses(Teacher(Seen(theirs), "soft", alpha=1.0, tau=2.0), theirs)
    torch.testing.assert_close(same, torch.tensor(0.0))


def batch() -> Batch:
    frames = torch.randint(0, 256, (6, 1, 4, 4, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    index = torch.arange(6)
    return Batch(frames, index % 4, index, index * 0, index, [])


def training(**changes: object) -> Training:
    torch.manual_seed(0)
    model = Pair()
    parts = Training(
        model=model,
        optimizer=torch.optim.SGD(model.parameters()),
        schedule=lambda epoch: 0.1,
        objective=Classification(LOSS),
        preparation=lambda frames, seeds: frames.permute(0, 4, 1, 2, 3).float() / 255,
        device=torch.device("cpu"),
    )
    return replace(parts, **changes)


def test_teacher_gets_mixed_clips_and_teaches_the_second_classifier() -> None:
    teacher = Seen(normal(6, 4, seed=3))
    mixup = Mixup(num_classes=4, mixup_alpha=0.8, cutmix_alpha=1.0)
    parts = training(objective=Distillation(Classification(LOSS, mixup), Teacher(teacher, "hard")))
    start = {name: p.detach().clone() for name, p in parts.model.named_parameters()}
    result = train_step(parts, batch(), epoch=0, step=0, num_steps=1)
    plain = batch().frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 255
    source = np.random.SeedSequence((0, 0, 0, 0))
    source.generate_state(1, np.uint64)
    mixed, targets = mixup(plain.clone(), batch().labels, np.random.default_rng(source))
    assert torch.equal(teacher.x, mixed) and not torch.equal(mixed, plain) and not teacher.had_grad
    parts.model.load_state_dict(start)
    first, second = parts.model(mixed)
    labels = nn.functional.cross_entropy(first, targets)
    taught = nn.functional.cross_entropy(second, teacher.logits_BK.argmax(-1))
    torch.testing.assert_close(result.loss, (labels + taught) / 2)
    torch.testing.assert_close(dict(result.terms), {"labels": labels, "teacher": taught})


def test_without_a_teacher_both_classifiers_learn_the_labels() -> None:
    parts = training()
    x = batch().frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 255
    losses = [nn.functional.cross_entropy(logits, batch().labels) for logits in parts.model(x)]
    result = train_step(parts, batch(), epoch=0, step=0, num_steps=1)
    torch.testing.assert_close(result.loss, sum(losses) / 2)


class Paths:
    """Records the paths that are drawn."""

    def __init__(self) -> None:
        self.drawn: list[tuple[int, int, int]] = []

    def draw_path(self, seed: int, epoch: int, step: int) -> None:
        self.drawn.append((seed, epoch, step))


def test_path_is_drawn_once_per_step_for_all_ranks() -> None:
    paths = Paths()
    parts = training(objective=PathSampling(Classification(LOSS), paths), seed=7, rank=2, accumulate=3)
    for step in (4, 5):
        train_step(parts, batch(), epoch=3, step=step, num_steps=9)
    assert paths.drawn == [(7, 3, 4), (7, 3, 5)]


def student(folder: Path, *opts: object):
    (folder / "teacher.yaml").write_text(TEACHER)
    (folder / "student.yaml").write_text("_BASE_: teacher.yaml\nPSVIT: {PLAN: B}\nDISTILL: {TYPE: soft, TAU: 2.0}\n")
    paths = ("DISTILL.TEACHER_CFG", folder / "teacher.yaml", "DISTILL.CHECKPOINT_FILE_PATH", folder / "teacher.pyth")
    return load_config(folder / "student.yaml", [*paths, *opts])


def test_teacher_from_config_and_checkpoint(tmp_path: Path) -> None:
    cfg = student(tmp_path)
    torch.manual_seed(5)
    model = build_model(load_config(tmp_path / "teacher.yaml")).eval()
    torch.save({"model_state": model.state_dict(), "epoch": 0}, tmp_path / "teacher.pyth")
    teacher = build_teacher(cfg, torch.device("cpu"))
    assert (teacher.kind, teacher.alpha, teacher.tau) == ("soft", 0.5, 2.0)
    x = normal(2, 3, 1, 16, 16, seed=0)
    torch.testing.assert_close(teacher.logits(x), model(x))
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())
    none = build_objective(replace(cfg, DISTILL=replace(cfg.DISTILL, TYPE="none")), model, torch.device("cpu"))
    assert type(none) is Classification
    assert type(build_objective(cfg, model, torch.device("cpu"))) is Distillation


def test_unsuitable_teacher_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MODEL.NUM_CLASSES is 4 in DISTILL.TEACHER_CFG"):
        build_teacher(student(tmp_path, "MODEL.NUM_CLASSES", 3), torch.device("cpu"))
    with pytest.raises(ConfigError, match="DISTILL.TEACHER_CFG"):
        student(tmp_path, "DISTILL.TEACHER_CFG", "")
