"""Heads that classify boxes instead of whole clips."""
