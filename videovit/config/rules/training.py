"""Rules about training: learning rate, moving average, teacher; and the search of plans."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from videovit.config.rules.broken import Broken, Change
from videovit.config.rules.tasks import tests
from videovit.config.schema import Config
from videovit.messages import problem


def average(cfg: Config) -> Iterator[Broken]:
    """A moving average that is tested exists."""
    if cfg.TRAIN.ENABLE and cfg.TEST.USE_EMA and not cfg.TRAIN.EMA_DECAY:
        keys = ("TEST.USE_EMA", "TRAIN.EMA_DECAY")
        what = "there is no moving average, because TRAIN.EMA_DECAY is 0"
        yield Broken(keys, what, ({keys[1]: 0.999}, {keys[0]: False}))


def validation(cfg: Config) -> Iterator[Broken]:
    """Keys that compare validations need validation to be enabled."""
    train, best, period = cfg.TRAIN, "TRAIN.BEST", "TRAIN.EVAL_PERIOD"
    if not train.ENABLE or (train.EVAL_PERIOD and train.BEST):
        return
    if not train.EVAL_PERIOD and train.BEST not in ("", "auto"):
        what = f"{train.BEST} compares validations, but {period} is 0: there are none"
        yield Broken((best, period), what, ({best: "auto"}, {period: 1}))
    tested = tests(cfg) and not cfg.TEST.CHECKPOINT_FILE_PATH
    keys = (period,) if train.BEST else (best, period) if not train.EVAL_PERIOD else (best,)
    needed = {best: train.BEST or "auto", period: train.EVAL_PERIOD or 1}
    missing = "there is no best checkpoint, because " + " and ".join(
        f"{key} is {'empty' if key == best else 0}" for key in keys
    )
    mend: Change = {key: needed[key] for key in keys}
    if train.EARLY_STOP_EPOCHS:
        yield Broken(("TRAIN.EARLY_STOP_EPOCHS", *keys), missing, ({"TRAIN.EARLY_STOP_EPOCHS": 0}, mend))
    if tested and cfg.TEST.CHECKPOINT == "best":
        yield Broken(("TEST.CHECKPOINT", *keys), missing, ({"TEST.CHECKPOINT": "last"}, mend))


def learning_rate(cfg: Config) -> Iterator[Broken]:
    """A cosine schedule decreases, and every step of a step schedule has a factor."""
    solver = cfg.SOLVER
    if cfg.TRAIN.ENABLE and solver.LR_POLICY == "cosine" and solver.COSINE_END_LR > solver.BASE_LR:
        keys = ("SOLVER.COSINE_END_LR", "SOLVER.BASE_LR")
        what = f"{solver.COSINE_END_LR:g} is above {keys[1]} {solver.BASE_LR:g}, where the schedule starts"
        yield Broken(keys, what, ({keys[0]: 0.0},))
    if solver.LR_POLICY == "steps_with_relative_lrs":
        steps, factors, policy = "SOLVER.STEPS", "SOLVER.LRS", "SOLVER.LR_POLICY"
        epochs = list(solver.STEPS)
        if not _increasing(solver.STEPS):
            what = problem(found=epochs, expected="increasing epochs that begin with 0")
            yield Broken((steps, policy), what, ({steps: tuple(sorted({0.0, *epochs}))},))
        if _lacks_factors(cfg):
            what = problem(found=list(solver.LRS), expected=f"one factor for each of the steps {epochs}")
            yield Broken((factors, steps, policy), what, ({factors: tuple(0.1**i for i in range(len(epochs)))},))


def _lacks_factors(cfg: Config) -> bool:
    """Whether a step that training reaches has no factor. SlowFast's files list spare factors, and steps at the end."""
    return sum(step < cfg.SOLVER.MAX_EPOCH for step in cfg.SOLVER.STEPS) > len(cfg.SOLVER.LRS)


def _increasing(steps: tuple[float, ...]) -> bool:
    return bool(steps) and steps[0] == 0 and list(steps) == sorted(set(steps))


def warmup(cfg: Config) -> Iterator[Broken]:
    """Warm-up ends within the training, and does not start above the rate that it leads to."""
    solver, epochs, start = cfg.SOLVER, "SOLVER.WARMUP_EPOCHS", "SOLVER.WARMUP_START_LR"
    if not cfg.TRAIN.ENABLE or not solver.WARMUP_EPOCHS:
        return
    if solver.WARMUP_EPOCHS >= solver.MAX_EPOCH:
        what = f"warm-up takes {solver.WARMUP_EPOCHS:g} epochs and training {solver.MAX_EPOCH}, so the learning rate "
        what += "would never reach the schedule"
        yield Broken((epochs, "SOLVER.MAX_EPOCH"), what, ({epochs: solver.MAX_EPOCH / 10},))
    rate, name = solver.BASE_LR, "SOLVER.BASE_LR"
    if solver.LR_POLICY == "steps_with_relative_lrs":
        if not _increasing(solver.STEPS) or _lacks_factors(cfg):
            return
        step = min(bisect.bisect_right(solver.STEPS, solver.WARMUP_EPOCHS), len(solver.LRS)) - 1
        rate, name = rate * solver.LRS[step], "the rate after it"
    if rate < solver.WARMUP_START_LR:
        what = f"warm-up would start at {solver.WARMUP_START_LR:g}, above {name} {rate:g}"
        yield Broken((start, "SOLVER.BASE_LR", epochs), what, ({start: rate / 100}, {epochs: 0.0}))


def teacher(cfg: Config) -> Iterator[Broken]:
    """A teacher has files, and an objective that uses it."""
    kind, alone = cfg.DISTILL.TYPE, {"DISTILL.TYPE": "none"}
    if not cfg.TRAIN.ENABLE:
        return
    objective = ("TRAIN.OBJECTIVE", "DISTILL.TYPE")
    if kind == "none" and cfg.TRAIN.OBJECTIVE == "distillation":
        what = "distillation needs a teacher, but DISTILL.TYPE is none"
        yield Broken(objective, what, ({objective[0]: "auto"},))
    if kind == "none":
        return
    if cfg.TRAIN.OBJECTIVE == "classification":
        what = f"classification does not use the teacher of DISTILL.TYPE {kind}"
        yield Broken(objective, what, ({objective[0]: "auto"}, alone))
    for name in ("TEACHER_CFG", "CHECKPOINT_FILE_PATH"):
        is_known = name == "TEACHER_CFG" and cfg.DISTILL.CHECKPOINT_FILE_PATH.startswith("zoo:")
        if not getattr(cfg.DISTILL, name) and not is_known:
            what = f"is empty, but DISTILL.TYPE is {kind}: name a file of the teacher, or train without one"
            yield Broken((f"DISTILL.{name}", "DISTILL.TYPE"), what, (alone,))


def search(cfg: Config) -> Iterator[Broken]:
    """Crossover and mutation do not exceed the population."""
    search = cfg.SEARCH
    number = search.CROSSOVER + search.MUTATION
    if number > search.POPULATION:
        keys = ("SEARCH.CROSSOVER", "SEARCH.MUTATION", "SEARCH.POPULATION")
        what = f"{search.CROSSOVER} and SEARCH.MUTATION {search.MUTATION} exceed SEARCH.POPULATION {search.POPULATION}"
        yield Broken(keys, what, ({keys[2]: number},))
