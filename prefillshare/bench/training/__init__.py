"""Training speed and memory, beside another trainer."""
