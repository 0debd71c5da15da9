"""Forward passes over a data set, and what the scores are worth."""
