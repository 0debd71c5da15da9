"""Writing, finding and loading weights and training state."""
