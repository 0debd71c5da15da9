"""Networks as graphs that other programs run: captured, written, checked, and run by other engines."""
