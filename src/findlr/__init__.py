"""findlr finds a good learning rate and shows why it is good.

>>> from findlr import find_lr  # doctest: +SKIP
>>> finding = find_lr(model, optimizer, criterion, train_loader)  # doctest: +SKIP
>>> finding.lr  # doctest: +SKIP
0.12
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    RestoreError,
)

if TYPE_CHECKING:
    from findlr import rules
    from findlr.analysis.curve import Curve, Stop
    from findlr.analysis.plan import Plan
    from findlr.analysis.rules import Suggestion
    from findlr.analysis.verdict import Verdict
    from findlr.finding import Finding
    from findlr.search.find import find
    from findlr.torch import RangeTest, TorchTrainable, find_lr, rewindable
    from findlr.views.plot import compare

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
    "RestoreError",
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

# What has to be imported is imported when it is first asked for, each from its room: `findlr --help` needs no NumPy.
_LATER = {
    "Curve": "analysis.curve",
    "Finding": "finding",
    "Plan": "analysis.plan",
    "RangeTest": "torch",
    "Stop": "analysis.curve",
    "Suggestion": "analysis.rules",
    "TorchTrainable": "torch",
    "Verdict": "analysis.verdict",
    "compare": "views.plot",
    "find": "search.find",
    "find_lr": "torch",
    "rewindable": "torch",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "rules":
        return import_module("findlr.rules")
    if name not in _LATER:
        raise AttributeError(f"module 'findlr' has no attribute {name!r}")
    return getattr(import_module(f"findlr.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
