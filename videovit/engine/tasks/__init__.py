"""One module per task of a run: train, test, shuffle_eval, search, benchmark; predict and export."""
