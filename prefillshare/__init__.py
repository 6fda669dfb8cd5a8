"""One frozen prefill module, many decode modules, one shared KV cache."""
