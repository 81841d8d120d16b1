"""Ratios of times that were taken in the same rounds: their median, and how sure it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def ratio(times: npt.ArrayLike, bare_times: npt.ArrayLike) -> dict[str, float]:
    """The median of the rounds' ratios, and the interval that holds 95 % of resampled medians.

    Args:
        times: of each round, shape (n,).
        bare_times: what they are measured by, in the same rounds, shape (n,).
    """
    ratios: np.ndarray[Any, Any] = np.asarray(times) / np.asarray(bare_times)
    drawn = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return {"median": round(float(np.median(ratios)), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def ratio_text(of: dict[str, float], digits: int = 2) -> str:
    """A ratio as in "1.03 (0.98 to 1.10)"."""
    return f"{of['median']:.{digits}f} ({of['low']:.{digits}f} to {of['high']:.{digits}f})"
