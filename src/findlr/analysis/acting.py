"""Whether a rate has acted: what comes before that is the batches' doing, not the rate's."""

from __future__ import annotations

import numpy as np

from findlr.analysis.curve import Curve
from findlr.analysis.smoothing import Array, bias_corrected, centred_median, median

_FEWEST = 10  # losses from which a scatter can be told
_FEWEST_TO_MOVE = 3  # losses beside the same batches' at the start
_BETA, _SCATTERS = 0.9, 1.5  # without a baseline: the smoothing, and how many scatters are no chance
_OUTLIER = 4.0  # scatters: without a baseline, no loss counts as farther away,
_LATEST = 3  # but for the last ones, which may have begun to explode
_SHARE = 0.1  # of the batches' scatter: so far must the losses of the same batches have moved
_ALIKE = 1e-4  # of the loss: batches that scatter by less at the start say nothing of what is much
_MUCH = 0.05  # of the loss, then
_NORMAL = 1.4826  # a Gaussian's standard deviation, in median absolute deviations


def has_acted(curve: Curve) -> bool:
    """Whether the rates of a sweep have moved its loss beyond what batches differ by.

    With a baseline: if max_i |median of 5 of (loss - baseline)| > 0.1 * scatter of the baseline, the median absolute
    deviation. Without one: if the losses after the first 10, none but the last 3 counted as farther than 4 standard
    deviations of those from their mean, smoothed by a median of 3 and the article's average with beta = 0.9, leave it
    by more than 1.5 of them. Where that is less than 1e-4 of the loss: if the loss moves by 5 % of itself. Never on 10
    points or fewer.

    Example:
        >>> rates = [10.0 ** (i / 4 - 8) for i in range(30)]
        >>> has_acted(Curve(rates, [2.0, 2.1] * 15)), has_acted(Curve(rates, [2.0, 2.1] * 10 + [1.0] * 10))
        (False, True)

    Source: original.
    """
    points = curve.paired()
    if len(points) <= _FEWEST:
        return False
    if points.baseline is not None:
        return _has_moved(points.loss, points.baseline)
    first = points.loss[:_FEWEST]
    level, scatter = float(first.mean()), float(first.std())
    much, losses = _MUCH * abs(level), points.loss
    if _SCATTERS * scatter > _ALIKE * abs(level):
        much = _SCATTERS * scatter
        usual = np.clip(losses, level - _OUTLIER * scatter, level + _OUTLIER * scatter)  # a batch or two are no rate's
        losses = np.append(usual[:-_LATEST], losses[-_LATEST:])
    moved = np.abs(bias_corrected(centred_median(losses, 3), _BETA)[_FEWEST:] - level)
    return bool(moved.max() > much)


def _has_moved(losses: Array, baseline: Array) -> bool:
    """Whether the losses of the same batches have moved, beside how much batches differ."""
    level = float(median(baseline))
    scatter = _SHARE * _NORMAL * float(median(np.abs(baseline - level)))
    moved = np.abs(centred_median(losses - baseline, 5))
    return bool(moved.max() > (scatter if scatter > _ALIKE * abs(level) else _MUCH * abs(level)))


def batch_is_at_fault(curve: Curve) -> bool:
    """Whether the last loss is NaN or infinite through a batch, not through the rate.

    With a baseline it is if the same batch's loss under the starting weights is not finite, either, or if the losses
    of 3 batches or more had not moved before: then the gradient of the last of them may be NaN, and so the weights are.
    Without a baseline, if no rate had acted before.

    Example:
        >>> batch_is_at_fault(Curve([1e-8, 2e-8], [2.0, float("nan")], baseline=[2.0, float("nan")], diverged=True))
        True

    Source: original.
    """
    if not len(curve) or np.isfinite(curve.loss[-1]):
        return False
    if curve.baseline is None:
        return not has_acted(curve)
    points = curve.paired()
    return not np.isfinite(curve.baseline[-1]) or (
        len(points) >= _FEWEST_TO_MOVE and not _has_moved(points.loss, points.baseline)  # type: ignore[arg-type]
    )
