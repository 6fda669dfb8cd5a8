"""Who makes a KV cache and who reads it."""
