"""From decoded frames to the input tensor of a model."""
