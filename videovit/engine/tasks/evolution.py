"""Evolution of PSViT plans under a cost limit, and random plans as its baseline.

A generation is a function of the seed, its number and the scores so far, so that an interrupted search continues with
the same plans as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from videovit.errors import UserError
from videovit.models.pooling_sharing.plan import (
    BASIC,
    IDENTITY,
    SHARING,
    Cost,
    PoolingSharingShape,
    draw_plan,
    fixed_cost,
    is_legal,
    layer_cost,
    legal_stages,
)

TRIES = 2000  # failed draws in a row, after which the space counts as exhausted


class Space:
    """All legal plans of a supernet within a cost limit.

    Args:
        shape: of the supernet.
        num_cells: cells of each stage.
        max_macs: multiply-adds per image; None for no limit.

    Raises:
        UserError: even the cheapest plan costs more.
    """

    def __init__(self, shape: PoolingSharingShape, num_cells: int, max_macs: float | None = None) -> None:
        self.num_stages, self.num_cells, self.max_macs = len(shape.dims), num_cells, max_macs
        self._fixed = fixed_cost(shape)
        self._layers = [{kind: layer_cost(shape, s, kind) for kind in (BASIC, SHARING)} for s in range(self.num_stages)]
        cheapest = self.cost(
            "|".join(
                min(legal_stages(num_cells), key=lambda row: len(row.replace(IDENTITY, "")))
                for _ in range(self.num_stages)
            )
        )
        if max_macs is not None and cheapest.macs > max_macs:
            raise UserError(f"SEARCH.MAX_GMACS {max_macs / 1e9:g}: one layer a stage needs {cheapest.macs / 1e9:g}")

    def cost(self, plan: str) -> Cost:
        """Parameters and multiply-adds of a plan (of cells or of layers), from the closed form."""
        total = self._fixed
        for stage, cells in enumerate(plan.split("|")):
            for kind, layer in self._layers[stage].items():
                number = cells.count(kind)
                total += Cost(number * layer.params, number * layer.macs)
        return total

    def holds(self, plan: str) -> bool:
        """Whether a plan is legal and within the limit."""
        if not all(is_legal(stage) for stage in plan.split("|")):
            return False
        return self.max_macs is None or self.cost(plan).macs <= self.max_macs


@dataclass(frozen=True)
class Evolution:
    """Rules for new generations.

    Attributes:
        population: plans per generation.
        parents: number of best plans so far that later generations descend from.
        crossover: plans per generation that take every cell from one of two parents.
        mutation: plans per generation that are a parent with some cells changed; the rest of `population` is random.
        mutation_prob: probability that a cell changes.
        seed: of all random numbers.

    Source: SPOS (arXiv 1904.00420), section 3.4; PSViT's own search is not described.
    """

    population: int = 50
    parents: int = 10
    crossover: int = 25
    mutation: int = 25
    mutation_prob: float = 0.1
    seed: int = 0

    def next_generation(self, space: Space, number: int, scores: Mapping[str, float]) -> list[str]:
        """New plans of a generation; fewer than `population` if no more can be found.

        Args:
            space: the legal plans.
            number: of the generation, from 0.
            scores: plan -> score, for all generations before.
        """
        rng = self._rng(number, 2)
        fresh: list[str] = []
        if number and scores:
            best = sorted(scores, key=lambda plan: (-scores[plan], plan))[: self.parents]
            self._extend(fresh, scores, space, self.crossover, lambda: crossed(*_two(best, rng), rng))
            mutants = len(fresh) + self.mutation
            self._extend(
                fresh, scores, space, mutants, lambda: mutated(best[rng.integers(len(best))], self.mutation_prob, rng)
            )
        self._extend(fresh, scores, space, self.population, lambda: draw_plan(rng, space.num_stages, space.num_cells))
        return fresh

    def random_plans(self, space: Space, number: int, known: Collection[str]) -> list[str]:
        """A generation of random plans, independent of all scores."""
        rng = self._rng(number, 3)
        fresh: list[str] = []
        self._extend(fresh, known, space, self.population, lambda: draw_plan(rng, space.num_stages, space.num_cells))
        return fresh

    def _rng(self, number: int, stream: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence((self.seed, number), spawn_key=(stream,)))

    @staticmethod
    def _extend(
        fresh: list[str], known: Collection[str], space: Space, length: int, propose: Callable[[], str]
    ) -> None:
        """Append proposals that are new and in the space, until there are `length` or `TRIES` in a row failed."""
        misses = 0
        while len(fresh) < length and misses < TRIES:
            plan = propose()
            if plan in known or plan in fresh or not space.holds(plan):
                misses += 1
            else:
                fresh.append(plan)
                misses = 0


def crossed(one: str, other: str, rng: np.random.Generator) -> str:
    """A plan that takes every cell from one of two plans; may be illegal."""
    return "".join(
        pair[side] for pair, side in zip(zip(one, other, strict=True), rng.integers(2, size=len(one)), strict=True)
    )


def mutated(plan: str, probability: float, rng: np.random.Generator) -> str:
    """The plan with each cell redrawn with some probability; may be illegal.

    Args:
        plan: stages separated by |.
        probability: of each cell, in [0, 1].
        rng: source of randomness.
    """
    kinds = BASIC + SHARING + IDENTITY
    changes = rng.random(len(plan)) < probability
    drawn = rng.integers(len(kinds), size=len(plan))
    return "".join(
        kinds[i] if change and cell != "|" else cell for cell, change, i in zip(plan, changes, drawn, strict=True)
    )


def _two(plans: list[str], rng: np.random.Generator) -> tuple[str, str]:
    first, second = rng.integers(len(plans), size=2)
    return plans[first], plans[second]
