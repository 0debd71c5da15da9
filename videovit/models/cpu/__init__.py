"""Faster inference on CPUs, applied to a finished model from outside."""
