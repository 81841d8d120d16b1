"""The command ``findlr``."""
