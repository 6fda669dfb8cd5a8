"""How decoders are trained on a shared prefill cache."""
