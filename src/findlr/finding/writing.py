"""What a Finding does to an optimizer: PyTorch's objects by their attributes, so that nothing is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from findlr.errors import OptimizerError


def write_rates(optimizer: Any, lrs: Sequence[float], scheduler: Any = None) -> None:
    """Write a rate per param group, as if the optimizer and its scheduler had been built with them.

    Args:
        optimizer: a PyTorch optimizer.
        lrs: the base rate of each group.
        scheduler: a PyTorch scheduler on ``optimizer``, or None.

    Raises:
        OptimizerError: the groups differ in number, or the scheduler's rates cannot be written; nothing is changed.
    """
    groups = optimizer.param_groups
    if len(groups) != len(lrs):
        raise OptimizerError(
            f"the optimizer has {len(groups)} param groups, and the one that was swept had {len(lrs)}: "
            "apply the Finding to an optimizer with the same groups"
        )
    schedulers = [] if scheduler is None else _flattened(scheduler)
    for each in schedulers:
        _check_scheduler(each, optimizer)
    if not schedulers and any("initial_lr" in group for group in groups):
        import logging  # here, for `import findlr` to cost little more than NumPy

        logging.getLogger("findlr").warning(
            "the optimizer has a scheduler, which may write its own rate over this one: give it to apply()"
        )
    for group, lr in zip(groups, lrs, strict=True):
        share = _share(group) if schedulers else 1.0
        _write(group, "lr", lr * share)
        if "initial_lr" in group:
            _write(group, "initial_lr", lr)
    for each in schedulers:
        for i, lr in enumerate(lrs):
            if hasattr(each, "base_lrs"):
                _write(each.base_lrs, i, lr)
        each._last_lr = [float(group["lr"]) for group in groups]


def _flattened(scheduler: Any) -> list[Any]:
    inner = getattr(scheduler, "_schedulers", ())
    return [scheduler, *(deep for each in inner for deep in _flattened(each))]


def _check_scheduler(scheduler: Any, optimizer: Any) -> None:
    name = type(scheduler).__name__
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise OptimizerError(f"the {name} is attached to another optimizer: give the one that it drives")
    groups = optimizer.param_groups
    if any("max_lr" in group for group in groups) or hasattr(scheduler, "max_lrs"):
        raise OptimizerError(f"a {name} keeps its own peak rates: build it anew with max_lr=finding.lr")
    if any("swa_lr" in group for group in groups):
        raise OptimizerError(f"a {name} anneals to a rate of its own: build it anew after finding.apply(optimizer)")
    if getattr(scheduler, "eta_min", 0) and any(_share(group) != 1.0 for group in groups):
        raise OptimizerError(
            f"this {name} is on its way to eta_min={scheduler.eta_min:g}, and a new peak would change its curve: "
            "build it anew after finding.apply(optimizer)"
        )
    if not any(hasattr(scheduler, known) for known in ("base_lrs", "_schedulers", "min_lrs")):
        raise OptimizerError(f"a {name} has no base_lrs to write: build it anew after finding.apply(optimizer)")


def _share(group: Mapping[str, Any]) -> float:
    """The group's rate as a share of the one that its scheduler started from."""
    base = float(group.get("initial_lr", group["lr"]))
    return float(group["lr"]) / base if base else 1.0


def _write(container: Any, key: Any, value: float) -> None:
    if hasattr(container[key], "fill_"):
        container[key].fill_(value)  # a tensor rate: graphs and compiled steps hold on to it
    else:
        container[key] = value
