"""What a trained model does: statistics of its attention, likeness of its maps, and where it samples."""
