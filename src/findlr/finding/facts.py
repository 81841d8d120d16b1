"""What a training says about itself, as plain values that a file keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEEPEST = 32  # lists and objects in each other
_PLAIN = {bool, int, float, str, type(None)}


def plain_facts(facts: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
    """Facts as they are read back: names, texts, numbers, lists and dicts; of anything else, what ``repr`` says.

    Example:
        >>> plain_facts({"betas": (0.9, 0.999), 1: {"device": object}})
        {'betas': [0.9, 0.999], '1': {'device': "<class 'object'>"}}
    """
    plain = {}
    for name, value in facts.items():  # without a call for each
        plain[str(name)] = value if type(value) in _PLAIN else plain_fact(value, depth)
    return plain


def plain_fact(value: Any, depth: int = 0) -> Any:
    """One of them."""
    if type(value) in _PLAIN:
        return value
    if depth == DEEPEST:  # or endless, where it holds itself
        return _said(value)
    if isinstance(value, Mapping):
        return plain_facts(value, depth + 1)
    if isinstance(value, (list, tuple)):
        is_plain = set(map(type, value)) <= _PLAIN  # there may be many
        return list(value) if is_plain else [plain_fact(item, depth + 1) for item in value]
    numbers = getattr(value, "tolist", None)  # of NumPy's or torch's
    return plain_fact(numbers(), depth + 1) if callable(numbers) else _said(value)


def _said(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - its own code fails, or it is too deep
        return f"<{type(value).__name__}>"
