"""The search task: which plan of a trained PSViT supernet is the best one under a cost limit.

Plans are judged by top-1 on the validation list with the weights they share. Results stand in OUTPUT_DIR:
`search.json` (all plans; a search that was cut off goes on from it), `search.csv`, and `searched.yaml`, the config that
trains the best plan from scratch.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from videovit.config import Config, dump_config
from videovit.data.build import build_loader
from videovit.data.records import Batch
from videovit.data.transforms.pipeline import build_preparation
from videovit.engine import distributed
from videovit.engine.checkpoints.weights import build_on, load_for_test, test_dtype
from videovit.engine.reporting.log import format_table, logger
from videovit.engine.run import Run
from videovit.engine.tasks.evolution import Evolution, SearchError, Space
from videovit.engine.tasks.test import clips_at_once
from videovit.engine.training.step import Inference, Pass, evaluate, stoppable
from videovit.models.pooling_sharing.supernet import PSViTSupernet

METHODS = ("evolution", "random")
EQUAL_COST = 0.05  # plans whose multiply-adds differ by less are compared with the best one


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A plan that was tried: where it comes from, what it costs, and its top-1 in percent."""

    method: str
    generation: int
    plan: str
    params: int
    macs: int
    top1: float


class HitSink:
    """Top-1 over videos, each counted once."""

    def __init__(self) -> None:
        self._hits: dict[int, bool] = {}

    def update(self, batch: Batch, logits_BK: Tensor) -> None:
        hits = (logits_BK.argmax(dim=1) == batch.labels).tolist()
        self._hits.update(zip(batch.videos_B.tolist(), hits, strict=True))

    def result(self) -> float:
        """Percent, over the videos of all ranks."""
        hits: dict[int, bool] = {}
        for part in distributed.gather(self._hits):
            hits.update(part)
        return 100.0 * sum(hits.values()) / max(1, len(hits))


def search(cfg: Config, run: Run) -> dict[str, float]:
    """Evolve plans, try as many random ones, and write down the best.

    Returns:
        top1 in percent and gmacs of the best plan of either method, and the mean top1 of the random plans.

    Raises:
        SearchError: the model is not a supernet, no plan is cheap enough, or the folder holds another search.
        Preempted: a scheduler's signal; whole generations are written down, and the next run goes on.
    """
    model = build_on(cfg, run.device)
    if not isinstance(model, PSViTSupernet):
        raise SearchError(f"SEARCH.ENABLE needs MODEL.MODEL_NAME PSViTSupernet, found {cfg.MODEL.MODEL_NAME}")
    checkpoint = load_for_test(cfg, model)
    options = cfg.SEARCH
    space = Space(model.shape, model.num_cells, options.MAX_GMACS * 1e9 if options.MAX_GMACS else None)
    evolution = Evolution(
        population=options.POPULATION,
        parents=options.PARENTS,
        crossover=options.CROSSOVER,
        mutation=options.MUTATION,
        mutation_prob=options.MUTATION_PROB,
        seed=cfg.RNG_SEED,
    )
    path = Path(cfg.OUTPUT_DIR) / "search.json"
    key = _key(cfg, checkpoint)
    tried = _read(path, key)
    scores = _scorer(cfg, run, model)
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
                logger.info("%s: all plans within the limit are tried", method)
                break
            tops = scores(f"{method} {number + 1}/{options.GENERATIONS}", plans)
            costs = [space.cost(plan) for plan in plans]
            tried += [
                Candidate(method, number, plan, cost.params, cost.macs, top)
                for plan, cost, top in zip(plans, costs, tops, strict=True)
            ]
            if run.rank == 0:
                _write(path, key, tried)
            best = max(tops)
            values = {"method": method, "generation": number + 1, "plans": len(plans), "top1": best}
            run.log.stats("search_generation", {**values, "mean_top1": sum(tops) / len(tops)}, step=number + 1)
    return _report(cfg, run, tried)


def _scorer(cfg: Config, run: Run, model: PSViTSupernet) -> Callable[[str, Sequence[str]], list[float]]:
    """(name, plans) -> top-1 of each; every video is decoded once for all plans of a generation."""
    loader = build_loader(cfg, "val", rank=run.rank, world_size=run.world_size)
    parts = Inference(
        model=model,
        prepare=build_preparation(cfg, train=False),
        device=run.device,
        dtype=test_dtype(cfg),
        clips_per_step=clips_at_once(cfg, run, cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS // run.world_size),
        skip_unreadable=cfg.TEST.SKIP_UNREADABLE,
    )

    def along(plan: str) -> Callable[[Tensor, Batch], Tensor]:
        def change(x_BCTHW: Tensor, batch: Batch) -> Tensor:
            model.set_plan(plan)
            return x_BCTHW

        return change

    def scores(name: str, plans: Sequence[str]) -> list[float]:
        sinks = [HitSink() for _ in plans]
        passes = [Pass(sink, along(plan)) for sink, plan in zip(sinks, plans, strict=True)]
        progress = run.progress(name, len(loader), log_period=cfg.LOG_PERIOD)
        evaluate(parts, stoppable(loader, len(loader)), passes, progress)
        return [sink.result() for sink in sinks]

    return scores


def _key(cfg: Config, checkpoint: str) -> dict[str, Any]:
    """What must agree for a search to go on."""
    options = {k: v for k, v in dataclasses.asdict(cfg.SEARCH).items() if k not in ("ENABLE", "GENERATIONS")}
    return json.loads(json.dumps({"checkpoint": checkpoint, "seed": cfg.RNG_SEED, **options}))  # type: ignore[no-any-return]


def _read(path: Path, key: dict[str, Any]) -> list[Candidate]:
    """The plans that an earlier, equal search of the folder has tried; the same on every rank."""
    found: dict[str, Any] | None = None
    if distributed.rank() == 0 and path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SearchError(f"{path}: not a search: {error}; remove it to start again") from error
    found = distributed.gather(found)[0]
    if found is None:
        return []
    if not isinstance(found, dict) or found.get("search") != key:
        raise SearchError(
            f"{path} holds another search (weights, seed or options differ); remove it or change OUTPUT_DIR"
        )
    candidates = [Candidate(**row) for row in found["candidates"]]
    logger.info("going on with the search of %s: %d plans are tried already", path, len(candidates))
    return candidates


def _write(path: Path, key: dict[str, Any], tried: Sequence[Candidate]) -> None:
    rows = [dataclasses.asdict(candidate) for candidate in tried]
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps({"search": key, "candidates": rows}, indent=1), encoding="utf-8")
    os.replace(partial, path)
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[field.name for field in dataclasses.fields(Candidate)])
        writer.writeheader()
        writer.writerows(rows)


def _report(cfg: Config, run: Run, tried: Sequence[Candidate]) -> dict[str, float]:
    if not tried:
        raise SearchError(f"SEARCH.MAX_GMACS {cfg.SEARCH.MAX_GMACS}: no plan within it was drawn; raise it")
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
        path.write_text(dump_config(searched_config(cfg, best.plan)), encoding="utf-8")
        logger.info("best plan: %s; to train it from scratch: --cfg %s", best.plan.replace("-", ""), path)
    return result


def searched_config(cfg: Config, plan: str) -> Config:
    """The config that trains a plan from scratch, in a folder of its own."""
    return dataclasses.replace(
        cfg,
        OUTPUT_DIR=str(Path(cfg.OUTPUT_DIR) / "searched"),
        MODEL=dataclasses.replace(cfg.MODEL, MODEL_NAME="PSViT"),
        PSVIT=dataclasses.replace(cfg.PSVIT, PLAN=plan.replace("-", "")),
        SEARCH=dataclasses.replace(cfg.SEARCH, ENABLE=False),
        TRAIN=dataclasses.replace(cfg.TRAIN, ENABLE=True, CHECKPOINT_FILE_PATH=""),
        TEST=dataclasses.replace(cfg.TEST, ENABLE=True, CHECKPOINT_FILE_PATH=""),
    )
