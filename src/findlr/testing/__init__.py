"""For tests: a Trainable that needs no framework, and the suite that proves one of your own right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from findlr.testing.quadratic import Quadratic

if TYPE_CHECKING:
    from findlr.testing.conformance import TrainableConformance

__all__ = ["Quadratic", "TrainableConformance"]


def __getattr__(name: str) -> Any:
    """The suite needs pytest, so it is imported when it is asked for."""
    if name != "TrainableConformance":
        raise AttributeError(f"module 'findlr.testing' has no attribute {name!r}")
    from findlr.testing.conformance import TrainableConformance

    return TrainableConformance
