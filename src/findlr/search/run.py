"""One run of a race: a step at each rate, then its score."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from findlr.analysis.smoothing import Array
from findlr.analysis.text import rate_text, told
from findlr.search import interrupts
from findlr.search.failure import is_the_trainings
from findlr.search.trainable import CanEvaluate, ReadsLater, Trainable
from findlr.search.watching import RaceWatch, Seen

logger = logging.getLogger("findlr")

_LOOK_EVERY = 10  # steps between two looks at whether a run has diverged


@dataclass(frozen=True)
class End:
    """How a run ended.

    Args:
        first: its first loss.
        surely: what its first losses show for sure: their mean, less three standard errors; NaN with an evaluator.
        loss: the held-out loss or, without an evaluator, the mean of the last tenth; infinite if the run diverged.
    """

    first: float
    surely: float
    loss: float


def train(
    trainable: Trainable[Any, Any],
    evaluator: CanEvaluate | None,
    lrs: Array,
    rates_act: bool = False,
    watch: RaceWatch | None = None,
) -> End:
    """One run of a race: take a step at each rate, then score it.

    Args:
        trainable: the training.
        evaluator: scores it; None takes the mean of the last tenth of the losses.
        lrs: the rates.
        rates_act: whether an exception of the training's own, after a step, says that the rate is too high.
        watch: sees the steps; what it raises is not taken for the training's.

    Returns:
        The End; that of a run that diverged where its loss is not finite, or where it raised such an exception.
    """
    losses: list[Any] = []
    looks = _trained(trainable, evaluator, lrs, losses)
    first = math.nan  # is read by itself, so all processes of a training have it, or none
    while True:
        try:
            steps, end = next(looks)
        except Exception as error:
            if not (math.isfinite(first) and rates_act and is_the_trainings(error)):
                raise
            logger.info("the run at %s diverged: %s", rate_text(float(lrs.max())), told(error))
            at = min(len(losses), len(lrs) - 1)
            steps, end = [Seen(at, float(lrs[at]), math.inf)], _diverged(first)
        if steps and not math.isfinite(first):
            first = steps[0].loss
        if watch is not None and steps:
            watch.see(steps, None if end is None else end.loss)
        if end is not None:
            next(looks, None)  # to its end: a generator that Python closes would swallow a Ctrl-C
            return end


def _diverged(first: float) -> End:
    return End(first, -math.inf, math.inf)


def _trained(
    trainable: Trainable[Any, Any], evaluator: CanEvaluate | None, lrs: Array, losses: list[Any]
) -> Iterator[tuple[Sequence[Seen], End | None]]:
    """The steps that were read at each look, and at the last one the End; losses on a device wait for ten steps."""
    first = math.nan
    places: list[int] = []
    read_every = trainable.read_every if isinstance(trainable, ReadsLater) else 1
    seen = 0

    def read() -> list[Seen]:
        nonlocal seen
        start, seen = seen, len(losses)
        if start == seen:
            return []
        values = trainable.read(losses[start:])
        return [Seen(i, float(lrs[i]), value) for i, value in zip(places[start:], values, strict=True)]

    held: list[Seen] = []
    for place, lr in enumerate(lrs):
        if interrupts.waiting:
            interrupts.deliver()
        loss = trainable.step(float(lr))
        if loss is None:
            continue
        losses.append(loss)
        places.append(place)
        count = len(losses)
        decides = count == 1 or count % _LOOK_EVERY == 0  # each look waits for the device
        if not decides and count % read_every:
            continue
        held = read()
        first = held[-1].loss if count == 1 else first
        if decides and not math.isfinite(held[-1].loss):
            yield held, _diverged(first)
            return
        if place + 1 < len(lrs):
            yield held, None
            held = []
    if evaluator is not None:
        final, surely = evaluator.evaluate(), math.nan
    else:
        tenth = max(1, len(losses) // 10)
        early, late = np.array(trainable.read(losses[:tenth])), np.array(trainable.read(losses[-tenth:]))
        error = float(late.std(ddof=1)) * (2 / tenth) ** 0.5 if tenth > 1 else 0.0
        final, surely = float(late.mean()), float(early.mean()) - 3.0 * error
    yield [*held, *read()], End(first, surely, final) if math.isfinite(final) else _diverged(first)
