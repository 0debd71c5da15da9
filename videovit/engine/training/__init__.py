"""Training: the trainer, one step of it, and their parts."""
