"""Runs of every kind: training, tests, frame shuffling, search, benchmarks, prediction; on one process or many."""
