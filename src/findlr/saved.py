"""The shape of a saved Finding: what a file must hold, and floats that JSON lacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from findlr.errors import FileFormatError

FORMAT = 1

_NOT_FINITE = ("nan", "inf", "-inf")
_NUMBERS = [float]
_MAYBE_NUMBERS = (_NUMBERS, None)
_SHAPE: dict[str, Any] = {
    "format": int,
    "suggestion": ({"lr": float, "rule": str, "why": str, "interval": _MAYBE_NUMBERS}, None),
    "verdict": str,
    "why": str,
    "stop": str,
    "curve": {
        "lr": _NUMBERS,
        "loss": _NUMBERS,
        "baseline": _MAYBE_NUMBERS,
        "validation": _MAYBE_NUMBERS,
        "diverged": bool,
        "num_steps": int,
        "smoothing": float,
    },
    "plan": {
        "schedule": (str, _NUMBERS),
        "total_steps": (int, None),
        "optimizer": str,
        "momentum": (float, None),
        "parameters": (int, None),
    },
    "cost": {"steps": float, "forwards": int, "backwards": int, "seconds": float},
    "facts": Mapping,
    "race": (
        {
            "runs": [{"lr": float, "steps": int, "loss": float}],
            "start": float,
            "best_lr": float,
            "bracketed": bool,
            "path": str,
        },
        None,
    ),
}
_FACTS: dict[str, Any] = {
    "ratios": _NUMBERS,
    "optimizer": {"name": str, "module": str, "arguments": Mapping, "groups": [Mapping]},
}


def strict(value: Any, wrap: Callable[[str], Any] = str) -> Any:
    """``value`` with NaN and infinity as the strings "nan", "inf" and "-inf", for JSON has none, each in ``wrap``."""
    if isinstance(value, float) and not math.isfinite(value):
        return wrap(repr(value))
    if isinstance(value, Mapping):
        return {key: strict(item, wrap) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item, wrap) for item in value]
    return value


def marked(text: str) -> dict[str, str]:
    """A float of the facts, where a text could be just that text."""
    return {"float": text}


def _unmarked(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {"float"} and value["float"] in _NOT_FINITE:
            return float(value["float"])
        return {key: _unmarked(item) for key, item in value.items()}
    return [_unmarked(item) for item in value] if isinstance(value, list) else value


def checked(data: Any) -> dict[str, Any]:
    """The data of a Finding with its numbers as floats again, after a look at every field.

    Raises:
        FileFormatError: it is no Finding, one of another format, or a field has the wrong kind of value.
    """
    if not isinstance(data, Mapping) or "format" not in data:
        raise FileFormatError("this is no Finding: it has no format number; use a file that finding.save() wrote")
    if data["format"] != FORMAT:
        raise FileFormatError(
            f"this Finding has format {data['format']!r}, this findlr reads {FORMAT}: use the one that wrote it"
        )
    result: dict[str, Any] = _fitted(data, _SHAPE, "")
    facts = _unmarked(result["facts"])
    known = {key: _fitted(facts[key], _FACTS[key], f"facts.{key}") for key in _FACTS.keys() & facts.keys()}
    return {**result, "facts": {**facts, **known}}


def _fitted(value: Any, shape: Any, where: str) -> Any:
    if isinstance(shape, tuple):
        chosen = next((each for each in shape if _is_a(value, each)), shape[0])
        return None if value is None and None in shape else _fitted(value, chosen, where)
    if not _is_a(value, shape):
        raise FileFormatError(f"this Finding is damaged: {where or 'it'} is {str(value)[:40]!r}; save it again")
    if isinstance(shape, dict):
        missing = shape.keys() - value.keys()
        if missing:
            raise FileFormatError(f"this Finding is damaged: {where or 'it'} lacks {min(missing)}; save it again")
        return {key: _fitted(value[key], part, f"{where}.{key}".lstrip(".")) for key, part in shape.items()}
    if isinstance(shape, list):
        return [_fitted(item, shape[0], where) for item in value]
    return float(value) if shape is float else value


def _is_a(value: Any, shape: Any) -> bool:
    if shape is None:
        return value is None
    if isinstance(shape, (dict, list)):
        return isinstance(value, Mapping if isinstance(shape, dict) else list)
    if shape is float:
        return value in _NOT_FINITE or (isinstance(value, (int, float)) and not isinstance(value, bool))
    return isinstance(value, shape) and (shape is bool or not isinstance(value, bool))
