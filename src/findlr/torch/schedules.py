"""PyTorch's own schedulers, made from a Finding."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from findlr.analysis.given import of_kind
from findlr.errors import OptimizerError
from findlr.finding import Finding
from findlr.finding.given import the_finding
from findlr.torch.arguments import check_counts


def one_cycle(finding: Finding, optimizer: torch.optim.Optimizer, total_steps: int) -> OneCycleLR:
    """A one-cycle schedule with its peak at the suggested rate, momentum held.

    Its shape is the one that ``schedule="one_cycle"`` plans. PyTorch cycles the momentum unless told otherwise, and
    gives plain SGD one; here, as in the race, the optimizer keeps its own.

    Args:
        finding: with a suggestion, best found with ``schedule="one_cycle"``.
        optimizer: the optimizer to drive; its rates are overwritten.
        total_steps: optimizer steps of the training, at least 1.

    Returns:
        The scheduler; call its ``step()`` after each optimizer step.

    Raises:
        ConfigurationError: an argument is of another kind, or the number of steps is none.
        NoSuggestionError: the Finding has no suggestion.
        OptimizerError: the optimizer has another number of groups than the one that was swept.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> finding = find(Quadratic())
        >>> scheduler = one_cycle(finding, optimizer, total_steps=1000)
        >>> round(optimizer.param_groups[0]["lr"] / finding.lr, 3)
        0.04

    Source: Smith 2018 (arXiv:1803.09820).
    """
    peaks, steps = _lrs(finding, optimizer), _steps("total_steps", total_steps)
    return OneCycleLR(optimizer, max_lr=peaks, total_steps=steps, cycle_momentum=False)


def cyclic(finding: Finding, optimizer: torch.optim.Optimizer, steps_up: int) -> CyclicLR:
    """A triangular cyclic schedule from a quarter of the suggested rate up to it and back, momentum held.

    Args:
        finding: with a suggestion.
        optimizer: the optimizer to drive; its rates are overwritten.
        steps_up: steps of half a cycle; Smith takes 2 to 10 epochs' worth.

    Returns:
        The scheduler; call its ``step()`` after each optimizer step.

    Raises:
        ConfigurationError: an argument is of another kind, or the number of steps is none.
        NoSuggestionError: the Finding has no suggestion.
        OptimizerError: the optimizer has another number of groups than the one that was swept.

    Source: Smith 2015 (arXiv:1506.01186); base = max / 4: Smith 2018 (arXiv:1803.09820, a third to a quarter).
    """
    peaks, steps = _lrs(finding, optimizer), _steps("steps_up", steps_up)
    return CyclicLR(optimizer, [lr / 4 for lr in peaks], peaks, step_size_up=steps, cycle_momentum=False)


def _steps(name: str, given: Any) -> int:
    check_counts(**{name: given})
    return int(given)  # one of NumPy's, too, which PyTorch refuses


def _lrs(finding: Finding, optimizer: torch.optim.Optimizer) -> list[float]:
    of_kind(optimizer, torch.optim.Optimizer, "optimizer", "give the one that the schedule drives")
    lrs = list(the_finding(finding).lrs)
    if len(lrs) != len(optimizer.param_groups):
        raise OptimizerError(
            f"the optimizer has {len(optimizer.param_groups)} param groups, and the one that was swept had {len(lrs)}: "
            "give one with the same groups"
        )
    return lrs
