"""The highest rates that a scheduler reaches: those that a suggestion stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from findlr.analysis.text import told
from findlr.errors import ConfigurationError, OptimizerError
from findlr.finding.schedulers import Rates, is_direct, length_of, rates_at

_KEEPING = {"OneCycleLR", "CyclicLR"}  # their peaks, apart from the base rates
_ASKED = sorted({*range(1000), *(int(1000 * 1.01**i) for i in range(695))})  # up to a million steps
_STEPPED = 10_000  # steps, where it must be stepped to each
_HIGHER = 1 + 1e-9  # more than rounding


def kept_peaks(scheduler: Any, within: int | None = None) -> Rates | None:
    """The peak of each group, where a scheduler keeps it: a OneCycleLR in the groups, a CyclicLR itself; else None.

    It is the highest that is reached: a ``gamma``, or a training of ``within`` steps, may keep it below ``max_lrs``.
    """
    kinds = {kind.__name__ for kind in type(scheduler).__mro__}
    if "OneCycleLR" in kinds and (within is None or within >= scheduler.total_steps):
        return [float(group["max_lr"]) for group in scheduler.optimizer.param_groups]
    return peaks(scheduler, list(map(float, scheduler.base_lrs)), within) if kinds & _KEEPING else None


def peaks(scheduler: Any, bases: Sequence[float], within: int | None = None) -> list[float] | None:
    """The highest rate that each group will get, had the scheduler been built with these base rates.

    Where the rates end higher than ever, only what lies before their lowest point counts: (1 - step / n)**2 grows again
    after its end.

    Args:
        scheduler: as ``rates_at`` takes it.
        bases: the base rate of each group.
        within: steps of the training, where they are known: it may end before a warmup does.

    Returns:
        A rate for each group; None if a group's rise without an end.
    """
    at_once = is_direct(scheduler)
    steps: Sequence[int] = _ASKED if at_once else range(length_of(scheduler) or _STEPPED)
    ends = within is not None and within <= steps[-1]
    if within is not None and ends:
        steps = [*(step for step in steps if step < within - 1), within - 1]
    found = _until_error(scheduler, steps, bases)
    highest = []
    for i in range(len(bases)):
        top = _top([each[i] for each in found], ends=ends)
        if top is None:
            return None
        highest.append(found[top][i])
        if at_once:
            near = range(steps[max(top - 1, 0)], steps[min(top + 1, len(found) - 1)] + 1)
            highest[i] = max(highest[i], *(each[i] for each in _until_error(scheduler, near, bases)))
    return highest


def _top(rates: Rates, *, ends: bool) -> int | None:
    """Where the highest rate is that counts; None if they only rise, and do not end there."""
    top = max(range(len(rates)), key=rates.__getitem__)
    if top < len(rates) - 1 or not top or rates[top] <= max(rates[:top]) * _HIGHER:
        return top
    low = min(range(len(rates)), key=lambda at: (rates[at], -at))
    before = max(range(low + 1), key=rates.__getitem__)
    return before if rates[before] > rates[low] else top if ends else None


def _until_error(scheduler: Any, steps: Sequence[int], bases: Sequence[float]) -> list[Rates]:
    """The rates up to where the scheduler ends: in an error, or in what is no rate."""
    found: list[Rates] = []
    try:
        for rates in rates_at(scheduler, steps, bases):
            if not all(map(math.isfinite, rates)):
                break
            found.append(rates)
    except ConfigurationError:
        raise
    except Exception as error:
        if not found:
            name = type(scheduler).__name__
            raise OptimizerError(
                f"the rates of this {name} can't be read from a copy of it, which has no parameters ({told(error)}): "
                f"call finding.apply(optimizer), and build it anew after it, {name}(optimizer, ...)"
            ) from error
    return found
