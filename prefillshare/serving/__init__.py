"""The daemon: router, prefill worker, decode workers."""
