"""Checkpoints of a run: written in the background, found again, resumed from, tested."""
