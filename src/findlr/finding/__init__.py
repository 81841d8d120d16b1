"""The result of a search: what every view shows."""

from findlr.finding.finding import Cost, Finding

__all__ = ["Cost", "Finding"]
