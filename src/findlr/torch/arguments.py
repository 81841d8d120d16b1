"""A training's arguments, looked at before anything is done."""

from __future__ import annotations

from typing import Any

from findlr.errors import ConfigurationError


def check_counts(**counts: Any) -> None:
    """Refuse what is no whole number of at least 1, by its name."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigurationError(f"{name} must be a whole number of at least 1, got {count!r}")


def check_limits(**limits: Any) -> None:
    """Refuse a limit that is not above 0, by its name; None is none."""
    for name, limit in limits.items():
        if limit is not None and not limit > 0:
            raise ConfigurationError(f"{name} must be above 0, got {limit!r}; None clips none")
