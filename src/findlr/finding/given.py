"""A Finding that is given to a view, a tracker or a scheduler."""

from __future__ import annotations

from typing import Any

from findlr.analysis.given import of_kind
from findlr.finding.finding import Finding


def the_finding(given: Any) -> Finding:
    """What is given, if it is a Finding.

    Raises:
        ConfigurationError: it is something else.
    """
    return of_kind(given, Finding, "finding", "give what find_lr returned, or Finding.load(path)")
