"""A schedule that is planned, read from a scheduler of PyTorch's, transformers' or timm's."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from findlr.analysis.length import epochs_in, steps_in
from findlr.analysis.numbers import whole
from findlr.analysis.plan import SAMPLES, Plan, Samples, Shape
from findlr.analysis.schedules import metric_driven
from findlr.analysis.text import told
from findlr.errors import ConfigurationError, LoaderError
from findlr.finding.schedulers import counts_epochs, follows_metric, is_scheduler, length_of, rates_at, unwrapped

logger = logging.getLogger("findlr")

_CONSTANT_FOR = 10_000  # steps: a scheduler whose rate has not moved by then is constant


def planned(schedule: Any, total_steps: Any, warmup: float | None, steps_per_epoch: Callable[[], int]) -> Plan:
    """The plan of a training whose data are known.

    Args:
        schedule: a name, a function of the progress, or a scheduler.
        total_steps: optimizer steps, or a text such as "5 epochs"; None if not known.
        warmup: of a schedule given by its name: a share of the training, or a whole number of steps.
        steps_per_epoch: tells the optimizer steps of one pass.

    Raises:
        ConfigurationError: what is given can't be a plan.
    """
    length = told_length(schedule, total_steps)
    return Plan(*read_schedule(schedule, steps_in(length, steps_per_epoch), epochs_in(length)), warmup=warmup)


def told_length(schedule: Any, total_steps: Any) -> Any:
    """The length of a training as it was given; else as a text, where the scheduler counts epochs, as timm's do."""
    if total_steps is not None or isinstance(schedule, str):
        return total_steps
    scheduler = unwrapped(schedule)
    in_epochs = is_scheduler(scheduler) and getattr(scheduler, "t_in_epochs", False)
    epochs = length_of(scheduler) if in_epochs else None
    return None if epochs is None else f"{epochs} epochs"


def warn_of_epochs(plan: Plan, total_steps: Any, steps_per_epoch: Callable[[], int]) -> None:
    """Warn where a scheduler that tells the length may count epochs: it ends before the first pass over the data does.

    Args:
        plan: as it was read.
        total_steps: the length as it was given; None is the scheduler's own.
        steps_per_epoch: tells the optimizer steps of one pass.
    """
    if total_steps is not None or not plan.scheduler or plan.total_steps is None:
        return
    try:
        epoch = steps_per_epoch()
    except ConfigurationError:  # nobody knows
        return
    if plan.total_steps < epoch:
        logger.warning(
            "this %s ends after %s steps, and one epoch has %s: if it is stepped once an epoch, give total_steps='%s "
            "epochs'; if it is stepped at each step, total_steps=%s says so",
            plan.scheduler,
            plan.total_steps,
            epoch,
            plan.total_steps,
            plan.total_steps,
        )


class LoopPlan:
    """The plan of a loop of the user's own: one whose length is given in epochs is known once its loader is.

    Raises:
        ConfigurationError: what is given can't be a plan.
    """

    def __init__(self, of: Callable[[Any], Plan], total_steps: Any) -> None:
        self._of, self._total_steps = of, total_steps
        self._in_epochs = epochs_in(total_steps) is not None
        self._length: int | None = None
        self._plan = None if self._in_epochs else of(total_steps)

    def seen(self, length: int | None) -> None:
        """A loader of that many batches is looped over; the first one counts."""
        if self._length is None:
            self._length = length
        if self._plan is None:
            self._plan = self._with(1)

    def need(self) -> None:
        """Refuse to begin where no loader has told how long an epoch is."""
        if self._plan is None:
            raise ConfigurationError(
                f"total_steps={self._total_steps!r} needs a loader whose length is known: loop over test(loader), or "
                "give the number of optimizer steps"
            )

    def over(self, batches: int, points: int) -> Plan:
        """The plan of a loop that has taken so many batches for so many points."""
        if self._plan is None:
            return self._of(None)
        batches_per_step = max(round(batches / points), 1) if points else 1
        plan = self._with(batches_per_step) if self._in_epochs and points else self._plan
        warn_of_epochs(plan, self._total_steps, lambda: self._epoch() // batches_per_step)
        if plan.epochs is not None or plan.total_steps is None or not self._length:
            return plan
        return replace(plan, epochs=plan.total_steps / max(self._length // batches_per_step, 1))

    def _with(self, batches_per_step: int) -> Plan:
        return self._of(steps_in(self._total_steps, lambda: self._epoch() // batches_per_step))

    def _epoch(self) -> int:
        if self._length is None:
            raise LoaderError("the loader has no length")
        return self._length


def read_schedule(
    schedule: Any, total_steps: Any, epochs: float | None = None, *, unit: int | None = None
) -> tuple[str | Shape, Any]:
    """A schedule as a ``Plan`` takes it, and the steps of the whole training.

    A scheduler's shape is read from a private copy, from the scheduler's start to its end; the scheduler and its
    optimizer stay as they are. One that is shorter than ``total_steps`` is stepped once an epoch, say, and its rates
    last for so many steps each; one that is longer is cut.

    Args:
        schedule: a name, a function of the progress, or a scheduler.
        total_steps: optimizer steps of the training; None is the scheduler's own number, if it has one.
        epochs: the same in epochs, where it was given so: a ``StepLR`` that fits into them counts them.
        unit: optimizer steps to each of the scheduler's, at least 1, where a framework steps it; None if not known.

    Returns:
        The name or function, and the steps or None.

    Raises:
        ConfigurationError: the scheduler follows a metric, has no end where ``total_steps`` is None, raises, or seems
            to be stepped once an epoch.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> shape, steps = read_schedule(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000), None)
        >>> round(shape(0.5), 2), steps
        (0.5, 1000)
    """
    scheduler = unwrapped(schedule)
    if not is_scheduler(scheduler):
        return schedule, total_steps
    name = type(scheduler).__name__
    if follows_metric(scheduler):
        raise ConfigurationError(metric_driven(name))
    own, given = length_of(scheduler), whole(total_steps)
    if total_steps is not None and (given is None or given < 1):
        return "constant", total_steps  # which a Plan refuses
    if given is not None and unit is not None:
        moves = math.ceil(given / unit)
        # Others go on beyond their length, as the framework lets them; a OneCycleLR raises there.
        own = min(moves, own or moves) if hasattr(scheduler, "total_steps") else moves
    if own is None and epochs is not None and counts_epochs(scheduler, epochs):
        own = math.ceil(epochs)
    if own is None and given is None:
        if _is_constant(scheduler):
            return "constant", total_steps
        raise ConfigurationError(f"this {name} does not say how long the training is: give total_steps, too")
    length = min(own or given or 1, given or own or 1)
    shares = _shares(scheduler, _places(length))
    odd = "is near 0 after a twentieth" if shares[len(shares) // 20 :].max() < 0.02 else ""
    odd = odd or ("still rises at the end" if len(shares) > 2 and shares[-1] > shares[:-1].max() else "")
    odd = "falls below 0 before the end" if shares.min() < 0 else odd
    if own is None and odd:
        raise ConfigurationError(
            f"this {name} {odd} of total_steps={length}, as one may that is stepped once an epoch: give a function of "
            "the progress, f(progress in 0..1) -> share of the peak"
        )
    timm_counts_epochs = getattr(scheduler, "t_in_epochs", False)
    steps = own if total_steps is None and not timm_counts_epochs else total_steps
    if given is not None and length < given:
        shares = stairs(shares, given, unit or given / length, length)
    return ("constant" if np.ptp(shares) == 0 else Samples(shares.tolist(), name)), steps


def stairs(shares: Any, total_steps: int, each: float, count: int | None = None) -> Any:
    """The shares of all steps of a training, at most ``SAMPLES`` of them, where each share lasts for so many steps.

    Args:
        shares: of the peak rate, shape (n,); the last one lasts to the end.
        total_steps: of the training.
        each: steps that a share lasts.
        count: how many shares there are, of which ``shares`` are read at even places; None is all of them.

    Example:
        >>> import numpy as np
        >>> stairs(np.array([1.0, 0.5]), 5, each=3).tolist()
        [1.0, 1.0, 1.0, 0.5, 0.5]
    """
    last = (count or len(shares)) - 1
    steps = np.linspace(0, total_steps - 1, min(total_steps, SAMPLES))
    places = np.minimum(np.floor(steps / each + 1e-9), last)
    return shares[(places * ((len(shares) - 1) / max(last, 1))).round().astype(int)]


def _places(length: int) -> list[int]:
    """The steps to read, at most ``SAMPLES``; at random between them, so that no cycle is met at one phase only."""
    if length <= SAMPLES:
        return list(range(length))
    edges = np.linspace(0, length - 1, SAMPLES)
    shift = np.random.default_rng(0).uniform(-0.5, 0.5, SAMPLES) * (edges[1] - edges[0])
    shift[[0, -1]] = 0.0
    return [int(place) for place in (edges + shift).round()]


def _is_constant(scheduler: Any) -> bool:
    try:
        return bool(np.ptp(_shares(scheduler, range(_CONSTANT_FOR))) == 0)
    except ConfigurationError:
        return False


def _shares(scheduler: Any, steps: Any) -> Any:
    """The rates of the group with the highest one, as shares of that."""
    try:
        rates = np.array(list(rates_at(scheduler, steps)))
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"this {type(scheduler).__name__} raised {told(error)} in its {steps[-1] + 1} steps: give the total_steps "
            "that it is made for, or its shape as schedule=, a name or a function of the progress"
        ) from error
    highest = rates.max(axis=0)
    if not (np.isfinite(highest).all() and highest.max() > 0):
        raise ConfigurationError(f"this {type(scheduler).__name__} never gives a rate above 0: it is no plan")
    group = int(highest.argmax())
    return rates[:, group] / highest[group]
