"""What a KV cache is: identity, layout, tensors, blocks, prefix index."""
