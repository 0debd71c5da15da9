"""The search for a plan: limits, generations as a function of seed and scores, and whole runs that are continued."""

import csv
import json
import os
import signal
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.runs import exit_codes, start_ranks
from videovit.config import ConfigError, load_config
from videovit.engine.distributed import preemption
from videovit.engine.distributed.preemption import Preempted
from videovit.engine.launch import run
from videovit.engine.tasks import search
from videovit.engine.tasks.evolution import Evolution, Space, crossed, mutated
from videovit.errors import UserError
from videovit.models.pooling_sharing.plan import PoolingSharingShape, draw_plan, legal_stages, plan_cost

SHAPE = PoolingSharingShape((16, 32), (2, 4), image_size=16, patch_size=4, num_classes=2)
LIMIT = 3.8e5
ALL = ["|".join(rows) for rows in product(legal_stages(3), repeat=2)]

CONFIG = """
TRAIN: {DATASET: imagenet, BATCH_SIZE: 4, EVAL_PERIOD: 1, CHECKPOINT_PERIOD: 1}
TEST: {ENABLE: False, DATASET: imagenet, NUM_ENSEMBLE_VIEWS: 1, NUM_SPATIAL_CROPS: 1}
DATA: {NUM_FRAMES: 1, TRAIN_CROP_SIZE: 16, TEST_CROP_SIZE: 16, INPUT_CHANNEL_NUM: [3]}
PSVIT: {PLAN: B|BS, DIMS: [16, 32], HEADS: [2, 4], PATCH_SIZE: 4, DROPPATH_RATE: 0.0}
SUPERNET: {NUM_CELLS: 3}
SEARCH: {ENABLE: True, GENERATIONS: 2, POPULATION: 4, PARENTS: 2, CROSSOVER: 1, MUTATION: 1, MAX_GMACS: 0.00038}
MODEL: {MODEL_NAME: PSViTSupernet, NUM_CLASSES: 2, DROPOUT_RATE: 0.0}
SOLVER: {OPTIMIZING_METHOD: adamw, BASE_LR: 0.001, MAX_EPOCH: 1}
DATA_LOADER: {NUM_WORKERS: 0, PIN_MEMORY: False}
NUM_GPUS: 0
"""


def test_the_space_is_what_the_closed_form_allows():
    limit = LIMIT
    space = Space(SHAPE, 3, limit)
    allowed = {plan for plan in ALL if plan_cost(SHAPE, plan).macs <= limit}
    assert 0 < len(allowed) < len(ALL) == 13**2
    assert {plan for plan in ALL if space.holds(plan)} == allowed
    assert all(space.cost(plan) == plan_cost(SHAPE, plan) for plan in ALL)
    assert not space.holds("S--|B--") and not space.holds("---|B--")
    with pytest.raises(UserError, match="one layer a stage needs"):
        Space(SHAPE, 3, 1e3)


def evolve(space, score, generations):
    evolution, scores = Evolution(population=12, parents=4, crossover=5, mutation=5, seed=1), {}
    for number in range(generations):
        fresh = evolution.next_generation(space, number, scores)
        assert not set(fresh) & set(scores) and len(set(fresh)) == len(fresh) and all(map(space.holds, fresh))
        assert evolution.next_generation(space, number, scores) == fresh
        scores |= {plan: score(plan) for plan in fresh}
    return scores


def sharing_layers(plan):
    return plan.count("S") - plan.count("B")


def test_generations_get_better_and_never_repeat():
    values = list(evolve(Space(SHAPE, 6), sharing_layers, 6).values())
    assert len(values) == 72
    assert np.mean(values[36:]) > np.mean(values[:12]) + 2
    rng = np.random.default_rng(0)
    drawn = [sharing_layers(draw_plan(rng, 2, 6)) for _ in range(72)]
    assert max(values) > max(drawn)


def test_a_small_space_is_exhausted():
    scores = evolve(Space(SHAPE, 3, LIMIT), len, 12)
    assert set(scores) == {plan for plan in ALL if Space(SHAPE, 3, LIMIT).holds(plan)}


def test_random_plans_ignore_scores():
    evolution, space = Evolution(population=5, seed=3), Space(SHAPE, 3)
    first = evolution.random_plans(space, 0, ())
    assert first == evolution.random_plans(space, 0, ("X",))
    second = evolution.random_plans(space, 0, first)
    assert len(second) == 5 and not set(first) & set(second)


def test_children_are_made_of_their_parents():
    rng = np.random.default_rng(0)
    child = crossed("BBBB|BBBB", "B---|B---", rng)
    assert child[4] == "|" and set(child) == {"B", "-", "|"} and child not in ("BBBB|BBBB", "B---|B---")
    assert mutated("BSB-|B---", 0.0, rng) == "BSB-|B---"
    changed = [mutated("B" * 50 + "|" + "B" * 50, 0.3, rng) for _ in range(30)]
    share = np.mean([sum(c != "B" for c in plan.replace("|", "")) for plan in changed]) / 100
    assert all(plan[50] == "|" for plan in changed) and abs(share - 0.2) < 0.03  # a third of 0.3 draws B again


def test_more_children_than_plans_are_refused():
    with pytest.raises(ConfigError, match="SEARCH.POPULATION"):
        load_config(opts=["SEARCH.POPULATION", "10"])


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 6)):
        for i in range(number):
            path = folder / split / f"class{i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 80, (20, 20, 3)) + 150 * (i % 2)
            Image.fromarray(image.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    write_images(folder / "data")
    (folder / "config.yaml").write_text(CONFIG)
    paths = ["DATA.PATH_TO_DATA_DIR", folder / "data", "OUTPUT_DIR", folder / "run"]
    (folder / "run").mkdir()
    cfg = load_config(folder / "config.yaml", paths)
    return cfg, run(cfg)


def candidates(cfg):
    return json.loads((Path(cfg.OUTPUT_DIR) / "search.json").read_text())["candidates"]


def test_supernet_is_trained_and_searched(searched):
    cfg, results = searched
    rows = candidates(cfg)
    assert [(r["method"], r["generation"]) for r in rows] == [
        (method, number) for method in ("evolution", "random") for number in range(2) for _ in range(4)
    ]
    for row in rows:
        cost = plan_cost(replace(SHAPE, num_classes=2), row["plan"])
        assert (row["params"], row["macs"]) == (cost.params, cost.macs) and cost.macs <= LIMIT
        assert 0 <= row["top1"] <= 100
    with (Path(cfg.OUTPUT_DIR) / "search.csv").open() as file:
        assert [r["plan"] for r in csv.DictReader(file)] == [r["plan"] for r in rows]
    best = max(rows, key=lambda r: (r["top1"], -r["macs"]))
    assert results["search"]["top1"] == best["top1"] and results["search"]["random_plans"] == 4 * 2
    found = load_config(Path(cfg.OUTPUT_DIR) / "searched.yaml")
    assert found.MODEL.MODEL_NAME == "PSViT" and best["plan"].replace("-", "") == found.PSVIT.PLAN
    assert found.TRAIN.ENABLE and not found.SEARCH.ENABLE and found.OUTPUT_DIR != cfg.OUTPUT_DIR


def test_interrupted_search_continues_with_the_same_plans(searched):
    cfg, _ = searched
    path, rows = Path(cfg.OUTPUT_DIR) / "search.json", candidates(cfg)
    written = json.loads(path.read_text())
    path.write_text(json.dumps({**written, "candidates": rows[:4]}))
    alone = replace(cfg, TRAIN=replace(cfg.TRAIN, ENABLE=False))
    with preemption.install(), pytest.raises(Preempted):  # the signal of a scheduler
        os.kill(os.getpid(), signal.SIGUSR2)
        run(alone)
    assert candidates(cfg) == rows[:4]
    run(alone)
    assert candidates(cfg) == rows
    with pytest.raises(UserError, match="another search"):
        run(replace(alone, SEARCH=replace(cfg.SEARCH, PARENTS=1)))
    with pytest.raises(UserError, match="PSViTSupernet, found PSViT"):
        run(replace(alone, MODEL=replace(cfg.MODEL, MODEL_NAME="PSViT")))


def test_two_processes_train_and_search_alike(searched, tmp_path):
    cfg, _ = searched
    two = replace(cfg, OUTPUT_DIR=str(tmp_path))
    assert exit_codes(start_ranks(two, 2)) == [0, 0]
    ours, theirs = candidates(two), candidates(cfg)
    assert [r["plan"] for r in ours[:4]] == [r["plan"] for r in theirs[:4]]
    losses = [
        [
            json.loads(line)["loss"]
            for line in (Path(c.OUTPUT_DIR) / "stats.jsonl").read_text().splitlines()
            if '"val_epoch"' in line
        ]
        for c in (two, cfg)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


GOOD = {"plan": "B|B", "method": "random", "generation": 0, "macs": 5, "params": 6, "top1": 50.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not the record of a search"),
        ("[" * 100_000, "not the record of a search"),
        (b"\xff\xfe\0", "not the record of a search"),
        ("[]", "holds another search"),
        (json.dumps({"search": {}}), "record of a search is damaged"),
        (json.dumps({"search": {}, "candidates": 5}), "record of a search is damaged"),
        (json.dumps({"search": {}, "candidates": [{**GOOD, "more": 1}]}), "record of a search is damaged"),
        (json.dumps({"search": {}, "candidates": [{**GOOD, "top1": "50"}]}), "record of a search is damaged"),
        (json.dumps({"search": {}, "candidates": [{**GOOD, "plan": None}]}), "record of a search is damaged"),
        ("pipe", "not a regular file"),
    ],
)
def test_damaged_record_is_refused(tmp_path, content, message):
    path = tmp_path / "search.json"
    if content == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        search._read(path, {})


def test_record_is_read(tmp_path):
    path = tmp_path / "search.json"
    path.write_text(json.dumps({"search": {}, "candidates": [GOOD]}))
    assert search._read(path, {}) == [search.Candidate(**GOOD)] and search._read(tmp_path / "no.json", {}) == []
