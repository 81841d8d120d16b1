"""Averages of a loss curve: arrays in, arrays out.

The article's average looks back, so it shows the bottom of a curve late. The centred ones look both ways: they do not
lag, but need the points that come after, so only a finished curve can have them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from findlr.errors import ConfigurationError

Array = npt.NDArray[np.float64]


class BiasCorrectedAverage:
    r"""The article's running average of a loss, one value at a time.

    avg_i = beta avg_{i-1} + (1 - beta) loss_i,   smoothed_i = avg_i / (1 - beta^(i+1))

    Args:
        beta: share of the past in each value, in [0, 1); 0 smooths nothing.

    Raises:
        ConfigurationError: ``beta`` is not in [0, 1).

    Example:
        >>> average = BiasCorrectedAverage(beta=0.98)
        >>> average.update(2.5)
        2.5

    Source: Gugger 2018, "How Do You Find A Good Learning Rate"; the correction is Kingma and Ba's (arXiv:1412.6980).
    """

    def __init__(self, beta: float = 0.98) -> None:
        if not 0.0 <= beta < 1.0:
            raise ConfigurationError(f"smoothing must be in [0, 1), got {beta!r}; the article uses 0.98")
        self.beta = beta
        self._average = 0.0
        self._count = 0

    def update(self, loss: float) -> float:
        """Take the next loss; return the average of all so far."""
        self._count += 1
        self._average = self.beta * self._average + (1.0 - self.beta) * loss
        return self._average / (1.0 - self.beta**self._count)


def bias_corrected(losses: Sequence[float] | Array, beta: float = 0.98) -> Array:
    """The article's bias-corrected exponential average of a whole curve.

    Args:
        losses: raw losses, shape (n,).
        beta: share of the past in each value, in [0, 1).

    Returns:
        The smoothed losses, shape (n,); from the first NaN on, NaN.

    Raises:
        ConfigurationError: ``beta`` is not in [0, 1).

    Example:
        >>> bias_corrected([3.0, 3.0, 3.0])
        array([3., 3., 3.])

    Source: Gugger 2018.
    """
    average = BiasCorrectedAverage(beta)
    values = np.asarray(losses, dtype=np.float64)
    return np.fromiter(map(average.update, values.tolist()), dtype=np.float64, count=len(values))


def centred_median(losses: Sequence[float] | Array, width: int) -> Array:
    """The median of the ``width`` points around each point; the window shrinks evenly at the ends.

    Args:
        losses: raw losses, shape (n,).
        width: points in a window, odd, at least 1.

    Returns:
        The smoothed losses, shape (n,).

    Raises:
        ConfigurationError: ``width`` is even or below 1.

    Example:
        >>> centred_median([1.0, 1.0, 9.0, 1.0, 1.0], width=3)
        array([1., 1., 1., 1., 1.])

    Source: Tukey 1977, "Exploratory Data Analysis", chapter 7.
    """
    values = np.asarray(losses, dtype=np.float64)
    half = _half_width(width)
    n = len(values)
    result = np.empty(n)
    if n > 2 * half:
        windows = np.lib.stride_tricks.sliding_window_view(values, 2 * half + 1)
        result[half : n - half] = np.median(windows, axis=1)
    for i in {*range(min(half, n)), *range(max(n - half, 0), n)}:
        reach = min(i, n - 1 - i, half)
        result[i] = np.median(values[i - reach : i + reach + 1])
    return result


def centred_gaussian(losses: Sequence[float] | Array, sigma: float) -> Array:
    """An average with Gaussian weights around each point; the weights are renormalised at the ends.

    smoothed_i = sum_j w_{j-i} loss_j / sum_j w_{j-i},   w_k = exp(-k^2 / (2 sigma^2)),   |k| <= 4 sigma

    Args:
        losses: losses, shape (n,).
        sigma: width of the weights in points, above 0.

    Returns:
        The smoothed losses, shape (n,).

    Raises:
        ConfigurationError: ``sigma`` is not above 0.

    Example:
        >>> centred_gaussian([2.0, 2.0, 2.0], sigma=1.0)
        array([2., 2., 2.])

    Source: Nadaraya 1964 and Watson 1964 (kernel regression).
    """
    if not sigma > 0.0:
        raise ConfigurationError(f"sigma must be above 0 points, got {sigma!r}")
    values = np.asarray(losses, dtype=np.float64)
    reach = min(int(np.ceil(4.0 * sigma)), max(len(values) - 1, 0))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    middle = slice(reach, reach + len(values))
    total = np.convolve(values, weights)[middle]
    mass = np.convolve(np.ones_like(values), weights)[middle]
    return np.asarray(total / mass, dtype=np.float64)


def _half_width(width: int) -> int:
    if width < 1 or width % 2 == 0:
        raise ConfigurationError(f"width must be an odd number of points, at least 1, got {width!r}")
    return width // 2
