"""What a Finding does to an optimizer: PyTorch's objects by their attributes, so that nothing is imported."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from findlr.analysis.numbers import real
from findlr.errors import ConfigurationError, OptimizerError
from findlr.finding.peaks import kept_peaks, peaks
from findlr.finding.schedulers import flattened, follows_metric, unwrapped

logger = logging.getLogger("findlr")


def optimizers_in(optimizer: Any) -> list[Any] | None:
    """An optimizer, or those of a list or dict; None where one has no groups to write into, or only copies of them."""
    given = list(optimizer.values()) if isinstance(optimizer, dict) else optimizer
    optimizers = list(given) if isinstance(given, (list, tuple)) else [given]
    return optimizers if optimizers and all(map(_is_writable, optimizers)) else None


def _is_writable(optimizer: Any) -> bool:
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, Sequence) or groups is not optimizer.param_groups:
        return False  # it is none; or a property, which makes them anew and gives copies, each time other ones
    return all(isinstance(group, Mapping) and "lr" in group for group in groups)


def write_rates(
    optimizers: Sequence[Any], lrs: Sequence[float], scheduler: Any = None, within: int | None = None
) -> None:
    """Write a rate per param group, as if the optimizer and its scheduler had been built for them.

    Args:
        optimizers: a PyTorch optimizer, or several.
        lrs: the rate of each group; the highest that a scheduler reaches.
        scheduler: a PyTorch scheduler on the one optimizer, or None.
        within: steps of the training, where they are known: what the scheduler reaches later does not count.

    Raises:
        OptimizerError: the groups differ in number, or the scheduler cannot be made to peak at ``lrs``; nothing is
            changed.
    """
    writer(optimizers, lrs, scheduler, within)()


def check_apply(optimizer: Any, scheduler: Any = None, within: int | None = None) -> None:
    """Refuse, before a callback searches, what it could write no rate into afterwards.

    Args:
        optimizer: a PyTorch optimizer.
        scheduler: a PyTorch scheduler on it, or None.
        within: as in ``write_rates``.

    Raises:
        ConfigurationError: it says what to do.
    """
    if optimizers_in(optimizer) is None:
        return  # a search says what is wrong
    rates = [real(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    numbers = [rate for rate in rates if rate is not None]
    if len(numbers) < len(rates) or not any(numbers):
        return  # as above
    try:
        try:
            writer([optimizer], [2 * rate for rate in numbers], scheduler, within)
        except ConfigurationError:  # a cap on the rates, say
            writer([optimizer], [rate / 2 for rate in numbers], scheduler, within)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"FindLR(apply=True) can't write its rate: {why_of(error)}. Leave apply out, and build the optimizer and "
            "its scheduler for the rate that is found; or take a scheduler whose rates are shares of the optimizer's, "
            "with eta_min=0 say"
        ) from None


def why_of(error: ConfigurationError) -> str:
    """Why a rate can't be written; what to do about it, after the colon, is for a call of ``apply``."""
    return str(error).partition(": ")[0]


def writer(
    optimizers: Sequence[Any], lrs: Sequence[float], scheduler: Any = None, within: int | None = None
) -> Callable[[], None]:
    """What writes the rates once it is called; see ``write_rates``, whose errors are raised here."""
    groups = [group for each in optimizers for group in each.param_groups]
    _check_groups(optimizers, groups, lrs, scheduler)
    optimizer = optimizers[0]
    schedulers = [] if scheduler is None else flattened(unwrapped(scheduler))
    for each in schedulers:
        _check_scheduler(each, optimizer)
    if len(schedulers) == 1 and (kept := kept_peaks(schedulers[0], within)):
        return partial(_scale, schedulers[0], optimizer, [lr / peak for lr, peak in zip(lrs, kept, strict=True)])
    bases = _bases(schedulers[0], lrs, within) if schedulers else lrs
    return partial(_write_bases, groups, bases, schedulers)


def _write_bases(groups: Sequence[Any], bases: Sequence[float], schedulers: Sequence[Any]) -> None:
    if not schedulers and any("initial_lr" in group for group in groups):
        logger.warning(
            "the optimizer has a scheduler, which may write its own rate over this one: give it to apply(), or "
            "build it anew after it"
        )
    for group, base in zip(groups, bases, strict=True):
        share = _share(group) if schedulers else 1.0
        _write(group, "lr", base * share)
        if "initial_lr" in group:
            _write(group, "initial_lr", base)
    for each in schedulers:
        for i, base in enumerate(bases):
            if hasattr(each, "base_lrs"):
                _write(each.base_lrs, i, base)
        each._last_lr = [float(group["lr"]) for group in groups]  # noqa: SLF001 - a scheduler has no public name for it


def _check_groups(optimizers: Sequence[Any], groups: Sequence[Any], lrs: Sequence[float], scheduler: Any) -> None:
    if len(optimizers) > 1 and scheduler is not None:
        raise OptimizerError(
            "a scheduler drives one optimizer, and several are given: call finding.apply(optimizers), and build their "
            "schedulers after it"
        )
    if len(groups) != len(lrs):
        raise OptimizerError(
            f"the optimizer has {len(groups)} param groups, and what was swept had {len(lrs)}: apply the Finding to an "
            "optimizer with the same groups, or to the list of those that were swept together"
        )


def _scale(scheduler: Any, optimizer: Any, by: Sequence[float]) -> None:
    """Multiply all rates of each group that a scheduler goes by, which are shares of its peak."""
    for i, (group, factor) in enumerate(zip(optimizer.param_groups, by, strict=True)):
        for key in {"lr", "initial_lr", "max_lr", "min_lr"} & group.keys():
            _write(group, key, float(group[key]) * factor)
        for rates in (scheduler.base_lrs, getattr(scheduler, "max_lrs", None)):
            if rates is not None:
                _write(rates, i, float(rates[i]) * factor)
    scheduler._last_lr = [float(group["lr"]) for group in optimizer.param_groups]  # noqa: SLF001 - as above


def _check_scheduler(scheduler: Any, optimizer: Any) -> None:
    name = type(scheduler).__name__
    driven = getattr(scheduler, "optimizer", optimizer)
    if driven is not optimizer and driven is not getattr(optimizer, "optimizer", None):
        raise OptimizerError(f"the {name} is attached to another optimizer: give the one that it drives")
    groups = optimizer.param_groups
    if any("swa_lr" in group for group in groups):
        raise OptimizerError(f"a {name} anneals to a rate of its own: build it anew after finding.apply(optimizer)")
    has_begun = getattr(scheduler, "eta_min", 0) and getattr(scheduler, "last_epoch", 0) > 0
    if has_begun and not all(math.isclose(_share(group), 1.0) for group in groups):
        raise OptimizerError(
            f"this {name} is on its way to eta_min={scheduler.eta_min:g}, and a new peak would change its curve: "
            "build it anew after finding.apply(optimizer)"
        )
    if not any(hasattr(scheduler, known) for known in ("base_lrs", "_schedulers", "min_lrs")):
        raise OptimizerError(
            f"a {name} has no base_lrs to write: call finding.apply(optimizer), and build it anew after it, "
            f"{name}(optimizer, ...)"
        )


def _bases(scheduler: Any, lrs: Sequence[float], within: int | None) -> Sequence[float]:
    """The base rates under which a scheduler peaks at ``lrs``; tried on a copy."""
    if follows_metric(scheduler):  # it starts at its peak
        return lrs
    name = type(scheduler).__name__
    highest = peaks(scheduler, lrs, within)
    if highest is None:
        raise OptimizerError(
            f"the rates of this {name} rise without an end, so it has no peak to put at the suggested rate: give one "
            "that stops rising, such as LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup_steps))"
        )
    if highest == list(lrs):
        return lrs
    bases = [lr * (lr / peak) if peak else lr for lr, peak in zip(lrs, highest, strict=True)]
    again = peaks(scheduler, bases, within)
    off = again is None or not all(
        peak == 0 or math.isclose(peak, lr, rel_tol=1e-3) for lr, peak in zip(lrs, again, strict=True)
    )
    if off or not any(highest):
        raise OptimizerError(
            f"this {name} peaks at {max(highest):.3g} and not at the suggested {max(lrs):.3g}, whatever its base rate "
            "is: call finding.apply(optimizer), and then build one whose highest factor of the optimizer's rate is 1, "
            "LambdaLR(optimizer, lambda step: factor(step) / highest_factor)"
        )
    return bases


def _share(group: Mapping[str, Any]) -> float:
    """The group's rate as a share of the one that its scheduler started from."""
    base = float(group.get("initial_lr", group["lr"]))
    return float(group["lr"]) / base if base else 1.0


def _write(container: Any, key: Any, value: float) -> None:
    if hasattr(container[key], "fill_"):
        container[key].fill_(value)  # a tensor rate: graphs and compiled steps hold on to it
    else:
        container[key] = value
