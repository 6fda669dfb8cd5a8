"""A slow, long or stalling link between two programs on one host."""
