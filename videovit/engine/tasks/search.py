"""The search task: the best plan of a trained supernet under a cost limit.

Plans are compared by top-1 accuracy on the validation list, with the weights that they share. OUTPUT_DIR receives
`search.json` (all plans; an interrupted search continues from it), `search.csv`, and `searched.yaml`, the config that
trains the best plan from scratch.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from videovit.config import Config, dump_config
from videovit.data.files.annotation_files import open_list
from videovit.data.records import Batch
from videovit.engine import distributed
from videovit.engine.checkpoints.weights import build_seeded_model, load_weights_to_test, test_dtype
from videovit.engine.evaluation.inference import Pass, evaluate, stoppable
from videovit.engine.objectives import SUPERNETS
from videovit.engine.problem import Problem
from videovit.engine.reporting.json_lines import writing
from videovit.engine.reporting.log import format_table, logger
from videovit.engine.run_context import Run
from videovit.engine.tasks.evolution import Evolution, Space
from videovit.errors import UserError
from videovit.messages import plural
from videovit.models.convert.checksums import state_crc
from videovit.models.pooling_sharing.supernet import PSViTSupernet

METHODS = ("evolution", "random")
EQUAL_COST = 0.05  # relative difference in multiply-adds below which plans count as equally expensive


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A plan that was evaluated: its origin, its cost, and its top-1 accuracy in percent."""

    method: str
    generation: int
    plan: str
    params: int
    macs: int
    top1: float


class HitSink:
    """Top-1 accuracy over videos, each counted once."""

    def __init__(self) -> None:
        self._hits: dict[int, bool] = {}

    def update(self, batch: Batch, logits: Tensor) -> None:
        hits = (logits.argmax(dim=1) == batch.labels).tolist()
        self._hits.update(zip(batch.videos_B.tolist(), hits, strict=True))

    def result(self) -> float:
        """Percent, over the videos of all ranks; a collective call."""
        hits: dict[int, bool] = {}
        for part in distributed.gather(self._hits):
            hits.update(part)
        return 100.0 * sum(hits.values()) / max(1, len(hits))


def search(problem: Problem, run: Run) -> dict[str, float]:
    """Evolve plans, evaluate as many random ones, and write the best.

    Returns:
        top1 in percent and gmacs of the best plan of either method, and the mean top1 of the random plans.

    Raises:
        UserError: the model is not a supernet, no plan is cheap enough, or the folder holds another search.
        Preempted: a signal stopped the run. Complete generations are saved, and the next run continues.
    """
    cfg, options = problem.cfg, problem.cfg.SEARCH
    if cfg.MODEL.MODEL_NAME not in SUPERNETS:
        raise UserError(f"SEARCH.ENABLE needs MODEL.MODEL_NAME {' or '.join(SUPERNETS)}, found {cfg.MODEL.MODEL_NAME}")
    supernet = cast(PSViTSupernet, build_seeded_model(cfg, run.device))
    checkpoint, weights = load_weights_to_test(cfg, supernet), state_crc(supernet.state_dict())
    space = Space(supernet.shape, supernet.num_cells, options.MAX_GMACS * 1e9 if options.MAX_GMACS else None)
    evolution = Evolution(
        population=options.POPULATION,
        parents=options.PARENTS,
        crossover=options.CROSSOVER,
        mutation=options.MUTATION,
        mutation_prob=options.MUTATION_PROB,
        seed=cfg.RNG_SEED,
    )
    path = Path(cfg.OUTPUT_DIR) / "search.json"
    key = _key(cfg, checkpoint, weights)
    tried = _read(path, key)
    scores = _scorer(problem, run, supernet)
    for method in METHODS if options.RANDOM_BASELINE else METHODS[:1]:
        for number in range(options.GENERATIONS):
            if any(c.method == method and c.generation == number for c in tried):
                continue
            known = {c.plan: c.top1 for c in tried if c.method == method}
            plans = (
                evolution.next_generation(space, number, known)
                if method == "evolution"
                else evolution.random_plans(space, number, known)
            )
            if not plans:
                logger.info("%s: all plans within the limit have been tried", method)
                break
            accuracies = scores(f"{method} {number + 1}/{options.GENERATIONS}", plans)
            costs = [space.cost(plan) for plan in plans]
            tried += [
                Candidate(method, number, plan, cost.params, cost.macs, top1)
                for plan, cost, top1 in zip(plans, costs, accuracies, strict=True)
            ]
            if run.rank == 0:
                _write(path, key, tried)
            best, mean = max(accuracies), sum(accuracies) / len(accuracies)
            values = {"method": method, "generation": number + 1, "plans": len(plans), "top1": best, "mean_top1": mean}
            run.log.stats("search_generation", values, step=number + 1)
            logger.info(
                "%s %d/%d: %s, top-1 best %.2f, mean %.2f",
                *(method, number + 1, options.GENERATIONS, plural(len(plans), "plan"), best, mean),
            )
    return _report(cfg, run, tried)


def _scorer(problem: Problem, run: Run, supernet: PSViTSupernet) -> Callable[[str, Sequence[str]], list[float]]:
    """(name, plans) -> top-1 of each; videos are decoded once for all plans of a generation."""
    cfg, loader = problem.cfg, problem.val.loader(run)
    inference = problem.inference(supernet, run, batch_size=cfg.TRAIN.BATCH_SIZE, dtype=test_dtype(cfg))
    model = cast(PSViTSupernet, inference.model)  # a copy, with a plan of its own

    def along(plan: str) -> Callable[[Tensor, Batch], Tensor]:
        def change(x_BCTHW: Tensor, batch: Batch) -> Tensor:
            model.set_plan(plan)
            return x_BCTHW

        return change

    def scores(name: str, plans: Sequence[str]) -> list[float]:
        sinks = [HitSink() for _ in plans]
        passes = [Pass([sink], along(plan)) for sink, plan in zip(sinks, plans, strict=True)]
        progress = run.progress(name, len(loader), log_period=cfg.LOG_PERIOD)
        evaluate(inference, stoppable(loader, len(loader)), passes, progress)
        return [sink.result() for sink in sinks]

    return scores


def _key(cfg: Config, checkpoint: str, weights: str) -> dict[str, object]:
    """What must be equal for a search to be continued."""
    options = {k: v for k, v in dataclasses.asdict(cfg.SEARCH).items() if k not in ("ENABLE", "GENERATIONS")}
    # As it will be read again, which turns tuples into lists.
    source = {"checkpoint": checkpoint, "weights_crc32": weights, "seed": cfg.RNG_SEED}
    key: dict[str, object] = json.loads(json.dumps({**source, **options}))
    return key


def _read(path: Path, key: dict[str, object]) -> list[Candidate]:
    """Read the plans that the same search has evaluated in an earlier run; equal on every rank."""
    found: Any = None  # of a file that anything may have written
    if distributed.rank() == 0 and path.exists():
        try:
            with open_list(path) as file:  # not a pipe
                found = json.load(file)
        except (ValueError, RecursionError) as error:
            hint = "Remove the file to start again"
            raise UserError(f"not the record of a search: {error}", where=path, hint=hint) from error
    found = distributed.gather(found)[0]
    if found is None:
        return []
    if not isinstance(found, dict) or found.get("search") != key:
        raise UserError(
            "holds another search (weights, seed or options differ)",
            where=path,
            hint="Remove the file, or change OUTPUT_DIR",
        )
    try:
        candidates = [_candidate(**row) for row in found["candidates"]]
    except (KeyError, TypeError) as error:
        raise UserError(
            "the record of a search is damaged", where=path, hint="Remove the file to start again"
        ) from error
    logger.info("continuing the search in %s: %s evaluated so far", path, plural(len(candidates), "plan"))
    return candidates


def _candidate(**values: Any) -> Candidate:
    """A candidate as read from a file.

    Raises:
        TypeError: a name or a type is wrong.
    """
    candidate = Candidate(**values)
    for field in dataclasses.fields(candidate):
        if isinstance(values[field.name], str) != (field.type == "str") or not isinstance(
            values[field.name], str | int | float
        ):
            raise TypeError(field.name)
    return candidate


def _write(path: Path, key: dict[str, object], tried: Sequence[Candidate]) -> None:
    rows = [dataclasses.asdict(candidate) for candidate in tried]
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        partial.write_text(json.dumps({"search": key, "candidates": rows}, indent=1), encoding="utf-8")
        os.replace(partial, path)
    table = path.with_suffix(".csv")
    with writing(table), table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[field.name for field in dataclasses.fields(Candidate)])
        writer.writeheader()
        writer.writerows(rows)


def _report(cfg: Config, run: Run, tried: Sequence[Candidate]) -> dict[str, float]:
    if not tried:
        raise UserError(f"no plan within SEARCH.MAX_GMACS {cfg.SEARCH.MAX_GMACS} was drawn", hint="Raise the limit")
    best = max(tried, key=lambda c: (c.top1, -c.macs))
    drawn = [c for c in tried if c.method == "random"]
    equal = [c for c in drawn if abs(c.macs - best.macs) <= EQUAL_COST * best.macs]
    rows = []
    for method in METHODS:
        group = [c for c in tried if c.method == method]
        if group:
            top = max(group, key=lambda c: (c.top1, -c.macs))
            mean = sum(c.top1 for c in group) / len(group)
            rows.append([method, len(group), f"{top.top1:.2f}", f"{mean:.2f}", f"{top.macs / 1e9:.4f}", top.plan])
    logger.info("\n%s", format_table(["method", "plans", "best top-1", "mean", "GMACs of the best", "plan"], rows))
    result = {"top1": best.top1, "gmacs": best.macs / 1e9, "params": float(best.params)}
    for name, group in (("random", drawn), ("random_equal_cost", equal)):
        if group:
            result[f"{name}_plans"] = float(len(group))
            result[f"{name}_mean_top1"] = sum(c.top1 for c in group) / len(group)
    run.log.stats("search_final", {"plan": best.plan, **result})
    if run.rank == 0:
        path = Path(cfg.OUTPUT_DIR) / "searched.yaml"
        with writing(path):
            path.write_text(dump_config(searched_config(cfg, best.plan)), encoding="utf-8")
        logger.info("best plan: %s; to train it from scratch: --cfg %s", best.plan.replace("-", ""), path)
    return result


def searched_config(cfg: Config, plan: str) -> Config:
    """The config that trains a plan from scratch, in a subfolder."""
    return dataclasses.replace(
        cfg,
        OUTPUT_DIR=str(Path(cfg.OUTPUT_DIR) / "searched"),
        MODEL=dataclasses.replace(cfg.MODEL, MODEL_NAME="PSViT"),
        PSVIT=dataclasses.replace(cfg.PSVIT, PLAN=plan.replace("-", "")),
        SEARCH=dataclasses.replace(cfg.SEARCH, ENABLE=False),
        TRAIN=dataclasses.replace(cfg.TRAIN, ENABLE=True, CHECKPOINT_FILE_PATH=""),
        TEST=dataclasses.replace(cfg.TEST, ENABLE=True, CHECKPOINT_FILE_PATH=""),
    )
