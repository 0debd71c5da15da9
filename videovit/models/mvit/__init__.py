"""MViT and MViTv2: multiscale vision transformers for clips and images."""
