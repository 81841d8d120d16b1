"""Averages of a loss curve: arrays in, arrays out.

The article's average looks back, so it shows the bottom of a curve late. The centred ones look both ways: they do not
lag, but need the points that come after, so only a finished curve can have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from findlr.analysis.numbers import real
from findlr.errors import ConfigurationError

Array = np.ndarray[Any, np.dtype[np.float64]]

_NOTHING = 1e-300  # a share of the past below which a product would not be an ordinary float
_DIRECT = 10**7  # products, from which on a Fourier transform is faster than a sum
_ROWS = 2**15  # windows whose medians are taken at once, for little memory


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
        share = beta if type(beta) is float else real(beta)
        if share is None or not 0.0 <= share < 1.0:
            raise ConfigurationError(f"smoothing must be in [0, 1), got {beta!r}; the article uses 0.98")
        self.beta = share
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
    values = np.asarray(losses, dtype=np.float64)
    share = BiasCorrectedAverage(beta).beta
    finite = np.isfinite(values)
    end = len(values) if finite.all() else int(np.argmin(finite))
    result = (1.0 - share) * values
    part = result[:end]
    # Each pass doubles how many losses are in each value, which is O(n log n) and has no loop over the losses.
    span = 1
    while span < end and share**span > _NOTHING:
        part[span:] += share**span * part[:-span]
        span *= 2
    part /= 1.0 - share ** np.arange(1, end + 1)
    with np.errstate(invalid="ignore"):  # inf - inf
        result[end:] = np.cumsum(values[end:])  # no finite loss makes an average finite again
    return result


def median(values: Array) -> Array:
    """The median along the last axis, NaN where a value is: ``np.median``, which brings all of ``numpy.ma`` along.

    Args:
        values: shape (..., n), with n at least 1.

    Returns:
        The medians, shape (...).

    Example:
        >>> median(np.array([[3.0, 1.0, 2.0], [4.0, 4.0, 8.0]]))
        array([2., 4.])
    """
    last = values.shape[-1] - 1
    lower, upper = last // 2, (last + 1) // 2
    ordered = np.partition(values, (lower, upper, last), axis=-1)  # NaN comes last
    middle = np.mean(ordered[..., lower : upper + 1], axis=-1)
    return np.asarray(np.where(np.isnan(ordered[..., last]), np.nan, middle), dtype=np.float64)


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
    if width < 1 or width % 2 == 0:
        raise ConfigurationError(f"width must be an odd number of points, at least 1, got {width!r}")
    values, half = np.asarray(losses, dtype=np.float64), width // 2
    n = len(values)
    result = values.copy()  # which the first and the last point keep
    if n > 2 * half:
        windows = np.lib.stride_tricks.sliding_window_view(values, 2 * half + 1)
        for first in range(0, len(windows), _ROWS):
            part = windows[first : first + _ROWS]
            result[half + first : half + first + len(part)] = median(part)
    for i in {*range(1, min(half, n)), *range(max(n - half, 0), n - 1)}:
        reach = min(i, n - 1 - i, half)
        result[i] = median(values[i - reach : i + reach + 1])
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
    if len(values) * len(weights) <= _DIRECT or not np.isfinite(values).all():
        return _convolved(values, weights) / _convolved(np.ones_like(values), weights)
    inside = np.cumsum(weights)[reach:]  # the weights up to each offset from 0 on
    places = np.arange(len(values))
    after = inside[np.minimum(places[::-1], reach)]
    mass = after + after[::-1] - inside[-1]
    level = values.mean()  # a transform's rounding goes by the largest number in it
    return np.asarray(level + _transformed(values - level, weights) / mass, dtype=np.float64)


def _convolved(values: Array, weights: Array) -> Array:
    """The sum of ``weights`` times the values around each, which counts as 0 beyond the ends."""
    reach = len(weights) // 2
    return np.convolve(values, weights)[reach : reach + len(values)]


def _transformed(values: Array, weights: Array) -> Array:
    """``_convolved`` in O(n log n)."""
    reach = len(weights) // 2
    size = 1 << (len(values) + len(weights) - 2).bit_length()
    product = np.fft.rfft(values, size)
    product *= np.fft.rfft(weights, size)
    return np.fft.irfft(product, size)[reach : reach + len(values)]
