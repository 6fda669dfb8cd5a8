"""From one model's cache to one that another model can read."""
