"""Optimizers that want more than the gradients of one pass: a closure, or gradients that can be differentiated again.

Their signatures do not tell: SAM takes ``closure=None`` and asserts that there is one, AdaHessian raises. So the first
step is tried as usual, and what it raises says what is wanted.
"""

# ruff: noqa: SLF001 - whether a tensor was written to, torch tells by a private name only

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import optim

from findlr.analysis.text import told
from findlr.errors import OptimizerError
from findlr.torch.rates import parameters_of, takes_closure

Loss = float | torch.Tensor


def wanted(
    optimizers: list[optim.Optimizer], error: Exception, versions: list[int], *, scaled: bool
) -> Literal["closure", "graph"]:
    """What to step with in place of a call of ``step`` that has failed.

    Args:
        optimizers: those that were stepped.
        error: what the step raised.
        versions: of the parameters, before it.
        scaled: a gradient scaler drives the steps.

    Raises:
        OptimizerError: something is wanted that can't be given; it says what to do.
        Exception: the step's own error, if it asks for nothing.
    """
    has_moved, text = versions != versions_of(optimizers), told(error, 10_000).lower()
    graph = isinstance(error, RuntimeError) and any(each in text for each in ("create_graph", "grad_fn"))
    asserted = isinstance(error, AssertionError)  # often without a word
    no_call = isinstance(error, TypeError) and "'nonetype' object is not callable" in text
    closure = "closure" in text or asserted or no_call
    lacks = isinstance(error, TypeError) and "missing" in text and "step()" in text
    takes = [takes_closure(each) for each in optimizers]
    if asserted and not any(takes):
        raise error
    if not (graph or closure or lacks or isinstance(error, NotImplementedError)):
        raise error
    if has_moved and asserted:  # of something else, perhaps
        raise error
    name, alone = type(optimizers[0]).__name__, len(optimizers) == 1
    if alone and not scaled and not has_moved and (graph or (closure and takes[0])):
        return "graph" if graph else "closure"
    wants = "gradients with a graph" if graph else "a closure" if closure else "more than a call of step()"
    why = "" if alone else ", and several are swept together"
    why = ", which a GradScaler can't step" if scaled else why
    why = ", and fails without it once it has moved the weights" if has_moved else why
    raise OptimizerError(
        f"{', '.join(type(each).__name__ for each in optimizers)}: a step wants {wants}{why} "
        f"({told(error)}): take the whole step in train_step=, or in a RangeTest's loop, and "
        f"give the optimizer whose step() that calls, {name}'s base optimizer say"
    ) from error


def versions_of(optimizers: Iterable[optim.Optimizer]) -> list[int]:
    """The version counters of the parameters: they tell whether these were written to."""
    return [p._version for p in parameters_of(optimizers)]


def closure_step(optimizer: optim.Optimizer, backward: Callable[[], Loss]) -> Loss:
    """Step by a closure, with gradients made before: SAM wants them so, and L-BFGS is saved its first pass.

    Args:
        optimizer: the one to step.
        backward: makes the gradients of the step's batches, and returns their loss; called again as often as the
            optimizer calls its closure with other weights or gradients.
    """
    first = backward()
    made = _gradients(optimizer)

    def closure(*_: Any, **__: Any) -> Any:
        nonlocal made
        if made is not None and _gradients(optimizer) == made:
            loss = first
        else:
            with torch.enable_grad():
                loss = backward()
        made = None
        return loss if isinstance(loss, torch.Tensor) else torch.tensor(loss, dtype=torch.float64)

    optimizer.step(closure)
    return first


def _gradients(optimizer: optim.Optimizer) -> list[Any] | None:
    """Which gradients and weights there are, by their identities and versions."""
    parameters = parameters_of([optimizer])
    return [(p._version, id(p.grad), None if p.grad is None else p.grad._version) for p in parameters]


def gradients_with_graph(loss: torch.Tensor, optimizers: Iterable[optim.Optimizer]) -> None:
    """Add gradients that can be differentiated again; not by ``backward``, which would leave a cycle of references."""
    parameters = [p for p in parameters_of(optimizers) if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    for parameter, gradient in zip(parameters, found, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
