"""Whether one number of the user's own sets the rates of an optimizer, found out by making the optimizer twice."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from findlr.finding.peaks import kept_peaks, peaks
from findlr.finding.schedulers import follows_metric, unwrapped

logger = logging.getLogger("findlr")

_TRIED = 1e-3, 2e-3  # rates that any optimizer takes


def share_of(ratios: Sequence[float], made_at: Callable[[float], Iterable[float]]) -> float | None:
    """The number that gives each group its rate, as a share of the largest of these rates.

    Args:
        ratios: the rates that the groups are to have, on any scale.
        made_at: the rates that the groups are made with where that number is the given one.

    Returns:
        The share; None where the groups do not follow the number, or not all in these ratios, or can't be made again.

    Example:
        >>> share_of([1.0, 0.1], lambda number: [10 * number, number])
        0.1
        >>> share_of([1.0, 0.1], lambda number: [number, 1e-4]) is None
        True
    """
    try:
        one, two = (list(map(float, made_at(number))) for number in _TRIED)
    except Exception as error:  # noqa: BLE001 - the search has its optimizer, and goes without this one
        logger.info("the optimizer could not be made again, so nothing is known of what sets its rate: %r", error)
        return None
    if not (len(one) == len(two) == len(ratios)) or max(one, default=0.0) <= 0:
        return None
    largest, top = max(one), max(ratios)
    follows = all(math.isclose(again, 2 * rate) for rate, again in zip(one, two, strict=True))
    fits = all(math.isclose(rate / largest, ratio / top) for rate, ratio in zip(one, ratios, strict=True))
    return _TRIED[0] / largest if follows and fits else None


def facts_of(where: str, share: float) -> dict[str, Any]:
    """The facts of where a rate is written; the share only where it is not the largest rate itself."""
    return {"sets": where} if share == 1.0 else {"sets": where, "sets_share": share}


def made_rates(optimizer: torch.optim.Optimizer, *schedulers: Any, within: int | None = None) -> list[float]:
    """The highest rate that each group gets in a training that begins.

    Args:
        optimizer: as it is made.
        schedulers: those that drive it, which may have peaks of their own; one that follows a metric begins at its own.
        within: their steps in that training, where these are known.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> made_rates(optimizer)
        [0.1]
        >>> made_rates(optimizer, torch.optim.lr_scheduler.CyclicLR(optimizer, 0.01, 0.4))
        [0.4]
    """
    rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    for each in map(unwrapped, schedulers):
        if not follows_metric(each):
            rates = kept_peaks(each, within) or peaks(each, rates, within) or rates
    return rates
