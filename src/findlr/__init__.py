"""findlr finds a good learning rate and shows why it is good.

>>> from findlr import find_lr  # doctest: +SKIP
>>> finding = find_lr(model, optimizer, criterion, train_loader)  # doctest: +SKIP
>>> finding.lr  # doctest: +SKIP
0.12
"""

import typing as _typing  # under a name that no editor completes

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
    RankError,
    RestoreError,
)

if _typing.TYPE_CHECKING:
    from findlr import errors, rules, testing, torch, trackers  # noqa: F401 - for editors and type checkers
    from findlr.analysis.curve import Curve, Stop
    from findlr.analysis.plan import Plan
    from findlr.analysis.rules import Suggestion
    from findlr.analysis.verdict import Verdict
    from findlr.finding import Finding
    from findlr.search.find import find
    from findlr.torch import RangeTest, TorchTrainable, find_lr, rewindable
    from findlr.views.plot import compare

__version__ = "0.2.0"

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
    "RankError",
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

# What has to be imported is imported when it is first asked for, each from its folder: `findlr --help` needs no NumPy.
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
_MODULES = ("errors", "rules", "testing", "torch", "trackers")
# Each needs its framework, so no editor completes them; but what a page shows works after ``import findlr``, too.
_ROOMS = ("accelerate", "fastai", "huggingface", "ignite", "jax", "keras", "lightning", "ray", "skorch")


def __getattr__(name: str) -> _typing.Any:
    from importlib import import_module

    if name in _MODULES or name in _ROOMS:
        return import_module(f"findlr.{name}")
    if name not in _LATER:
        raise AttributeError(f"module 'findlr' has no attribute {name!r}")
    return getattr(import_module(f"findlr.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    own = (name for name in globals() if name.startswith("__") and name.endswith("__"))
    return sorted({*__all__, *_MODULES, *own})
