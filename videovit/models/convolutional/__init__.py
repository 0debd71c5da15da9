"""Convolutional video networks: C2D, I3D, Slow, SlowFast, X3D, non-local networks."""
