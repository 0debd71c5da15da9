"""Tasks of a run, one per file: train, search, test, shuffle_eval, benchmark; and predict and export for commands.

`TASKS` in `engine/launch.py` lists those of a run in their order.
"""
