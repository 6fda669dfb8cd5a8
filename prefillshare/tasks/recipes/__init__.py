"""Tasks from public data sets: where rows come from, what they mean, how to score."""
