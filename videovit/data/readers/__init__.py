"""One module per data set: its files in, samples out."""
