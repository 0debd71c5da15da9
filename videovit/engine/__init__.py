"""Training, evaluation, frame shuffling and prediction; single process or distributed."""
