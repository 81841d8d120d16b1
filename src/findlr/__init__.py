"""findlr finds a good learning rate and shows why it is good.

>>> from findlr import find_lr  # doctest: +SKIP
>>> finding = find_lr(model, optimizer, criterion, train_loader)  # doctest: +SKIP
>>> finding.lr  # doctest: +SKIP
0.12
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from findlr import rules
from findlr.curve import Curve
from findlr.errors import (
    ConfigurationError,
    DataEndedError,
    FileFormatError,
    FindlrError,
    LoaderError,
    LossError,
    MissingExtraError,
    NoSuggestionError,
    OptimizerError,
)
from findlr.finder import find
from findlr.finding import Finding
from findlr.plan import Plan
from findlr.rules import Suggestion
from findlr.sweep import Stop
from findlr.verdict import Verdict

if TYPE_CHECKING:
    from findlr.plot import compare
    from findlr.torch import RangeTest, TorchTrainable, find_lr, rewindable

__version__ = "0.1.0"

__all__ = [
    "ConfigurationError",
    "Curve",
    "DataEndedError",
    "FileFormatError",
    "Finding",
    "FindlrError",
    "LoaderError",
    "LossError",
    "MissingExtraError",
    "NoSuggestionError",
    "OptimizerError",
    "Plan",
    "RangeTest",
    "Stop",
    "Suggestion",
    "TorchTrainable",
    "Verdict",
    "compare",
    "find",
    "find_lr",
    "rewindable",
    "rules",
]

_LATER = {
    "RangeTest": "torch",
    "TorchTrainable": "torch",
    "compare": "plot",
    "find_lr": "torch",
    "rewindable": "torch",
}  # each in its room


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'findlr' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"findlr.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
