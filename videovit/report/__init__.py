"""One page about a run: read what the run left in its folder, and draw it."""
