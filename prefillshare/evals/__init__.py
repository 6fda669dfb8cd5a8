"""What trained decoders are worth."""
