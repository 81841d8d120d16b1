"""For tests: a Trainable that needs no framework, and the suites that prove one of your own right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from findlr.errors import MissingExtraError
from findlr.testing.quadratic import Quadratic

if TYPE_CHECKING:
    from findlr.testing.conformance import TrainableConformance
    from findlr.testing.training import TrainingConformance

__all__ = ["Quadratic", "TrainableConformance", "TrainingConformance"]
_LATER = {"TrainableConformance": "conformance", "TrainingConformance": "training"}


def __dir__() -> list[str]:
    return __all__  # what a notebook completes


def __getattr__(name: str) -> Any:
    """The suites need pytest, so they are imported when they are asked for."""
    from importlib import import_module

    if name not in _LATER:
        raise AttributeError(f"module 'findlr.testing' has no attribute {name!r}")
    try:
        import pytest  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.of("pytest", "testing") from error
    return getattr(import_module(f"findlr.testing.{_LATER[name]}"), name)
