"""Tasks of a run, one per file: train, search, test, shuffle_eval, benchmark; and predict and export for tools."""
