"""Who peers are, and what protects the bytes between them."""
