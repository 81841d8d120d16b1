"""A rate in the type of numbers that an optimizer keeps it in."""

from __future__ import annotations

import math

from findlr.errors import OptimizerError

_AS_CLOSE = 0.01  # relative; bfloat16 rounds by 0.004 at most


def rounded(lr: float, kept: float, kind: str, limits: tuple[float, float], wider: str) -> float:
    """The rate that acts when a type of numbers makes another one of it; no higher one than the type can hold.

    Args:
        lr: the rate that is asked for.
        kept: what the type makes of it.
        kind: the type's name, such as "float16".
        limits: the smallest number above 0 that the type holds in full, and its largest.
        wider: what to write for a type that holds smaller ones.

    Raises:
        OptimizerError: the rate is too small for the type.
    """
    if math.isinf(kept):
        return limits[1]
    if abs(kept - lr) <= _AS_CLOSE * abs(lr):
        return kept
    raise OptimizerError(
        f"the learning rate is kept in {kind}, whose smallest number above 0 is {limits[0]:.2g}, and {lr:.2g} would be "
        f"{kept:.2g} in it: give min_lr={limits[0]:.2g} or more, or {wider}"
    )
