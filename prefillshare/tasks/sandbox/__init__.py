"""Programs that nobody has read: `runner` starts them, `confined` is their cage."""
