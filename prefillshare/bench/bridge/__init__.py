"""Bridges between models: what their decoders recover of own prefill."""
