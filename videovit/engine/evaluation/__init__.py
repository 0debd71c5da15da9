"""Evaluation: inference, measures, reports per class."""
