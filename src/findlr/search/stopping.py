"""The stop rule: it tells, loss by loss, whether a sweep has diverged."""

from __future__ import annotations

import math

from findlr.analysis.curve import Stop
from findlr.analysis.numbers import real
from findlr.analysis.smoothing import BiasCorrectedAverage
from findlr.errors import ConfigurationError

_FEWEST = 10  # losses from which a scatter can be told
_SEEN = 5  # losses without which not even a range can be
_RANGES = 2.0  # ranges of the usual losses that a rise must exceed, where those range wider than the threshold asks
_ABOVE = 1.25  # times the highest of the usual losses: higher is no noise
_ABRUPT = 10.0  # times the highest of the usual losses: two rare batches can be so high, and a rate seldom at once
_UNUSUAL = 0.5  # a rise of the losses under the starting weights, as a share of their level: more is no usual noise
_FLOAT32 = 2.0**23  # beside a loss so many times larger, float32 rounds another one away: no batches differ so much


class StopRule:
    """Tells, loss by loss, whether a sweep has diverged, whatever the loss's sign.

    While every raw loss is above 0: smoothed > threshold * best. From the first that is not:
    smoothed - best > (threshold - 1) * max(first smoothed - best, standard deviation of the raw losses up to the best).

    A rise that the batches make by themselves is none of the rate's, and does not count:

    - where their losses under the starting weights are known, if the smoothed average of those has risen since the best
      by more than half of its level, and smoothed - best is at most threshold times that rise;
    - where they are not, and the best is not yet under the mean of the first 10 losses by more than their standard
      deviation, if the losses are fewer than 5, or if one of the last two is no higher than usual: for losses above 0,
      (1 + threshold) / 2 * best or 1.25 times the highest that is usual, and else that highest. One of the last three,
      if the losses may be below 0, or both of the two are more than 10 times the highest that is usual;
    - the same where usual losses range over more than (threshold - 1) * best, or twice as much for losses of any sign,
      and the best is not yet under the lowest of the first 10, if one of the last three is at most their highest, or
      smoothed - best at most twice their range.

    Usual are the first 10 losses, and all before one that was at most the median of those: what has diverged stays up.

    Args:
        threshold: how many times the best smoothed loss is too much, above 1.
        beta: the smoothing, in [0, 1).

    Raises:
        ConfigurationError: ``threshold`` is not above 1, or ``beta`` not in [0, 1).

    Example:
        >>> rule = StopRule(threshold=4.0, beta=0.0)
        >>> [rule.update(loss) for loss in (2.0, 1.0, 1.0, 3.9)]
        [None, None, None, None]
        >>> rule.update(4.1)
        <Stop.DIVERGED: 'The smoothed loss rose past the divergence threshold.'>

    Source: Gugger 2018 for losses above 0; the rest is original. Where the best comes within the first 10 losses, the
    deviation is that of the first 10: that of one loss alone is 0, and any rise at all would pass it.
    """

    def __init__(self, threshold: float = 4.0, beta: float = 0.98) -> None:
        number = threshold if type(threshold) is float else real(threshold)
        if number is None or not 1.0 < number < math.inf:
            raise ConfigurationError(f"divergence_threshold must be above 1, got {threshold!r}; the article uses 4")
        self.threshold, self.beta = number, beta
        self.best = math.inf
        self.smoothed = math.nan
        self._average = BiasCorrectedAverage(beta)
        self._average_under_start = BiasCorrectedAverage(beta)
        self._under_start = self._under_start_at_best = math.nan
        self._best_at = 0
        self._first = math.nan
        self._all_positive = True
        self._count = 0
        self._mean = self._squares = 0.0  # Welford's running moments of the raw losses
        self._spread = 0.0
        self._lowest = math.inf  # of the first losses, this one not among them
        self._highest = self._since = -math.inf  # of the usual losses, and of those after them
        self._first_losses: list[float] = []
        self._level = self._scatter = self._median = math.nan  # of the first losses, once all of them are there
        self._last = (math.inf, math.inf)

    def update(self, loss: float, baseline: float | None = None) -> Stop | None:
        """Take the next raw loss.

        Args:
            loss: of the batch.
            baseline: the same batch's loss under the starting weights; None where it isn't measured.

        Returns:
            Why to stop here, or None.
        """
        if not math.isfinite(loss):
            return Stop.NOT_FINITE
        self._all_positive = self._all_positive and loss > 0
        self._count += 1
        delta = loss - self._mean
        self._mean += delta / self._count
        self._squares += delta * (loss - self._mean)
        self.smoothed = self._average.update(loss)
        if baseline is not None:  # where the starting weights give no number, the batch says nothing of its own
            self._under_start = self._average_under_start.update(baseline if math.isfinite(baseline) else loss)
        if self._count == 1:
            self._first = self.smoothed
        if self.smoothed < self.best or self._count <= _FEWEST:
            self._spread = math.sqrt(self._squares / self._count)
        if self.smoothed < self.best:
            self.best, self._best_at, self._under_start_at_best = self.smoothed, self._count, self._under_start
        if self._all_positive:
            diverged = self.smoothed > self.threshold * self.best
            scale = self.best
        else:
            scale = max(self._first - self.best, self._spread)
            diverged = self._count >= _FEWEST and self.smoothed - self.best > (self.threshold - 1.0) * scale
        if diverged:
            by_batches = self._by_scatter(loss, scale) if baseline is None else self._shown_by_start(scale)
            diverged = not by_batches
        if self._count <= _FEWEST:
            self._first_losses.append(loss)
            self._lowest, self._highest = min(self._lowest, loss), max(self._highest, loss)
            self._level, self._scatter = self._mean, self._spread
            self._median = sorted(self._first_losses)[_FEWEST // 2] if self._count == _FEWEST else math.nan
        else:
            self._since = max(self._since, loss)
            if loss <= self._median:  # nothing has diverged, so what was high before was a batch
                self._highest = max(self._highest, self._since)
        self._last = (self._last[1], loss)
        return Stop.DIVERGED if diverged else None

    def _shown_by_start(self, scale: float) -> bool:
        """Whether the same batches show the rise under the starting weights, too."""
        shown = self._under_start - self._under_start_at_best
        usual = _UNUSUAL * (abs(self._under_start_at_best) if self._all_positive else scale)
        return shown > usual and self.smoothed - self.best <= self.threshold * shown

    def _by_scatter(self, loss: float, scale: float) -> bool:
        """Whether batches that differ as those before do could have made the rise, before any rate has acted."""
        positive = self._all_positive
        if positive and self._count > 1 and loss > _FLOAT32 * max(self._highest, self._last[1]):
            return False
        if self._count < _SEEN:
            return True
        differ = self._highest - self._lowest
        wide = differ > (1.0 if positive else _RANGES) * (self.threshold - 1.0) * scale
        later = self._best_at > _FEWEST  # the best of the first losses may be one easy batch
        if later and (self.best < self._lowest if wide else self._level - self.best > self._scatter):
            return False  # the loss has fallen, so a rate has acted
        lowest = min(loss, self._last[1])  # one batch alone is no divergence
        if wide or not positive or lowest > _ABRUPT * self._highest:
            lowest = min(lowest, self._last[0])  # nor are two of a kind that is rare
        if wide:
            return lowest <= self._highest or self.smoothed - self.best <= _RANGES * differ
        usual = min(0.5 * (1.0 + self.threshold) * scale, _ABOVE * self._highest) if positive else self._highest
        return lowest <= usual
