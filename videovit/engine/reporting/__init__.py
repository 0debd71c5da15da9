"""What a run reports: log lines, JSON records, progress bars, TensorBoard."""
