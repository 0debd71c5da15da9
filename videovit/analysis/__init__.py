"""What a trained model does: statistics of its attention, similarity of its maps, and where it samples."""
