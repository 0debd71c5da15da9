"""Masked pre-training: models that predict what is hidden from them, and what they predict."""
