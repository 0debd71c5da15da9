"""PSViT (pooling and sharing): token pooling between stages, attention sharing inside them, and their supernet."""
