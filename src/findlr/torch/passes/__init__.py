"""Several runs of a race in one pass."""
