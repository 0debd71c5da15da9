"""Readers: annotation files in, samples out. One module per data set."""
