"""PSViT: token pooling between stages, attention sharing inside them, and the supernet of both."""
