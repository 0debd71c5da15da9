"""Which tasks a config enables."""

from __future__ import annotations

from videovit.config.schema import Config


def tests(cfg: Config) -> bool:
    """Whether any task scores the videos of the test list."""
    return cfg.TEST.ENABLE or cfg.SHUFFLE_EVAL.ENABLE or cfg.USE_OF_TIME.ENABLE or cfg.ROBUSTNESS.ENABLE
