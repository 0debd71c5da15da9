"""The learning rate in steps."""

from __future__ import annotations

import pytest

from videovit.config import load_config
from videovit.engine.training.optim import build_schedule


def test_relative_steps() -> None:
    opts = "SOLVER.LR_POLICY steps_with_relative_lrs SOLVER.BASE_LR 2.0 SOLVER.STEPS [0,4,8] SOLVER.LRS [1,0.1,0.01]"
    schedule = build_schedule(load_config(None, opts.split()))
    assert [schedule(e) for e in (0, 3.9, 4, 7.9, 8, 20)] == pytest.approx([2.0, 2.0, 0.2, 0.2, 0.02, 0.02])


def test_spare_factors_and_late_steps_follow_slowfast() -> None:
    """SlowFast takes the factor before the first step, or the end of training, that lies ahead."""
    last = 10
    for steps, factors in (([0, 4, 8], [1, 0.1, 0.01, 0.001, 0.0001]), ([0, 4, 8, 10, 12], [1, 0.1, 0.01])):
        opts = f"SOLVER.LR_POLICY steps_with_relative_lrs SOLVER.BASE_LR 2.0 SOLVER.MAX_EPOCH {last}".split()
        schedule = build_schedule(load_config(None, [*opts, "SOLVER.STEPS", steps, "SOLVER.LRS", factors]))
        for epoch in (0, 3.9, 4, 7.5, 8, 9.9):
            ahead = next(i for i, step in enumerate([*steps, last]) if epoch < step)
            assert schedule(epoch) == pytest.approx(2.0 * factors[ahead - 1]), (steps, epoch)
        assert schedule(last) == pytest.approx(0.02)  # the end of a plotted curve
