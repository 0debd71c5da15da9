"""What a run reports: log lines, records, progress bars, TensorBoard."""
