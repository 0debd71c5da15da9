"""Faster inference, applied to a finished model from outside: `optimize_for_inference`."""

from videovit.models.cpu.optimize import optimize_for_inference

__all__ = ["optimize_for_inference"]
