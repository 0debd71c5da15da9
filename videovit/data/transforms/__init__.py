"""From decoded frames to the tensor that a model takes."""
