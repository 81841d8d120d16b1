"""The result of a search: what every view shows."""

from findlr.finding.cost import Cost
from findlr.finding.finding import Finding

__all__ = ["Cost", "Finding"]
