"""Numbers as Python's, whoever made them."""

from __future__ import annotations

import math
from typing import Any


def plain(value: Any) -> Any:
    """A scalar of NumPy, or an array or tensor of one element, as Python's number; anything else as it is.

    Example:
        >>> import numpy as np
        >>> plain(np.int64(100)), plain(np.array([0.5])), plain("a")
        (100, 0.5, 'a')
    """
    item = getattr(value, "item", None)
    if not callable(item):
        return value
    try:
        return item()
    except (TypeError, ValueError, RuntimeError):  # more than one element, or no data
        return value


def real(value: Any) -> float | None:
    """``value`` as a float; None if it is no real number.

    Example:
        >>> real(2), real(True), real("2")
        (2.0, None, None)
    """
    number = value if type(value) in (int, float) else plain(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return None
    try:
        return float(number)
    except OverflowError:  # an int too large for a float
        return math.inf if number > 0 else -math.inf


def whole(value: Any) -> int | None:
    """``value`` as an int; None if it is no whole number.

    Example:
        >>> whole(100.0), whole(0.5), whole("a")
        (100, None, None)
    """
    number = real(value)
    if number is None or not math.isfinite(number) or number != math.floor(number):
        return None
    return int(plain(value))
