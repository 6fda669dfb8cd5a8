"""Trained systems against each other: curves, seeds, non-inferiority."""
