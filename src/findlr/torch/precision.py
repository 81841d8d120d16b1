"""Mixed precision and compiled code: a step through a gradient scaler, and whether it was taken; no new graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from findlr.errors import ConfigurationError
from findlr.torch.rates import needs_closure

_ZERO_GRAD = torch.optim.Optimizer.zero_grad  # as torch has it; somebody may put another in its place


class Stepper:
    """Takes an optimizer's steps, through a gradient scaler if there is one, and tells which were taken.

    An optimizer whose kernel is fused skips inside it, so that its hooks run all the same; whether it did is on the
    device, in ``found_inf``.

    Args:
        optimizer: of any kind; one that takes a closure can have no scaler.
        scaler: a ``torch.amp.GradScaler``, or None.

    Raises:
        ConfigurationError: ``scaler`` is no GradScaler, or the optimizer takes a closure.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scaler: GradScaler | None) -> None:
        if not (scaler is None or isinstance(scaler, GradScaler)):
            raise ConfigurationError(f"scaler must be a torch.amp.GradScaler, got {type(scaler).__name__}")
        if scaler is not None and needs_closure(optimizer):
            raise ConfigurationError(
                f"a GradScaler can't step {type(optimizer).__name__}, which takes a closure: leave scaler out"
            )
        self.skipped: torch.Tensor | None = None
        self._optimizer, self._scaler = optimizer, scaler
        self._ran = False

    def zero_grad(self) -> None:
        """Drop the gradients: torch's own call leaves a mark for the profiler, which takes many times as long."""
        optimizer = self._optimizer
        if "zero_grad" in vars(optimizer) or type(optimizer).zero_grad is not _ZERO_GRAD:
            optimizer.zero_grad()
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of the loss, scaled."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]

    def unscale(self) -> None:
        """Take the scale out of the gradients, so that they can be clipped; once before each step."""
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)

    def step(self) -> bool:
        """Step; return whether the optimizer ran. If it is fused, ``skipped`` is above 0 where it ran and skipped."""
        if self._scaler is None:
            self._optimizer.step()
            return True
        self._ran, self.skipped = False, None
        hook = self._optimizer.register_step_post_hook(self._after_step)
        try:
            self._scaler.step(self._optimizer)
        finally:
            hook.remove()
        self._scaler.update()
        return self._ran

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._ran, self.skipped = True, found_inf(optimizer)


def found_inf(optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
    """Within a step that a scaler drives: above 0 if a fused kernel skips it; None if it isn't fused."""
    return getattr(optimizer, "found_inf", None)


@contextmanager
def attempts_counted(scaler: GradScaler, optimizer: torch.optim.Optimizer, count: Callable[[], None]) -> Iterator[None]:
    """Call ``count`` each time that ``scaler`` is asked to step ``optimizer``; a skipped step runs no hook."""
    step = scaler.step

    def counted(stepped: torch.optim.Optimizer, *args: Any, **how: Any) -> float | None:
        if stepped is optimizer:
            count()
        return step(stepped, *args, **how)

    scaler.step = counted  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        vars(scaler).pop("step")


def no_new_graphs() -> AbstractContextManager[None]:
    """Use the graphs that torch.compile has made, and make none: what has no graph for the case at hand runs eagerly.

    A rate that changes at each step would compile some optimizers again and again, up to a limit past which torch
    compiles them no more, in the training that follows either.

    Returns:
        A context manager that can be entered again and again, but not within itself; leaving it goes back to the stance
        of when it was made.
    """
    stance = torch.compiler.set_stance("eager_on_recompile")
    stance.__exit__(None, None, None)  # torch's holds from when it is made; to make one anew at each step costs more
    return stance  # type: ignore[no-any-return]


def may_compile(modules: Iterable[nn.Module], criterion: Any, optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step may make a graph for its rate, or the first one of compiled code.

    Not where the optimizer is torch's own, with its own step, and neither the modules nor the criterion are compiled:
    then no compiled code sees the rate, and any that a forward pass may call makes the graphs that the
    training would make.

    Args:
        modules: whose forward passes are in the step.
        criterion: of the outputs; None is a function of the user's own in its place, which may call anything.
        optimizer: takes the step.
    """
    if not type(optimizer).__module__.startswith("torch.optim.") or "step" in vars(optimizer):
        return True
    if criterion is None or hasattr(criterion, "_torchdynamo_orig_callable"):
        return True
    inner = chain.from_iterable(module.modules() for module in modules)
    return any(type(m).__name__ == "OptimizedModule" or m._compiled_call_impl is not None for m in inner)
