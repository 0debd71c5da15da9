"""Heads that answer for boxes instead of whole clips."""
