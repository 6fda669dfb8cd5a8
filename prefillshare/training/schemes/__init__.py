"""Who computes which keys and values, and who reads them: one module a scheme."""
