"""videovit: video understanding with multiscale vision transformers."""

__version__ = "0.1.0"
