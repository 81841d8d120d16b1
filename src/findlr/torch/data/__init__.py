"""Batches: drawn, moved, copied, set aside, and made to come again."""
