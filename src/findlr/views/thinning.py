"""Fewer points of a long line, for a picture of it: none of its peaks is lost."""

from __future__ import annotations

from typing import Any

import numpy as np


def extremes(values: np.ndarray[Any, np.dtype[np.float64]], stretches: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Where a line is lowest and highest in each of equal stretches, and its ends.

    Args:
        values: heights in order, shape (n,); what is not finite is neither low nor high.
        stretches: how many, at least 1: as many as the picture is wide.

    Returns:
        Indices, rising, at most 2 stretches + 2; all n where there are no more.

    Example:
        >>> extremes(np.array([0.0, 1.0, 9.0, 1.0, 0.0, 1.0, 2.0, 3.0]), 2).tolist()
        [0, 2, 4, 7]

    Source: M4 aggregation, Jugel et al. 2014 (doi:10.14778/2732951.2732953), with the stretches' own ends left out.
    """
    n = len(values)
    if n <= 2 * stretches + 2:
        return np.arange(n)
    width = -(-n // stretches)
    padded = np.full(width * stretches, np.nan)
    padded[:n] = values
    rows = padded.reshape(stretches, width)
    there, first = np.isfinite(rows), np.arange(stretches) * width
    lowest = first + np.where(there, rows, np.inf).argmin(axis=1)
    highest = first + np.where(there, rows, -np.inf).argmax(axis=1)
    kept = np.unique(np.concatenate([[0, n - 1], lowest, highest]))
    return kept[kept < n]
